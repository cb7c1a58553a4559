"""The training loader: (training split, recipe, step) -> the batch of that step.

Epoch order -> hard-example mining, if on -> augmentation -> resize to the step's image size -> 0..1 -> mixing. Each is
a function of (seed, epoch, step, sample), so checkpoints only store the state of hard-example mining.

The last, smaller step of an epoch is trained too, but a single left-over image is dropped: batch norm has nothing to
compare it with.

Shapes: N samples, C candidates of a step, B images per batch, M chosen samples, K classes; [B, C, H, W] are images.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pocket_resnet.data.augment import Augmenter, Targets, resize, to_float
from pocket_resnet.data.selection import Selection
from pocket_resnet.data.source import Split
from pocket_resnet.device import Hardware, sent
from pocket_resnet.errors import UsageError
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.seeds import generator

STEPS_AHEAD = 16  # a GPU augments the images of so many steps at once, to launch fewer small kernels
NORM_BATCH = 500  # images per forward pass when measuring batch-norm statistics
TEACHER_BATCH = 1000  # images per forward pass of a teacher
EVERY_ROW = slice(None)

TeacherLogits = Callable[[int, int, Callable[[], Iterable[Tensor]]], Tensor]
"""A teacher: (epoch, N, function that yields the epoch's N views, uint8 [B, C, H, W]) -> logits, float [N, K]."""


@dataclass(frozen=True)
class Steps:
    """The optimizer steps of a run of the recipe on this number of samples.

    With hard-example mining, a step has more candidates than it trains. Raises UsageError if a step needs more images
    than there are.
    """

    num_samples: int
    recipe: Recipe

    def __post_init__(self) -> None:
        if self.num_candidates > self.num_samples:
            batch_size, hard_fraction = self.recipe.batch_size, self.recipe.hard_fraction
            looks = f" with hard_fraction {hard_fraction:g} looks at {self.num_candidates} images and"
            looks = "" if hard_fraction == 1 else looks
            raise UsageError(
                f"batch_size {batch_size}{looks} exceeds the {self.num_samples} training images",
                hint=f"use a smaller one, for example --batch-size {_suggested(int(self.num_samples * hard_fraction))}",
            )

    @property
    def num_candidates(self) -> int:
        """The number of candidates of a step, except for the last step of an epoch."""
        return round(self.recipe.batch_size / self.recipe.hard_fraction)

    @property
    def per_epoch(self) -> int:
        """The number of steps of an epoch."""
        whole, rest = divmod(self.num_samples, self.num_candidates)
        return whole + (rest > 1)

    @property
    def total(self) -> int:
        """The number of steps of the whole run."""
        return self.recipe.epochs * self.per_epoch

    @property
    def last(self) -> int:
        """The number of steps after which the run ends: all of them, or `max_steps`."""
        return min(self.recipe.max_steps or self.total, self.total)

    def epoch(self, step: int) -> int:
        """The epoch of that step, both from 0."""
        return step // self.per_epoch

    @property
    def num_distorted_epochs(self) -> int:
        """The number of epochs before images are only cropped and flipped, see `augment.distort_until`."""
        return round(self.recipe.augment.distort_until * self.recipe.epochs)

    def is_frozen(self, step: int) -> bool:
        """Whether that step trains only a pretrained network's head."""
        return step < self.recipe.pretrained.freeze_epochs * self.per_epoch

    def image_size(self, step: int) -> int:
        """The image size in pixels at that step: `train_image_sizes` divide the run into equal parts."""
        sizes = self.recipe.train_image_sizes or (self.recipe.model.image_size,)
        return sizes[min(step * len(sizes) // self.total, len(sizes) - 1)]

    def candidates(self, order_N: Tensor, step: int) -> Tensor:
        """The step's candidates, sample indices int64 [C], in the order of its epoch."""
        start = step % self.per_epoch * self.num_candidates
        return order_N[start : start + self.num_candidates]

    def trained_fraction(self, step: int) -> float:
        """The share of its candidates that the step trains: `hard_fraction`, and 1 from `hard_until` on."""
        return self.recipe.hard_fraction if step < round(self.recipe.hard_until * self.total) else 1.0

    def num_trained(self, step: int) -> int:
        """The number of images that the step trains: at least two if there are two, for batch norm."""
        num_left = self.num_samples - step % self.per_epoch * self.num_candidates
        count = min(self.num_candidates, num_left)
        return max(min(2, count), round(count * self.trained_fraction(step)))


@dataclass(frozen=True)
class Batch:
    """One step's batch: the images that this process trains, and the samples of all processes."""

    x_BCHW: Tensor
    """Augmented and mixed, at the step's image size, float on the 0..1 scale."""
    targets: Targets
    indices_B: Tensor
    """The samples of the whole step, int64 on the CPU."""

    def __len__(self) -> int:
        """The number of images that the whole step trains."""
        return len(self.indices_B)


class Loader:
    """The batches of a run, on its device. Its state is `tensors()`, empty without hard-example mining."""

    def __init__(
        self,
        split: Split,
        recipe: Recipe,
        hardware: Hardware,
        mean_C11: Tensor,
        teacher_logits: TeacherLogits | None = None,
        *,
        use_selection: bool = True,
        rows: slice = EVERY_ROW,
    ) -> None:
        """`mean_C11` is the colour of blanked pixels, 0..1.

        `use_selection` is False if no losses are known, as after a run: a step then trains all of its candidates.
        `rows` are the rows of each batch that this process trains.
        """
        self.recipe, self.hardware, self.teacher_logits, self.rows = recipe, hardware, teacher_logits, rows
        self.images_NCHW = split.images_NCHW.to(hardware.device)
        self.labels_N = split.labels_N.to(hardware.device)
        self.steps = Steps(len(split), recipe)
        self.selection = Selection(len(split), hardware.device) if use_selection and recipe.hard_fraction < 1 else None
        fill_C = (mean_C11.flatten() * 255).round().to(hardware.device, torch.uint8)
        settings = (recipe.augment, recipe.augment.undistorted())
        self._augmenters = [Augmenter(each, len(split), recipe.data_seed, fill_C) for each in settings]
        # A step's hard examples depend on the steps before it.
        self.steps_ahead = STEPS_AHEAD if hardware.is_asynchronous and self.selection is None else 1
        # These belong to one epoch, and are kept until another is requested:
        self._order: tuple[int, Tensor] | None = None
        self._logits: tuple[int, Tensor] | None = None
        self._ahead: dict[int, Tensor] = {}

    def batch(self, step: int) -> Batch:
        """The batch of any step. Hard-example mining uses the current losses."""
        indices_B = self.indices(step)
        needed_M, partner_B = self._needed(indices_B, step)
        x_MCHW = self._augmented_ahead(step) if self.steps_ahead > 1 else self._augmented(needed_M, step)
        labels_M = self.labels_N[sent(needed_M, self.labels_N.device)]
        teacher_MK = self._teacher_probabilities(needed_M, self.steps.epoch(step))
        x_MCHW = to_float(x_MCHW, self.hardware.memory_format)
        augmenter = self._augmenter(self.steps.epoch(step))
        return Batch(*augmenter.mix(x_MCHW, labels_M, partner_B, step, teacher_MK), indices_B)

    def _needed(self, indices_B: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        """The samples of this process's share of the step, int64 [M], and each one's partner among them.

        If several processes share a batch with mixing, the partners follow the B images that are trained here.
        """
        partner_B = self._augmenter(self.steps.epoch(step)).partners(len(indices_B), step)
        if partner_B is None or self.rows == EVERY_ROW:
            return indices_B[self.rows], partner_B
        needed_M = torch.cat((indices_B[self.rows], indices_B[partner_B][self.rows]))
        return needed_M, torch.arange(len(needed_M) // 2, len(needed_M))

    def indices(self, step: int) -> Tensor:
        """The samples of any step, int64 [B] on the CPU."""
        epoch = self.steps.epoch(step)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(self.steps.num_samples, self.recipe.data_seed, epoch)
        candidates_C = self.steps.candidates(self._order[1], step)
        return candidates_C if self.selection is None else self.selection(candidates_C, self.steps.num_trained(step))

    def norm_batches(self, indices_M: Tensor, step: int, image_size: int | None = None) -> Iterator[Tensor]:
        """These samples as that step's epoch augments them, but unmixed: float [B, C, H, W], by default at full size.

        Yields nothing for fewer than two samples: batch norm needs at least two. With several processes, each yields a
        share of the batches.
        """
        num_batches = -(-len(indices_M) // NORM_BATCH) if len(indices_M) > 1 else 0
        for indices_B in torch.tensor_split(indices_M, num_batches)[self.rows] if num_batches else ():
            view_BCHW = self._view(indices_B, self.steps.epoch(step))
            x_BCHW = resize(view_BCHW, image_size or self.recipe.model.image_size)
            yield to_float(x_BCHW, self.hardware.memory_format)

    def views(self, epoch: int) -> Iterator[Tensor]:
        """Every sample, in order, as that epoch augments it, but unmixed and at full size: uint8 [B, C, H, W]."""
        for indices_B in torch.split(torch.arange(self.steps.num_samples), TEACHER_BATCH):
            yield self._view(indices_B, epoch)

    def tensors(self) -> dict[str, Tensor]:
        """The state needed to resume."""
        return {} if self.selection is None else self.selection.tensors()

    def load_tensors(self, saved: dict[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        if self.selection is not None:
            self.selection.load_tensors(saved)

    def _augmented(self, indices_B: Tensor, step: int) -> Tensor:
        """Samples of that step's epoch, augmented and at its image size: uint8 [B, C, H, W]."""
        visit_B = None if self.selection is None else self.selection.visits_N[indices_B]
        return resize(self._view(indices_B, self.steps.epoch(step), visit_B), self.steps.image_size(step))

    def _augmented_ahead(self, step: int) -> Tensor:
        """The step's images; those of several steps are augmented together."""
        if step not in self._ahead:
            size, end = self.steps.image_size(step), (self.steps.epoch(step) + 1) * self.steps.per_epoch
            coming = range(step, min(step + self.steps_ahead, end))
            steps = [ahead for ahead in coming if self.steps.image_size(ahead) == size]
            needed = [self._needed(self.indices(ahead), ahead)[0] for ahead in steps]
            parts = torch.split(self._augmented(torch.cat(needed), step), [len(part_M) for part_M in needed])
            self._ahead = dict(zip(steps, parts, strict=True))
        return self._ahead[step]

    def _view(self, indices_B: Tensor, epoch: int, visit_B: Tensor | None = None) -> Tensor:
        """These samples with that epoch's augmentation, at full size: uint8 [B, C, H, W]."""
        images_BCHW = self.images_NCHW.index_select(0, sent(indices_B, self.images_NCHW.device))
        return self._augmenter(epoch)(images_BCHW, indices_B, self._view_epoch(epoch), visit_B)

    def _augmenter(self, epoch: int) -> Augmenter:
        return self._augmenters[not self._is_distorted(epoch)]

    def _is_distorted(self, epoch: int) -> bool:
        return epoch < self.steps.num_distorted_epochs

    def _view_epoch(self, epoch: int) -> int:
        """The epoch whose augmentation is used: while a teacher is, `teacher.epochs` epochs repeat."""
        repeats = self.recipe.teacher.model is not None and self._is_distorted(epoch)
        return epoch % self.recipe.teacher.epochs if repeats else epoch

    def _teacher_probabilities(self, indices_B: Tensor, epoch: int) -> Tensor | None:
        """The teacher's probabilities for those samples as that epoch augments them, float [B, K]; None without it."""
        if self.teacher_logits is None or not self._is_distorted(epoch):
            return None
        view_epoch = self._view_epoch(epoch)
        if self._logits is None or self._logits[0] != view_epoch:
            logits_NK = self.teacher_logits(view_epoch, self.steps.num_samples, lambda: self.views(view_epoch))
            self._logits = view_epoch, logits_NK
        logits_BK = self._logits[1][sent(indices_B, self.labels_N.device)]
        return (logits_BK / self.recipe.teacher.temperature).softmax(1)


def epoch_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """The epoch's permutation of the sample indices, int64 [N]."""
    return torch.randperm(num_samples, generator=generator(seed, "order", epoch))


def _suggested(num_samples: int) -> int:
    """A power of two that gives an epoch at least four steps if there are enough images."""
    return max(2, min(64, 1 << max(1, (num_samples // 4).bit_length() - 1)))
