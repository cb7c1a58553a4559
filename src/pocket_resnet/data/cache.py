"""Caches a folder's decoded images in the data folder: hashes by (path, size, times, inode), pixels by content.

`folders/index/*.json` records the hash of each file's content, so an unchanged file is not read again.
`folders/KEY/images.npy` has the pixels, and `files.json` beside it lists their files. KEY consists of the images'
fingerprint, the size and the decoder's version, so changed data never get old pixels. If the cache would exceed
`MAX_KEPT_BYTES`, the least recently used sets are removed.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocket_resnet.data.image import DECODER_VERSION, ImageError, decode, read_file
from pocket_resnet.data.listing import ImageFile, printable
from pocket_resnet.device import num_cores
from pocket_resnet.errors import DataError, EnvironmentFault, listed
from pocket_resnet.io import files
from pocket_resnet.io.locks import exclusive

MAX_KEPT_BYTES: Final = 16 * 1024**3
_PIXELS_NAME, _LIST_NAME = "images.npy", "files.json"
_BATCH: Final = 256  # images in memory at once while decoding
_log = logging.getLogger(__name__)

Result = TypeVar("Result")
Bad = tuple[ImageFile, ImageError]


class PixelStore:
    """Hashes and pixels of the images of one folder at one size."""

    def __init__(self, root: Path, data_dir: Path, image_size: int, num_workers: int) -> None:
        self._root, self._image_size = root, image_size
        self._folder = data_dir / "folders"
        root_hash = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
        self._index_path = self._folder / "index" / f"{root_hash}.json"
        self._num_workers = max(1, min(num_workers, num_cores()))
        self.new = set[str]()
        """Relative paths of files that `hashes` has recorded anew: they are new, or their content has changed."""

    def hashes(self, images: Sequence[ImageFile]) -> list[str]:
        """The SHA-256 of each file's content; unchanged files are not read.

        If a file cannot be read, raises DataError naming all files that are not usable images.
        """
        index = self._read_index()
        known = {image.relative: str(index[image.relative][-1]) for image in images if _is_in(index, image)}
        unknown = [image for image in images if image.relative not in known]
        fresh = dict(zip((image.relative for image in unknown), self._map(self._hash, unknown), strict=True))
        if any(isinstance(result, ImageError) for result in fresh.values()):
            self._refuse(images)
        self.new |= {relative for relative, content in fresh.items() if content != _recorded(index, relative)}
        hashes_by_path = known | {relative: str(result) for relative, result in fresh.items()}
        if any(index.get(image.relative) != _entry(image, hashes_by_path[image.relative]) for image in images):
            index |= {image.relative: _entry(image, hashes_by_path[image.relative]) for image in images}
            with contextlib.suppress(EnvironmentFault):  # hashed again next time
                files.write_bytes(self._index_path, json.dumps(index).encode())
        return [hashes_by_path[image.relative] for image in images]

    def key(self, fingerprint: str) -> str:
        """Identifies the pixels of the images of this fingerprint; also the name of their folder."""
        return f"{fingerprint}-{self._image_size}px-decoder{DECODER_VERSION}"

    def changes(self, fingerprint: str, images: Sequence[ImageFile], hashes: Sequence[str]) -> list[str]:
        """`path (new, changed or gone)` for each difference between these images and those of the fingerprint.

        Empty if those are not cached at any size.
        """
        now = {image.relative: content for image, content in zip(images, hashes, strict=True)}
        is_hash = re.fullmatch("[0-9a-f]{64}", fingerprint) is not None
        cached = self._folder.glob(f"{fingerprint}*/{_LIST_NAME}") if is_hash else iter(())
        try:
            before = dict(json.loads(next(cached).read_bytes()))
            differing = sorted({relative for relative, _ in before.items() ^ now.items()})
        except (StopIteration, OSError, ValueError, TypeError):
            return []
        return [
            f"{printable(relative)} ({'gone' if relative not in now else 'changed' if relative in before else 'new'})"
            for relative in differing
        ]

    def make_room(self, key: str, num_images: int) -> None:
        """Remove the least recently used sets until there is room for that of the key.

        The key's own set and sets that a process has open are kept.
        """
        sizes = {path: _size(path) for path in self._folder.glob(f"*/{_PIXELS_NAME}") if path.parent.name != key}
        kept = {path: size for path, size in sizes.items() if size is not None}
        total, removed = sum(kept.values()) + num_images * 3 * self._image_size**2, 0
        for path in sorted(kept, key=_last_use):
            if total <= MAX_KEPT_BYTES:
                break
            if _remove_unused(path):
                total, removed = total - kept[path], removed + 1
        if removed:
            limit = f"the pixel cache is limited to {MAX_KEPT_BYTES / 1024**3:g} GiB"
            _log.info("%s: removed the %d least recently used set(s) from %s", limit, removed, self._folder)

    def load(self, images: Sequence[ImageFile], hashes: Sequence[str], fingerprint: str) -> Tensor:
        """Images [N, 3, size, size], memory-mapped, decoded first if they are not cached yet under their fingerprint.

        Raises DataError naming all files that are not usable images, EnvironmentFault if the data folder cannot be
        written.
        """
        path = self._folder / self.key(fingerprint) / _PIXELS_NAME
        while not self._hold(path):
            with exclusive(path):
                if not path.is_file():  # another process may have created it
                    self._build(path, images, hashes)
        shape = (len(images), 3, self._image_size, self._image_size)
        try:
            pixels_NCHW: NDArray[np.uint8] = np.lib.format.open_memmap(path, mode="c")
            if pixels_NCHW.dtype != np.uint8 or pixels_NCHW.shape != shape:
                raise ValueError(f"{pixels_NCHW.dtype} {pixels_NCHW.shape} instead of uint8 {shape}")
        except Exception as error:  # a damaged header makes NumPy raise nearly anything
            raise DataError(f"damaged: {error}", where=path, hint="delete it; it will be created again") from error
        return torch.from_numpy(pixels_NCHW)

    def verify(self, images: Sequence[ImageFile], hashes: Sequence[str], fingerprint: str) -> None:
        """Decode every file again and compare it with the cache. Raises DataError naming the files that differ."""
        kept_NCHW = self.load(images, hashes, fingerprint).numpy()
        fresh = self._map(self._decode, list(zip(images, hashes, strict=True)))
        changed = []
        for image, kept_CHW, result in zip(images, kept_NCHW, fresh, strict=True):
            if isinstance(result, ImageError):
                changed.append((image, result))
            elif not np.array_equal(result, kept_CHW):
                changed.append((image, ImageError("the cached pixels differ")))
        if changed:
            raise DataError(
                f"{len(changed)} of {len(images)} files do not match:{_listed(changed)}",
                where=self._root,
                hint=f"restore them, or delete {self._folder} to accept them as they are",
            )

    def _hold(self, path: Path) -> bool:
        """Mark the pixels as used until this store is deleted; False if they are not cached."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.utime(path.with_name(_LIST_NAME))
        except BlockingIOError:  # another process is removing them
            return False
        except OSError:  # missing, no locks in the file system, or a read-only folder
            return path.is_file()
        return True

    def _build(self, path: Path, images: Sequence[ImageFile], hashes: Sequence[str]) -> None:
        num_bytes = len(images) * 3 * self._image_size**2
        bad = []
        with files.replacing(path, num_bytes) as file:
            np.lib.format.write_array_header_1_0(
                file,
                {"descr": "|u1", "fortran_order": False, "shape": (len(images), 3, *[self._image_size] * 2)},
            )
            pairs = list(zip(images, hashes, strict=True))
            for image, result in zip(images, self._map(self._decode, pairs), strict=True):
                if isinstance(result, ImageError):
                    bad.append((image, result))
                else:
                    file.write(result.tobytes())
            if bad:
                raise self._report(bad, images)
            listed = {image.relative: content for image, content in pairs}
            files.write_bytes(path.with_name(_LIST_NAME), json.dumps(listed).encode())

    def _refuse(self, images: Sequence[ImageFile]) -> None:
        results = zip(images, self._map(self._decode, [(image, "") for image in images]), strict=True)
        raise self._report([(image, result) for image, result in results if isinstance(result, ImageError)], images)

    def _report(self, bad: Sequence[Bad], images: Sequence[ImageFile]) -> DataError:
        return DataError(
            f"{len(bad)} of {len(images)} files are not usable images:{_listed(bad)}",
            where=self._root,
            hint="replace them or move them elsewhere",
        )

    def _hash(self, image: ImageFile) -> str | ImageError:
        try:
            return hashlib.sha256(read_file(self._root / image.relative)).hexdigest()
        except ImageError as error:
            return error

    def _decode(self, pair: tuple[ImageFile, str]) -> NDArray[np.uint8] | ImageError:
        """Pixels [3, size, size], or the error; the content must match the hash."""
        image, expected = pair
        try:
            content = read_file(self._root / image.relative)
            if expected and hashlib.sha256(content).hexdigest() != expected:
                return ImageError("changed since it was listed; try again")
            return decode(content, self._image_size).transpose(2, 0, 1)
        except ImageError as error:
            return error

    def _map(self, function: Callable[..., Result], items: Sequence[object]) -> Iterator[Result]:
        """Results in order, computed by all workers; at most one batch of them is in memory."""
        with ThreadPoolExecutor(self._num_workers) as pool:
            for start in range(0, len(items), _BATCH):
                yield from pool.map(function, items[start : start + _BATCH])

    def _read_index(self) -> dict[str, list[int | str]]:
        try:
            index = json.loads(self._index_path.read_bytes())
        except (OSError, ValueError):
            return {}
        return index if isinstance(index, dict) else {}


def _stamp(image: ImageFile) -> list[int | str]:
    """Values that change if a file is replaced, even by one of the same size and modification time."""
    return [image.num_bytes, image.mtime_ns, image.ctime_ns, image.inode]


def _entry(image: ImageFile, content: str) -> list[int | str]:
    return [*_stamp(image), content]


def _is_in(index: dict[str, list[int | str]], image: ImageFile) -> bool:
    entry = index.get(image.relative)
    return isinstance(entry, list) and len(entry) == 5 and entry[:4] == _stamp(image)


def _recorded(index: dict[str, list[int | str]], relative: str) -> int | str | None:
    """The last recorded hash of the file's content."""
    entry = index.get(relative)
    return entry[-1] if isinstance(entry, list) and entry else None


def _size(path: Path) -> int | None:
    """The file's size; None if another process has removed it."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _last_use(path: Path) -> float:
    """The time when `load` last used these pixels."""
    try:
        return path.with_name(_LIST_NAME).stat().st_mtime
    except OSError:
        return 0.0


def _remove_unused(path: Path) -> bool:
    """Remove the pixels unless a process may be using them; whether they are gone."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path.parent, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return not path.exists()


def _listed(bad: Sequence[Bad]) -> str:
    lines = [f"{printable(image.relative)}: {error.what}" for image, error in bad]
    return "\n    " + listed(lines, "\n    ")
