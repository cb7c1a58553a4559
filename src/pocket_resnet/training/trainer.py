"""Training steps, without files; run.py decides when to save, validate and stop.

A step: batch from the loader -> network -> loss -> gradients of all processes -> finite? -> update -> average.

Shapes: B images per batch, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocket_resnet.data.augment import Targets
from pocket_resnet.data.loader import Batch, Loader
from pocket_resnet.device import Hardware
from pocket_resnet.errors import NonFiniteError
from pocket_resnet.model.conv3x3 import Mode, allow_algorithms
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.seeds import derive
from pocket_resnet.training.distributed import ALONE, DataParallel, Processes
from pocket_resnet.training.ema import Ema, decay_of
from pocket_resnet.training.optim import Optimizer
from pocket_resnet.training.schedule import lr_factor
from pocket_resnet.training.teacher import distillation_loss

NEVER = 2**62  # a step that no run reaches
CHECK_EVERY = 200  # steps between looks at whether losses and gradients on a GPU are finite; each waits for it
NUM_TOTALS = 3  # in a step's report: loss, hits, processes that have caught a signal


@dataclass(frozen=True)
class EpochTotals:
    """Means over an epoch's steps so far; accuracy is on augmented images."""

    loss: float
    accuracy: float
    num_images: int


class Trainer:
    """A network in training. Its whole state is `step` and `tensors()`."""

    def __init__(self, model: ResNet, loader: Loader, processes: Processes = ALONE) -> None:
        """`model` is on the loader's device."""
        self.model, self.loader, self.processes = model, loader, processes
        self.recipe, self.hardware, self.steps = loader.recipe, loader.hardware, loader.steps
        winograd_in: Mode | None = "training" if self.hardware.winograd else None
        allow_algorithms(model, winograd_in=winograd_in, side_by_side=self.hardware.side_by_side)
        network = compiled(model, self.hardware) if self.recipe.hardware.compile else model
        num_losses = 0 if loader.selection is None else self.steps.num_candidates
        self.parallel = DataParallel(model, network, NUM_TOTALS + num_losses, processes)
        self.optimizer = Optimizer(model, self.recipe.optim)
        of_body = {parameter for part in model.body() for parameter in part.parameters()}
        self.body_params = [parameter for parameter in self.optimizer.params if parameter in of_body]
        self.body_is_frozen: bool | None = None  # None before the first step
        self.ema = Ema(model, decay_of(self.recipe.ema, self.steps.total))
        self.class_weights_K: Tensor | None = None
        if self.recipe.class_weights == "balanced":
            self.class_weights_K = balanced_weights(loader.labels_N, model.spec.num_classes)
        self.step = 0
        device = self.hardware.device
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.totals_3 = torch.zeros(3, dtype=exact, device=device)  # loss, hits, images of the epoch so far
        self.bad_step = torch.tensor(NEVER, device=device)  # the first step with a loss or gradient that is not finite
        self.num_signalled = torch.zeros((), device=device)  # processes that had caught a signal by the last step

    def lr(self, step: int) -> float:
        """SGD's learning rate at that optimizer step (from 0), before any group's scale."""
        return self.recipe.optim.lr * self.lr_factor(step)

    def lr_factor(self, step: int) -> float:
        """The share of every peak learning rate at that step."""
        return lr_factor(self.recipe.schedule, step, self.steps.total, self.steps.per_epoch)

    def train_step(self, signals: Sequence[int] = ()) -> int:
        """Run one optimizer step, and return its number of images.

        `signals` are those that this process has caught; afterwards, `num_signalled` processes have caught one.
        Raises NonFiniteError before the update if loss or gradient is not finite; on a GPU, where looking waits for the
        device, up to CHECK_EVERY steps later.
        """
        batch = self.loader.batch(self.step)
        self._set_mode(frozen=self.steps.is_frozen(self.step))
        torch.manual_seed(derive(self.recipe.seed, "drops", self.step))  # dropout and drop path
        with self.hardware.autocast():
            logits_BK = self.parallel.forward(batch.x_BCHW, len(batch))
        logits_BK = logits_BK.float()
        own_fraction = len(batch.x_BCHW) / len(batch)  # 1 unless other processes have the rest of the batch
        loss = own_fraction * self._loss(logits_BK, batch.targets)
        report = self.parallel.backward(loss, self._report(batch, loss.detach(), logits_BK.detach(), signals))
        loss, hits, self.num_signalled = report[:NUM_TOTALS].unbind()
        self._note_non_finite(loss)
        if self.loader.selection is not None:
            self.loader.selection.record_losses(batch.indices_B, report[NUM_TOTALS:][: len(batch)])
        self.optimizer.step(self.step, self.lr_factor(self.step))
        self.optimizer.zero_grad()
        self.ema.update(self.step)
        counted = torch.stack((loss * len(batch), hits.round(), torch.full_like(hits, len(batch))))
        self.totals_3 += counted.to(self.totals_3.dtype)
        self.step += 1
        if self.step % CHECK_EVERY == 0:
            self.refuse_non_finite()
        return len(batch)

    def _set_mode(self, *, frozen: bool) -> None:
        """Set training mode. A frozen body is in evaluation mode: no dropped paths, batch norm by running statistics.

        Its parameters have no gradient, so no optimizer changes or decays them.
        """
        is_kept = self.model.training and self.model.stages.training != frozen  # a callback may change the mode
        if is_kept and self.body_is_frozen == frozen:
            return  # setting it takes 1.5 ms, and a step on a GPU 5
        self.model.train()
        for part in self.model.body():
            part.train(not frozen)
        for parameter in self.body_params:
            parameter.requires_grad_(not frozen)
        self.body_is_frozen = frozen

    def _loss(self, logits_BK: Tensor, targets: Targets) -> Tensor:
        """Mean loss for the labels, the teacher, or both; a scalar."""
        if targets.teacher_BK is None:
            return self._label_loss(logits_BK, targets)
        weight = self.recipe.teacher.weight
        loss = weight * distillation_loss(logits_BK, targets.teacher_BK, self.recipe.teacher.temperature)
        if weight < 1:
            loss = loss + (1 - weight) * self._label_loss(logits_BK, targets)
        return loss

    def _label_loss(self, logits_BK: Tensor, targets: Targets) -> Tensor:
        return mixed_cross_entropy(logits_BK, targets, self.recipe.label_smoothing, self.class_weights_K)

    def _report(self, batch: Batch, loss: Tensor, logits_BK: Tensor, signals: Sequence[int]) -> Tensor:
        """The numbers of a step to sum over processes: loss, hits, signals, and each image's loss for the selection."""
        labels_B = batch.targets.labels_B
        hits = (logits_BK.argmax(1) == labels_B).sum().float()
        totals = torch.stack((loss, hits, torch.full_like(hits, bool(signals))))
        if self.loader.selection is None:
            return totals
        losses = torch.zeros(self.steps.num_candidates, device=totals.device)
        losses[: len(batch)][self.processes.rows] = F.cross_entropy(logits_BK, labels_B, reduction="none")
        return torch.cat((totals, losses))

    def _note_non_finite(self, loss: Tensor) -> None:
        norm = self.optimizer.gradient_norm()
        finite = torch.isfinite(loss + norm)
        if self.hardware.is_asynchronous:
            self.bad_step = torch.where(finite, self.bad_step, self.bad_step.clamp(max=self.step))
        elif not finite:
            what = f"stopped before applying it: loss {loss.item():g}, gradient norm {norm.item():g}"
            raise NonFiniteError(what, where=self._where(self.step))

    def refuse_non_finite(self) -> None:
        """Raise NonFiniteError if a loss or gradient on the device was not finite; waits for the device."""
        if self.hardware.is_asynchronous and (step := int(self.bad_step)) != NEVER:
            raise NonFiniteError("stopped without saving it: loss or gradient", where=self._where(step))

    def refuse_non_finite_state(self) -> None:
        """The same, and also raise NonFiniteError if a tensor of the state is not finite."""
        self.refuse_non_finite()
        if (name := first_non_finite(self.tensors())) is not None:
            where = f"step {self.step}, lr {self.lr(self.step - 1):.4g}"
            raise NonFiniteError(f"stopped before saving it: {name}", where=where)

    def refuse_non_finite_validation(self, nll: float) -> None:
        """Raise NonFiniteError if the validation loss is not finite: finite weights may overflow in the network."""
        if not math.isfinite(nll):
            raise NonFiniteError("stopped: the validation loss", where=self._where(self.step - 1))

    def _where(self, step: int) -> str:
        return f"step {step}, lr {self.lr(step):.4g}"

    def epoch_totals(self) -> EpochTotals:
        """Means over the epoch so far; waits for the device."""
        loss, hits, num_images = self.totals_3.tolist()
        return EpochTotals(loss / max(1, num_images), hits / max(1, num_images), int(num_images))

    def epoch_record(self) -> dict[str, Any]:
        """The record for metrics.jsonl of the epoch's steps so far; waits for the device."""
        totals, last = self.epoch_totals(), self.step - 1
        numbers = {"step": self.step, "epoch": self.steps.epoch(last) + 1, "lr": self.lr(last)}
        numbers["image_size"] = self.steps.image_size(last)
        return numbers | {"train_loss": totals.loss, "train_accuracy": totals.accuracy}

    def end_epoch(self) -> None:
        """Reset the epoch's totals."""
        self.totals_3.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """The whole state except `step`: network, optimizer, average, last losses, the epoch's totals."""
        parts = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.tensors(),
            "ema": self.ema.tensors(),
            "selection": self.loader.tensors(),
            "epoch": {"totals": self.totals_3},
        }
        return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}

    def totals_fit_step(self) -> bool:
        """Whether the epoch's totals count exactly the images of its steps so far."""
        first = self.step - self.step % self.steps.per_epoch
        return int(self.totals_3[2]) == sum(map(self.steps.num_trained, range(first, self.step)))

    def load_tensors(self, tensors: dict[str, Tensor], step: int) -> None:
        """Restore a saved state."""
        names = ("model", "optimizer", "ema", "selection", "epoch")
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in names}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_tensors(parts["optimizer"])
        self.ema.load_tensors(parts["ema"])
        self.loader.load_tensors(parts["selection"])
        self.totals_3.copy_(parts["epoch"]["totals"])
        self.step = step


def compiled(model: ResNet, hardware: Hardware) -> nn.Module:
    """The compiled network, with one graph per image size; on a GPU its kernels are launched together.

    Launching them one by one takes 18 ms of Python per step, twice the GPU's own time (docs/log.md).
    """
    mode = "reduce-overhead" if hardware.device.type == "cuda" else "default"
    return cast(nn.Module, torch.compile(model, dynamic=False, mode=mode))


def balanced_weights(labels_N: Tensor, num_classes: int) -> Tensor:
    """A weight per class, float32 [K], inversely proportional to its number of images; the mean over images is 1."""
    counts_K = torch.bincount(labels_N, minlength=num_classes)
    num_present = (counts_K > 0).sum()
    return (len(labels_N) / (num_present * counts_K.clamp(min=1))).float()


def mixed_cross_entropy(
    logits_BK: Tensor, targets: Targets, label_smoothing: float, class_weights_K: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy for two labels per image, weighted by their shares of the image; a scalar.

    `class_weights_K` weights the loss for each label by its class.
    """

    def loss_for(labels_B: Tensor) -> Tensor:
        if class_weights_K is None:
            return F.cross_entropy(logits_BK, labels_B, label_smoothing=label_smoothing)
        # torch's `weight` divides by the sum of the batch's weights, so an image's weight would depend on the others.
        losses_B = F.cross_entropy(logits_BK, labels_B, label_smoothing=label_smoothing, reduction="none")
        return (class_weights_K[labels_B] * losses_B).mean()

    loss = loss_for(targets.labels_B)
    return (
        loss
        if targets.label_weight == 1
        else targets.label_weight * loss + (1 - targets.label_weight) * loss_for(targets.others_B)
    )


def first_non_finite(tensors: dict[str, Tensor]) -> str | None:
    """The name of the first tensor with NaN or infinity in it."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return name
    return None
