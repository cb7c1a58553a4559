"""The interface of all data sets: classes and names, splits as tensors, and their statistics.

All images are read through `Source.split`. Apart from `verify`, only `split("test")` reads the test split.

Shapes: N images, C = 3 channels (RGB), H = W = image_size pixels, L levels of a pixel.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from pocket_resnet.errors import DataError, UsageError

MIN_STD = 1 / 255  # avoids amplifying a channel without contrast
_CHUNK_VALUES = 2**22  # processed at once when computing statistics
_NUM_LEVELS = 256  # of uint8

SplitName = Literal["train", "val", "trainval", "test", "all"]


@dataclass(frozen=True, eq=False)
class Split:
    """Images as uint8 [N, C, H, W] with their labels as int64 [N]."""

    images_NCHW: Tensor
    labels_N: Tensor
    files: Sequence[str] = ()
    """The file of each image, relative to the data's folder; empty if the images have no files of their own."""

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitem__(self, rows: slice) -> Self:
        """These rows, which share the memory."""
        return type(self)(self.images_NCHW[rows], self.labels_N[rows], self.files[rows])


@dataclass(frozen=True)
class Verification:
    """The result of `Source.verify`."""

    num_files: int
    """Files that were read."""
    num_recorded: int = 0
    """New or changed files: there was no hash to compare with, so theirs is recorded now."""


@dataclass(frozen=True)
class Description:
    """The contents of a data set, as `data --json` prints them."""

    name: str
    where: str
    image_size: int
    classes: tuple[str, ...]
    num_images: dict[str, int | None]
    """By split; None without a test split."""
    per_class: dict[str, dict[str, int]]
    """Number of images by class, then by split; those of the test split are not counted."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    verified: Verification | None = None


class Source(ABC):
    """A data set. A subclass sets these attributes and implements the three abstract methods."""

    name: str
    """The name that opens it again: a built-in data set's name, or a folder's path."""
    class_names: tuple[str, ...]
    """In the order of the labels."""
    image_size: int = 32
    """Height and width of every image, in pixels."""
    fingerprint: str
    """Identifies the training content and its split, at any image size; compare it with `has_fingerprint`."""
    where: str
    """Its location: a folder or file."""
    num_val: int
    """Number of training images, the last ones, that are held out for validation."""
    num_test: int | None
    """Number of test images, counted without opening them; None without a test split."""
    flip_invariant: bool = True
    """Whether a mirrored image has the same meaning."""
    is_plain: bool = False
    """Whether it has no splits of its own, so that all of it can be evaluated."""

    @abstractmethod
    def trainval(self) -> Split:
        """All training images; the last `num_val` are for validation."""

    @abstractmethod
    def test(self) -> Split:
        """The test images. Raises DataError if there are none."""

    @abstractmethod
    def verify(self) -> Verification:
        """Read and check every file again, including the test split.

        Raises DataError naming damaged or changed files.
        """

    @property
    def pixels_key(self) -> str:
        """Identifies the pixels of the training images."""
        return self.fingerprint

    def has_fingerprint(self, fingerprint: str | None) -> bool:
        """Whether this is the fingerprint of its training content."""
        return fingerprint == self.fingerprint

    def changes_since(self, fingerprint: str) -> list[str]:  # noqa: ARG002
        """The files that differ between the training images and those of that fingerprint; empty if it is not known."""
        return []

    def split(self, which: SplitName) -> Split:
        """One split; `trainval` is all training images; `all` is every image of a folder without splits.

        train, val and trainval share memory, so do not write into them. Raises DataError if the split is
        missing or damaged.
        """
        if which not in get_args(SplitName):
            raise UsageError(f"no split {which!r}", hint=f"choose one of {', '.join(get_args(SplitName))}")
        if which == "test":
            return self.test()
        if which == "all" and not self.is_plain:
            raise UsageError(
                "only a folder without splits can be used as a whole", where=self.name, hint="choose one of its splits"
            )
        num_train = len(self._training_images) - self.num_val
        if which == "val" and self.num_val == 0:
            raise DataError(
                "too few images to hold out a validation split",
                where=self.name,
                hint="add a second image to a class, or add val/",
            )
        rows = {"train": slice(num_train), "val": slice(num_train, None)}.get(which, slice(None))
        return self._training_images[rows]

    @property
    def public_name(self) -> str:
        """Its name without its location on this machine, for published models and reports; see `public_name`."""
        return public_name(self.name)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training split per channel, on the scale 0 to 1."""
        return self._statistics[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the training split per channel, on the scale 0 to 1; at least 1/255."""
        return self._statistics[1]

    @cached_property
    def _training_images(self) -> Split:
        return self.trainval()

    @cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return channel_statistics(self.split("train").images_NCHW)


def public_name(name: str) -> str:
    """The name of a built-in data set, or the last part of a folder's path with a slash, to tell the two apart."""
    return f"{Path(name).name}/" if "/" in name else name


def describe(source: Source, verified: Verification | None = None) -> Description:
    """The data set's description; the test split is counted, but not opened."""
    counts = {}
    for which in ("train", "val"):
        labels_N = source.split(which).labels_N if which == "train" or source.num_val else torch.zeros(0).long()
        counts[which] = torch.bincount(labels_N, minlength=len(source.class_names)).tolist()
    return Description(
        name=source.name,
        where=source.where,
        image_size=source.image_size,
        classes=source.class_names,
        num_images={which: sum(count) for which, count in counts.items()} | {"test": source.num_test},
        per_class={
            name: {which: count[index] for which, count in counts.items()}
            for index, name in enumerate(source.class_names)
        },
        mean=source.mean,
        std=source.std,
        fingerprint=source.fingerprint,
        verified=verified,
    )


def channel_statistics(images_NCHW: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and (population) standard deviation per channel of uint8 images, on the scale 0 to 1."""
    levels = torch.arange(_NUM_LEVELS)
    counts_CL = torch.zeros((images_NCHW.shape[1], _NUM_LEVELS), dtype=torch.int64)
    chunk = max(1, _CHUNK_VALUES // images_NCHW[0].numel())
    for chunk_NCHW in torch.split(images_NCHW, chunk):
        for channel, counts_L in enumerate(counts_CL):  # 9 times as fast as sums
            counts_L += torch.bincount(chunk_NCHW[:, channel].flatten(), minlength=_NUM_LEVELS)
    count = images_NCHW.numel() // images_NCHW.shape[1]
    mean_C = (counts_CL * levels).sum(dim=1).double() / count
    squares_C = (counts_CL * levels.square()).sum(dim=1).double() / count
    std_C = (squares_C - mean_C.square()).clamp(min=0).sqrt()
    return tuple((mean_C / 255).tolist()), tuple((std_C / 255).clamp(min=MIN_STD).tolist())
