"""A data set by name or path, opened: what it holds, and its splits as tensors.

This is the only door to the splits, and `Source.split` the only place that opens a test split.

Shapes: N images, C = 3 channels (RGB), H = W = image_size pixels, L levels of a pixel.
"""

import difflib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from pocket_resnet.data import cifar
from pocket_resnet.data.digits import Digits
from pocket_resnet.data.folder import Folder
from pocket_resnet.data.published import CIFAR10, FAMILIES
from pocket_resnet.errors import DataError, EnvironmentFault, UsageError
from pocket_resnet.io.download import is_reachable
from pocket_resnet.io.files import expanded

DATA_VARIABLE = "POCKET_RESNET_DATA"
NAMES = ("cifar10", "cifar100", "digits", "auto")
MIN_STD = 1 / 255  # a channel without contrast is not blown up
_CHUNK_VALUES = 2**22  # at once, while computing statistics
_NUM_LEVELS = 256  # of uint8

Which = Literal["train", "val", "trainval", "test", "all"]


class Reader(Protocol):
    """What every kind of data set offers; the last `num_val` of its training images are for validation."""

    @property
    def name(self) -> str: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def image_size(self) -> int: ...
    @property
    def mirrored(self) -> bool: ...
    @property
    def is_plain(self) -> bool: ...
    @property
    def num_val(self) -> int: ...
    @property
    def num_test(self) -> int | None: ...
    @property
    def where(self) -> str: ...
    @property
    def remarks(self) -> tuple[str, ...]: ...

    def trainval(self) -> tuple[Tensor, Tensor]: ...
    def test(self) -> tuple[Tensor, Tensor]: ...
    def verify(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, eq=False)
class Split:
    """Images as uint8 [N, C, H, W] with their labels as int64 [N]."""

    images_NCHW: Tensor
    labels_N: Tensor

    def __len__(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True, eq=False)
class Source:
    """An opened data set.

    `fingerprint` identifies its training content; `mirrored` says whether a mirrored image means the same;
    `remarks` are things to tell the user.
    """

    name: str
    class_names: tuple[str, ...]
    image_size: int
    fingerprint: str
    mirrored: bool
    remarks: tuple[str, ...]
    reader: Reader = field(repr=False)

    def split(self, which: Which) -> Split:
        """One split; `trainval` is all training images; `all` is every image of a folder without splits.

        train, val and trainval share memory, so do not write into them. Raises DataError where the split is
        not there or damaged.
        """
        if which not in get_args(Which):
            raise UsageError(f"no split {which!r}", mend=f"choose one of {', '.join(get_args(Which))}")
        if which == "test":
            return Split(*self.reader.test())
        if which == "all" and not self.reader.is_plain:
            raise UsageError("only a plain folder is used whole", where=self.name, mend="choose one of its splits")
        images_NCHW, labels_N = self._trainval.images_NCHW, self._trainval.labels_N
        num_train = len(labels_N) - self.reader.num_val
        if which == "val" and num_train == len(labels_N):
            raise DataError(
                "too few images to hold some out for validation",
                where=self.name,
                mend="give a class two images at least, or add val/",
            )
        start, stop = {"train": (0, num_train), "val": (num_train, None)}.get(which, (0, None))
        return Split(images_NCHW[start:stop], labels_N[start:stop])

    @property
    def public_name(self) -> str:
        """What the data set is called where its place on this machine is nobody's business; see `public_name`."""
        return public_name(self.name)

    def changes_since(self, fingerprint: str) -> list[str]:
        """The files by which a folder's training images differ from those of that fingerprint, where it is known."""
        return self.reader.changes_since(fingerprint) if isinstance(self.reader, Folder) else []

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training split per channel, on the scale 0 to 1."""
        return self._statistics[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the training split per channel, on the scale 0 to 1; at least 1/255."""
        return self._statistics[1]

    @cached_property
    def _trainval(self) -> Split:
        return Split(*self.reader.trainval())

    @cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return channel_statistics(self.split("train").images_NCHW)


def open_source(
    name: str | Path,
    *,
    data_dir: str | Path | None = None,
    image_size: int = 32,
    num_workers: int = 16,
    download: bool = True,
) -> Source:
    """The data set of this name (cifar10, cifar100, digits, auto) or the folder at this path.

    A name with a slash is a folder, whatever it is called; a built-in name without one is the built-in data set.
    Raises UsageError for a name that is none and a size that the data set does not have, DataError where data
    is missing or damaged, EnvironmentFault where it cannot be downloaded or kept.
    """
    name, data_dir = data_name(name), expanded(data_dir) if data_dir else None
    remarks = namesake_remarks(name)
    if name == "auto":
        name, more_remarks = _choose(data_dir, download)
        remarks += more_remarks
    reader = _reader(name, data_dir, image_size, num_workers, download)
    return Source(
        name=reader.name,
        class_names=reader.class_names,
        image_size=reader.image_size,
        fingerprint=reader.fingerprint,
        mirrored=reader.mirrored,
        remarks=remarks + reader.remarks,
        reader=reader,
    )


def data_name(data: str | os.PathLike[str]) -> str:
    """What names the data in a recipe: text as it is, with `~` expanded; of a path always a folder's, with a slash."""
    name = os.fspath(data)
    if name.startswith("~"):
        return str(expanded(name))
    return f"./{name}" if not isinstance(data, str) and "/" not in name else name


def is_there(name: str) -> bool:
    """Whether the name is a built-in data set's, or leads to a folder."""
    return name in NAMES or Path(name).is_dir()


def namesake_remarks(name: str) -> tuple[str, ...]:
    """A line where a built-in data set is named and a folder of this name stands in the working directory."""
    if name in NAMES and Path(name).is_dir():
        return (f"using the built-in data set {name}; for the folder here, give ./{name}",)
    return ()


def public_name(name: str) -> str:
    """A built-in data set's name as it is; of a folder's path the last part, and a slash to tell the two apart."""
    return f"{Path(name).name}/" if "/" in name else name


def default_data_dir() -> Path:
    """POCKET_RESNET_DATA, else `pocket-resnet` in the user's cache folder.

    Raises EnvironmentFault where the user has no home folder.
    """
    if chosen := os.environ.get(DATA_VARIABLE):
        return expanded(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pocket-resnet"
    except RuntimeError as error:  # neither HOME nor an entry in /etc/passwd, as in some containers
        raise EnvironmentFault(
            "there is no home folder to keep data in", mend=f"name a folder with --data-dir, or in {DATA_VARIABLE}"
        ) from error


def verify(source: Source) -> tuple[str, ...]:
    """The names of all files of the data set, the test split's too, after reading and checking each anew.

    Raises DataError naming what is damaged or has changed.
    """
    return source.reader.verify()


def describe(source: Source) -> dict[str, Any]:
    """What the data set holds, ready for JSON; the test split is counted, but not opened."""
    counts = {}
    for which in ("train", "val"):
        labels_N = source.split(which).labels_N if which == "train" or source.reader.num_val else torch.zeros(0).long()
        counts[which] = torch.bincount(labels_N, minlength=len(source.class_names)).tolist()
    return {
        "name": source.name,
        "where": source.reader.where,
        "image_size": source.image_size,
        "classes": list(source.class_names),
        "num_images": {which: sum(count) for which, count in counts.items()} | {"test": source.reader.num_test},
        "per_class": {
            name: {which: count[index] for which, count in counts.items()}
            for index, name in enumerate(source.class_names)
        },
        "mean": list(source.mean),
        "std": list(source.std),
        "fingerprint": source.fingerprint,
        "remarks": list(source.remarks),
    }


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


def _reader(name: str, data_dir: Path | None, image_size: int, num_workers: int, allow_download: bool) -> Reader:
    if name in FAMILIES:
        _require_native_size(name, image_size, cifar.IMAGE_SIZE)
        return cifar.Cifar(FAMILIES[name], data_dir or default_data_dir(), allow_download)
    if name == "digits":
        _require_native_size(name, image_size, Digits.image_size)
        return Digits()
    if Path(name).is_dir():
        root = Path(os.path.realpath(name))
        return Folder(root, data_dir or default_data_dir(), image_size, num_workers)
    close = difflib.get_close_matches(name, NAMES, n=1)
    mend = f"did you mean {close[0]}?" if close else f"choose a folder, or one of {', '.join(NAMES)}"
    raise UsageError("no data set and no folder of this name", where=name, mend=mend)


def _choose(data_dir: Path | None, allow_download: bool) -> tuple[str, tuple[str, ...]]:
    try:
        data_dir = data_dir or default_data_dir()
    except EnvironmentFault as fault:
        return "digits", (f"{fault.what}: using the digits instead of CIFAR-10",)
    if cifar.is_here(CIFAR10, data_dir):
        return "cifar10", ()
    urls = cifar.urls(CIFAR10.layouts[0])
    if allow_download and any(is_reachable(url) for url in urls):
        return "cifar10", ()
    return "digits", (f"CIFAR-10 is not in {data_dir} and cannot be reached ({urls[0]}): using the digits instead",)


def _require_native_size(name: str, image_size: int, native_size: int) -> None:
    if image_size != native_size:
        raise UsageError(
            f"its images are {native_size} px, not {image_size}",
            where=name,
            mend=f"leave the image size at {native_size}",
        )
