"""Training: one step, one epoch. No files here; run.py decides when to save, validate and stop.

The way of a batch: sample indices -> the hardest of them, where asked for -> uint8 images -> augmentation -> image side
of the moment -> network -> loss -> gradients of all processes -> finite? -> update -> average.

Shapes: N training images, B images a batch, K classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pocket_resnet.data.augment import Augmenter, Targets, resize, to_float
from pocket_resnet.data.batches import Steps, epoch_order
from pocket_resnet.data.source import Split
from pocket_resnet.device import Hardware, sent
from pocket_resnet.errors import NonFiniteError
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.seeds import derive
from pocket_resnet.training.distributed import ALONE, Processes, with_global_norms
from pocket_resnet.training.ema import Average, decay_of
from pocket_resnet.training.optim import Optimizer
from pocket_resnet.training.schedule import image_side, lr_factor
from pocket_resnet.training.selection import Selection
from pocket_resnet.training.teacher import Teacher, distillation_loss

NEVER = 2**62  # a step that no run reaches
NORM_BATCH = 500  # images of a forward pass that measures batch-norm statistics
TEACHER_BATCH = 1000  # images that a teacher answers at once
STEPS_AHEAD = 16  # whose images a GPU augments at once: a batch is too small for it, and each launch takes time


@dataclass(frozen=True)
class EpochTotals:
    """What an epoch's steps so far added up to; accuracy is on augmented images."""

    loss: float
    accuracy: float
    num_images: int


class Trainer:
    """A network being trained. Its whole state is `step`, `tensors()` and nothing else."""

    def __init__(
        self,
        model: ResNet,
        recipe: Recipe,
        train: Split,
        hardware: Hardware,
        processes: Processes = ALONE,
        teacher: Teacher | None = None,
    ) -> None:
        self.teacher = teacher
        self.model, self.recipe, self.hardware, self.processes = model, recipe, hardware, processes
        if processes.world_size > 1:
            with_global_norms(model)
        self.images_NCHW = train.images_NCHW.to(hardware.device)
        self.labels_N = train.labels_N.to(hardware.device)
        self.forward: Callable[[Tensor], Tensor] = compiled(model, hardware) if recipe.hardware.compile else model
        self.optimizer = Optimizer(model, recipe.optim)
        fill_C = (model.normalize.mean.flatten() * 255).round().to(torch.uint8)
        self.augmenter = Augmenter(recipe.augment, len(train), recipe.data_seed, fill_C)
        self.selection = Selection(len(train), hardware.device) if recipe.hardest < 1 else None
        self.steps = Steps(len(train), recipe)
        self.steps_per_epoch, self.num_steps = self.steps.per_epoch, self.steps.total
        self.average = Average(model, decay_of(recipe.ema, self.num_steps))
        self.step = 0
        exact = torch.float32 if hardware.device.type == "mps" else torch.float64
        self.totals_3 = torch.zeros(3, dtype=exact, device=hardware.device)  # loss, hits, images of the epoch so far
        self.bad_step = torch.tensor(NEVER, device=hardware.device)  # the first with a loss or gradient not finite
        self._drawn_epoch = self._answered_epoch = -1
        # The hardest images of a step are known only when it comes.
        self.steps_ahead = STEPS_AHEAD if hardware.is_asynchronous and not self.selection else 1
        self._ahead: dict[int, Tensor] = {}

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.step // self.steps_per_epoch

    def lr(self, step: int) -> float:
        """SGD's learning rate at that optimizer step (from 0), before any group's scale."""
        return self.recipe.optim.lr * self.lr_factor(step)

    def lr_factor(self, step: int) -> float:
        """The share of every peak learning rate at that step."""
        return lr_factor(self.recipe.schedule, step, self.num_steps, self.steps_per_epoch)

    def side(self, step: int) -> int:
        """The image side in pixels at that step."""
        return image_side(self.recipe.resolutions, self.recipe.model.image_size, step, self.num_steps)

    def next_batch(self) -> tuple[Tensor, Targets]:
        """The next step's images, and what they should be called."""
        self._indices_B = self.indices(self.step)
        return self._images(self._indices_B, self.step)

    def indices(self, step: int) -> Tensor:
        """The samples of any step, int64 [B] on the CPU; where only the hardest are trained, as losses are now."""
        self._draw(step // self.steps_per_epoch)
        candidates_C = self.steps.candidates(self.order_N, step)
        return self.selection(candidates_C, self.steps.num_trained(step)) if self.selection else candidates_C

    def _draw(self, epoch: int) -> None:
        """Have the order and the augmentation of that epoch."""
        if epoch != self._drawn_epoch:
            self.order_N = epoch_order(len(self.labels_N), self.recipe.data_seed, epoch)
            self.augmenter.begin_epoch(self._views_of(epoch))
            self._drawn_epoch = epoch

    def _views_of(self, epoch: int) -> int:
        """The epoch whose augmentation that epoch has: a teacher's epochs repeat."""
        return epoch if self.teacher is None else epoch % self.recipe.teacher.epochs

    def _teacher_probabilities(self, indices_B: Tensor, epoch: int) -> Tensor | None:
        """The teacher's probabilities for those samples as augmented in that epoch, float [B, K]."""
        if self.teacher is None:
            return None
        if epoch != self._answered_epoch:
            self._draw(epoch)
            self.teacher_logits_NK = self.teacher.logits(self._views_of(epoch), len(self.labels_N), self._views)
            self._answered_epoch = epoch
        logits_BK = self.teacher_logits_NK[sent(indices_B, self.labels_N.device)]
        return (logits_BK / self.recipe.teacher.temperature).softmax(1)

    def _views(self) -> Iterator[Tensor]:
        """Every sample, in order, augmented as in the drawn epoch but unmixed: uint8 [B, C, H, W]."""
        for indices_B in torch.split(torch.arange(len(self.labels_N)), TEACHER_BATCH):
            images_BCHW = self.images_NCHW.index_select(0, sent(indices_B, self.images_NCHW.device))
            yield self.augmenter(images_BCHW, indices_B)

    def batches_for_norms(self, indices_M: Tensor) -> Iterator[Tensor]:
        """These samples augmented as in the epoch of the last step, but unmixed and at full size: float [B, C, H, W].

        Fewer than two samples are none: a norm has nothing to compare one with.
        """
        self._draw(max(0, self.step - 1) // self.steps_per_epoch)
        num_batches = -(-len(indices_M) // NORM_BATCH) if len(indices_M) > 1 else 0
        for indices_B in torch.tensor_split(indices_M, num_batches) if num_batches else ():
            images_BCHW = self.images_NCHW.index_select(0, sent(indices_B, self.images_NCHW.device))
            x_BCHW = resize(self.augmenter(images_BCHW, indices_B), self.recipe.model.image_size)
            yield to_float(x_BCHW, self.hardware.memory_format)

    def batch(self, step: int) -> tuple[Tensor, Targets]:
        """The images of any step, float [B, C, side, side] on the 0..1 scale, and what they should be called."""
        return self._images(self.indices(step), step)

    def _images(self, indices_B: Tensor, step: int) -> tuple[Tensor, Targets]:
        """Those samples, augmented as in that step's epoch and of its side."""
        x_BCHW = self._augmented_ahead(step) if self.steps_ahead > 1 else self._augmented(indices_B, step)
        labels_B = self.labels_N[sent(indices_B, self.labels_N.device)]
        teacher_BK = self._teacher_probabilities(indices_B, step // self.steps_per_epoch)
        return self.augmenter.mix(to_float(x_BCHW, self.hardware.memory_format), labels_B, step, teacher_BK)

    def _augmented(self, indices_B: Tensor, step: int) -> Tensor:
        """Samples of that step's epoch, augmented and at its image size: uint8 [B, C, H, W]."""
        visit_B = self.selection.visits_N[indices_B] if self.selection else None
        images_BCHW = self.images_NCHW.index_select(0, sent(indices_B, self.images_NCHW.device))
        return resize(self.augmenter(images_BCHW, indices_B, visit_B), self.side(step))

    def _augmented_ahead(self, step: int) -> Tensor:
        """The step's images out of those of several steps, which are augmented together."""
        if step not in self._ahead:
            stop = min(step + self.steps_ahead, (step // self.steps_per_epoch + 1) * self.steps_per_epoch)
            steps = [ahead for ahead in range(step, stop) if self.side(ahead) == self.side(step)]
            indices = [self.indices(ahead) for ahead in steps]
            parts = torch.split(self._augmented(torch.cat(indices), step), [len(part_B) for part_B in indices])
            self._ahead = dict(zip(steps, parts, strict=True))
        return self._ahead[step]

    def train_step(self) -> int:
        """One optimizer step, and of how many images.

        Raises NonFiniteError before anything is applied where loss or gradient is not finite. On a GPU nothing here
        waits for the device, but for the choice of the hardest: there the error comes from the next
        `refuse_non_finite`.
        """
        whole_BCHW, whole_targets = self.next_batch()
        x_BCHW, targets = self.processes.part(whole_BCHW), whole_targets.part(self.processes.part)
        if not self.model.training:  # asked first: to set it takes 1.5 ms of a step that takes a GPU 5
            self.model.train()
        torch.manual_seed(derive(self.recipe.seed, "drops", self.step))  # dropout, stochastic depth
        self.optimizer.set_lr_factor(self.lr_factor(self.step))
        with self.hardware.autocast():
            logits_BK = self.forward(x_BCHW)
        logits_BK = logits_BK.float()
        here = len(x_BCHW) / len(whole_BCHW)  # 1 unless other processes have parts of the batch
        loss = here * self._loss(logits_BK, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        loss, hits = loss.detach(), (logits_BK.detach().argmax(1) == targets.labels_B).sum().float()
        self.processes.sum([loss, hits, *self.optimizer.gradients()])
        self._note_non_finite(loss)
        if self.selection:
            self._note_losses(self.selection, logits_BK.detach(), targets.labels_B, len(whole_BCHW))
        self.optimizer.step(self.step)
        self.optimizer.zero_grad()
        self.average.update(self.step)
        num_images = len(whole_BCHW)
        counted = torch.stack((loss * num_images, hits, torch.full_like(hits, num_images)))
        self.totals_3 += counted.to(self.totals_3.dtype)
        self.step += 1
        return num_images

    def _loss(self, logits_BK: Tensor, targets: Targets) -> Tensor:
        """Mean loss against the labels, or the teacher, or both; a scalar."""
        if targets.teacher_BK is None:
            return mixed_cross_entropy(logits_BK, targets, self.recipe.label_smoothing)
        weight = self.recipe.teacher.weight
        loss = weight * distillation_loss(logits_BK, targets.teacher_BK, self.recipe.teacher.temperature)
        if weight < 1:
            loss = loss + (1 - weight) * mixed_cross_entropy(logits_BK, targets, self.recipe.label_smoothing)
        return loss

    def _note_losses(self, selection: Selection, logits_BK: Tensor, labels_B: Tensor, num_images: int) -> None:
        """Tell the selection what the images of this step cost, each process those of its part."""
        loss_B = torch.zeros(num_images, device=logits_BK.device)
        self.processes.part(loss_B).copy_(F.cross_entropy(logits_BK, labels_B, reduction="none"))
        self.processes.sum([loss_B])
        selection.note(self._indices_B, loss_B)

    def _note_non_finite(self, loss: Tensor) -> None:
        norm = self.optimizer.gradient_norm()
        finite = torch.isfinite(loss + norm)
        if self.hardware.is_asynchronous:
            self.bad_step = torch.where(finite, self.bad_step, self.bad_step.clamp(max=self.step))
        elif not finite:
            what = f"stopped before applying it: loss {loss.item():g}, gradient norm {norm.item():g}"
            raise NonFiniteError(what, where=self._where(self.step))

    def refuse_non_finite(self) -> None:
        """Raise NonFiniteError where a loss or gradient on the device was not finite; waits for it."""
        if self.hardware.is_asynchronous and (step := int(self.bad_step)) != NEVER:
            raise NonFiniteError("nothing of it is saved: loss or gradient", where=self._where(step))

    def refuse_non_finite_state(self) -> None:
        """Raise NonFiniteError where that, or any tensor that would be saved, is not finite; waits for the device."""
        self.refuse_non_finite()
        if (name := first_non_finite(self.tensors())) is not None:
            where = f"step {self.step}, lr {self.lr(self.step - 1):.4g}"
            raise NonFiniteError(f"stopped before saving it: {name}", where=where)

    def _where(self, step: int) -> str:
        return f"step {step}, lr {self.lr(step):.4g}"

    def epoch_totals(self) -> EpochTotals:
        """Means over the epoch so far; waits for the device."""
        loss, hits, num_images = self.totals_3.tolist()
        return EpochTotals(loss / max(1, num_images), hits / max(1, num_images), int(num_images))

    def epoch_record(self) -> dict[str, Any]:
        """What metrics.jsonl tells of the epoch's steps so far; waits for the device."""
        totals, last = self.epoch_totals(), self.step - 1
        numbers = {"step": self.step, "epoch": last // self.steps_per_epoch + 1, "lr": self.lr(last)}
        return numbers | {"train_loss": totals.loss, "train_accuracy": totals.accuracy}

    def end_epoch(self) -> None:
        """Start counting anew."""
        self.totals_3.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """The whole state but for `step`: network, optimizer, average, last losses, the epoch's totals."""
        parts = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.tensors(),
            "ema": self.average.tensors(),
            "selection": self.selection.tensors() if self.selection else {},
            "epoch": {"totals": self.totals_3},
        }
        return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}

    def totals_fit_step(self) -> bool:
        """Whether the epoch's totals are of as many images as its steps so far train."""
        first = self.step - self.step % self.steps_per_epoch
        return int(self.totals_3[2]) == sum(map(self.steps.num_trained, range(first, self.step)))

    def load_tensors(self, tensors: dict[str, Tensor], step: int) -> None:
        """Go back to a saved state."""
        names = ("model", "optimizer", "ema", "selection", "epoch")
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in names}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_tensors(parts["optimizer"])
        self.average.load_tensors(parts["ema"])
        if self.selection:
            self.selection.load_tensors(parts["selection"])
        self.totals_3.copy_(parts["epoch"]["totals"])
        self.step = step


def compiled(model: ResNet, hardware: Hardware) -> Callable[[Tensor], Tensor]:
    """The network compiled, one graph for each image size; on a GPU its kernels are launched together.

    Launched one by one they take 18 ms of Python a step, twice the time that the GPU needs for them (docs/log.md).
    """
    mode = "reduce-overhead" if hardware.device.type == "cuda" else "default"
    return torch.compile(model, dynamic=False, mode=mode)


def mixed_cross_entropy(logits_BK: Tensor, targets: Targets, label_smoothing: float) -> Tensor:
    """Mean cross-entropy against two labels an image, weighted by how much of it is which; a scalar."""
    loss = F.cross_entropy(logits_BK, targets.labels_B, label_smoothing=label_smoothing)
    if targets.share == 1:
        return loss
    other = F.cross_entropy(logits_BK, targets.others_B, label_smoothing=label_smoothing)
    return targets.share * loss + (1 - targets.share) * other


def first_non_finite(tensors: dict[str, Tensor]) -> str | None:
    """The name of the first tensor with NaN or infinity in it."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return name
    return None
