"""A teacher: a trained network whose logits for the augmented images a student learns.

Both see the same view of an image. Augmentation is a function of (seed, epoch, sample), so the teacher's logits for an
epoch's views are fixed: the first run that reaches that epoch computes and caches them, and every other run with the
same teacher, images and augmentation reads them, after a wait if need be. After `teacher.epochs` epochs, the views and
logits repeat.
Mixup and CutMix are applied afterwards: the probabilities of the two images are mixed by the same share.

Sources: Hinton et al. 2015 (arXiv:1503.02531), section 2; Beyer et al. 2022 (arXiv:2106.05237), section 3.

Shapes: N training images, B images per batch, K classes.
"""

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from pocket_resnet.data.augment import resize, to_float
from pocket_resnet.data.layout import unicode_form
from pocket_resnet.data.loader import Steps
from pocket_resnet.data.source import Source
from pocket_resnet.device import Hardware
from pocket_resnet.errors import ArtifactError, EnvironmentFault, UsageError, listed
from pocket_resnet.io import files
from pocket_resnet.io.data_dir import default_data_dir
from pocket_resnet.io.locks import exclusive
from pocket_resnet.model.artifact import identify, load_model, parse_tensors
from pocket_resnet.model.conv3x3 import allow_algorithms
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.schema import Recipe

_log = logging.getLogger(__name__)

FORMAT = 1  # version of cached logits; increase it if augmentation or the stored values change
LOGITS_NAME, TENSOR_NAME = "answers.safetensors", "logits"
HEADER_BYTES = 4096  # upper limit of a file's header


def with_teacher(recipe: Recipe, source: Source) -> dict[str, str]:
    """The recipe's `teacher` keys with the model's absolute path and the SHA-256 of its weights.

    Raises UsageError if the model is not the one that the recipe names, or has other classes than the data.
    """
    if recipe.teacher.model is None:
        return {}
    folder, card, sha256 = identify(recipe.teacher.model, recipe.teacher.sha256, "teacher.sha256")
    theirs, ours = (set(map(unicode_form, names)) for names in (card.class_names, source.class_names))
    if theirs != ours:
        differing = sorted(theirs ^ ours)
        what = f"the teacher's classes are not those of {source.public_name}: {listed(differing, ', ')}"
        raise UsageError(what, where=folder, hint="choose a teacher that was trained on the same classes")
    return {"teacher.model": str(folder), "teacher.sha256": sha256}


@dataclass
class Teacher:
    """A trained network, on the device, and the folder of its cached logits."""

    model: ResNet
    order_K: list[int]
    """The teacher's class number of each of the data's classes."""
    folder: Path
    hardware: Hardware
    num_epochs: int
    """Number of epochs whose views are needed."""
    watch: "Watch"
    """Called after each batch of views and while waiting for another process; may raise to stop."""

    def logits(self, epoch: int, num_images: int, views: Callable[[], Iterable[Tensor]]) -> Tensor:
        """The logits for the views of an epoch, float32 [N, K] on the device, in the order of the data's classes.

        `views` yields all N images as augmented in that epoch, uint8 [B, C, H, W]; it is called if the cached logits
        are missing or damaged. If another process computes them, waits and reads them. If they cannot be cached, logs a
        warning; they are computed again next time.
        """
        path = self.folder / f"epoch-{epoch:04d}"
        logits_NK = self._cached(path, num_images)
        if logits_NK is None:
            with self._locked(path, epoch):
                logits_NK = self._cached(path, num_images)  # another process may have been faster
                if logits_NK is None:
                    logits_NK = self._compute(epoch, num_images, views())
                    self._cache(path, logits_NK)
        return logits_NK.to(self.hardware.device).float()

    @property
    def num_cached(self) -> int:
        """The number of epochs whose logits are cached."""
        return len(list(self.folder.glob("epoch-*")))

    def _name(self, epoch: int) -> str:
        return f"the teacher's predictions for epoch {epoch + 1} of {self.num_epochs}"

    @contextlib.contextmanager
    def _locked(self, path: Path, epoch: int) -> Iterator[None]:
        """Lock the epoch's logits against other processes inside the block, unless the folder cannot be written."""
        waiting = f"waiting for another process, which computes {self._name(epoch)}"
        with contextlib.ExitStack() as lock:
            with contextlib.suppress(EnvironmentFault):  # `_cache` explains it
                lock.enter_context(exclusive(path, math.inf, lambda: self.watch(self, waiting)))
            yield

    def _compute(self, epoch: int, num_images: int, views: Iterable[Tensor]) -> Tensor:
        """The logits for the views of an epoch, float16 [N, K] on the CPU."""
        what, num_done = self._name(epoch), 0
        _log.info(f"computing {what}")
        logits: list[Tensor] = []
        for view_BCHW in views:
            logits.append(self._forward(view_BCHW).half().cpu())
            num_done += len(view_BCHW)
            self.watch(self, f"{what}: {num_done:,} of {num_images:,} images")
        return torch.cat(logits)

    def _cache(self, path: Path, logits_NK: Tensor) -> None:
        try:
            files.write_folder(path, {LOGITS_NAME: tensors_to_bytes({TENSOR_NAME: logits_NK.contiguous()})})
        except EnvironmentFault as error:
            files.warn_once(f"the teacher's predictions are not cached ({error.what})", self.folder)

    def _cached(self, path: Path, num_images: int) -> Tensor | None:
        max_bytes = 2 * num_images * len(self.order_K) + HEADER_BYTES
        try:
            content = files.read_folder(path, (LOGITS_NAME,), max_bytes)[LOGITS_NAME]
            logits_NK = parse_tensors(content)[TENSOR_NAME]
        except (ArtifactError, ValueError, KeyError):
            return None
        return logits_NK if logits_NK.shape == (num_images, len(self.order_K)) else None

    @torch.inference_mode()
    def _forward(self, view_BCHW: Tensor) -> Tensor:
        x_BCHW = to_float(resize(view_BCHW, self.model.spec.image_size), self.hardware.memory_format)
        with self.hardware.autocast():
            logits_BK: Tensor = self.model(x_BCHW)
        return logits_BK[:, self.order_K]


Watch = Callable[[Teacher, str], None]
"""(teacher, progress of an epoch's predictions, or of the wait for them, in words) -> None."""


def unwatched(teacher: Teacher, progress: str) -> None:
    """A `Watch` that does nothing."""


def open_teacher(
    recipe: Recipe, source: Source, steps: Steps, hardware: Hardware, data_dir: Path | None, watch: Watch
) -> Teacher | None:
    """The recipe's teacher, as `with_teacher` completed it; None if it has none."""
    if recipe.teacher.model is None:
        return None
    model, card = load_model(Path(recipe.teacher.model))
    folder = (data_dir or default_data_dir()) / "teachers" / cache_name(recipe, source)
    names = list(map(unicode_form, card.class_names))
    order_K = [names.index(unicode_form(name)) for name in source.class_names]
    num_epochs = min(steps.epoch(steps.last - 1) + 1, steps.num_distorted_epochs, recipe.teacher.epochs)
    allow_algorithms(model, winograd_in="evaluation" if hardware.winograd else None)
    return Teacher(hardware.place(model).requires_grad_(False), order_K, folder, hardware, num_epochs, watch)


def cache_name(recipe: Recipe, source: Source) -> str:
    """The name of the folder of cached logits: a hash of everything that determines them except the epoch.

    docs/formats.md describes it.
    """
    data = [source.pixels_key, recipe.data.train_on, recipe.model.image_size, recipe.data_seed]
    text = json.dumps([FORMAT, recipe.teacher.sha256, data, _view_settings(recipe)], sort_keys=True)
    return f"{recipe.teacher.sha256:.12}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _view_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that determine a view, with names that belong to the cache and never change.

    A recipe key that is renamed keeps its name here. A new key is added only if it is set, so that logits cached
    earlier stay valid.
    """
    augment, settings = recipe.augment, dict[str, Any]()
    if recipe.pretrained.model is not None and (augment.cutout_px or augment.random_erasing):
        settings["filled_by"] = recipe.pretrained.sha256  # blanked pixels have the mean colour that it was trained on
    return settings | {
        "normalize": augment.normalize,
        "crop_px": augment.crop_px,
        "crop_fill": augment.crop_fill,
        "flip": augment.flip,
        "trivial_augment": augment.trivial_augment,
        "cutout_px": augment.cutout_px,
        "random_erasing": augment.random_erasing,
    }


def distillation_loss(logits_BK: Tensor, probabilities_BK: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the student's from the teacher's probabilities, both at that temperature.

    The mean over the batch times the squared temperature, which keeps the gradient's size independent of it.
    """
    log_student_BK = F.log_softmax(logits_BK / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student_BK, probabilities_BK, reduction="batchmean")
