"""CIFAR-10 and CIFAR-100 from either official archive, unpacked or not, or from their official address.

The MD5 of every file is compared with the published one. If the folder can be written, the result is recorded there
with size, times and inode, and the file is not hashed again until `verify`. For CIFAR-100's binary files, only the
MD5 of the archive is published; their own are recorded at extraction.
"""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

import torch

from pocket_resnet.data.archive import extract
from pocket_resnet.data.published import CifarLayout, Family
from pocket_resnet.data.records import CHW
from pocket_resnet.data.source import Source, Split, Verification
from pocket_resnet.errors import DataError, EnvironmentFault
from pocket_resnet.io import download, files
from pocket_resnet.io.locks import exclusive

MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
MIRROR_VARIABLE = "POCKET_RESNET_MIRROR"  # addresses of folders with the archives, separated by spaces
MAX_FILE_BYTES = 256 * 2**20
_RECORD_NAME = ".verified.json"  # file name -> [bytes, mtime in ns, ctime in ns, inode, MD5]

Stamp = list[int | str]


def urls(layout: CifarLayout) -> list[str]:
    """The archive's addresses: the official one, or those in POCKET_RESNET_MIRROR instead."""
    mirrors = os.environ.get(MIRROR_VARIABLE, "").split() or MIRRORS
    return [f"{mirror.rstrip('/')}/{layout.archive}" for mirror in mirrors]


def is_downloaded(family: Family, data_dir: Path) -> bool:
    """Whether the data set or its archive is in this folder. Raises DataError if it is incomplete."""
    return bool(_find_archive(family, data_dir) or _find_folder(family, data_dir))


class Cifar(Source):
    """CIFAR-10 or CIFAR-100 from the data folder; if it is missing, it is unpacked or downloaded into the folder.

    Raises DataError if it is missing or incomplete, EnvironmentFault if it cannot be downloaded.
    """

    def __init__(self, family: Family, data_dir: Path, allow_download: bool = True) -> None:
        self.name, self.class_names, self.num_val = family.name, family.class_names, family.num_val
        self._family = family
        folder_and_layout = _find_folder(family, data_dir)
        if folder_and_layout is None:
            _obtain(family, data_dir, allow_download)
            folder_and_layout = _find_folder(family, data_dir)
            assert folder_and_layout is not None
            self._folder, self._layout = folder_and_layout
            self.verify()
        self._folder, self._layout = folder_and_layout
        self.where = str(self._folder)
        self.num_test = family.num_test if (self._folder / self._layout.test).is_file() else None
        published = [(layout.archive_md5, sorted(layout.md5.items())) for layout in family.layouts]
        self.fingerprint = hashlib.sha256(repr((family.name, published)).encode()).hexdigest()

    def trainval(self) -> Split:
        """All training images, in official order; the last `num_val` are for validation."""
        return self._load(self._layout.train, self._family.num_trainval)

    def test(self) -> Split:
        """The test images, in official order."""
        return self._load((self._layout.test,), self._family.num_test)

    def verify(self) -> Verification:
        """Hash every existing file again. Raises DataError showing both hashes of a wrong file."""
        stamps = _read_stamps(self._folder)
        existing = [name for name in self._layout.members if (self._folder / name).is_file()]
        num_recorded = sum(name not in self._layout.md5 and name not in stamps for name in existing)
        for name in existing:
            self._read(name, stamps, trust_stamp=False)
        _write_stamps(self._folder, stamps)
        return Verification(len(existing), num_recorded)

    def _load(self, names: tuple[str, ...], num_images: int) -> Split:
        """Reads one file at a time into the final tensors, so the peak memory is all images and one file."""
        images_NCHW = torch.empty((num_images, *CHW), dtype=torch.uint8)
        labels_N = torch.empty(num_images, dtype=torch.int64)
        stamps, start = _read_stamps(self._folder), 0
        old_stamps = dict(stamps)
        for name in names:
            content = self._read(name, stamps)
            images, labels = self._layout.parse(content, len(self.class_names), str(self._folder / name))
            stop = start + len(labels)
            if stop > num_images or (name == names[-1] and stop < num_images):
                raise DataError(
                    f"contains {len(labels):,} images, for a total of {stop:,} instead of {num_images:,}",
                    where=self._folder / name,
                    hint="download the official file again",
                )
            images_NCHW.numpy()[start:stop] = images
            labels_N.numpy()[start:stop] = labels
            start = stop
        if stamps != old_stamps:
            _write_stamps(self._folder, stamps)
        return Split(images_NCHW, labels_N)

    def _read(self, name: str, stamps: dict[str, Stamp], trust_stamp: bool = True) -> bytes:
        """The file's content, whose MD5 is right; updates the stamps."""
        path = self._folder / name
        hint = f"put the official file there, or delete {self._folder} to download all of it again"
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_size > MAX_FILE_BYTES:
                    raise DataError(f"over the limit of {MAX_FILE_BYTES:,} bytes", where=path, hint=hint)
                content = file.read()
        except FileNotFoundError as error:
            raise DataError("missing", where=path, hint=hint) from error
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", where=path, hint=hint) from error
        last_md5 = stamps.get(name, [""])[-1]
        expected = self._layout.md5.get(name, str(last_md5))
        now: Stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        if not (trust_stamp and stamps.get(name) == [*now, expected]):
            md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
            if expected and md5 != expected:
                known = "is published" if name in self._layout.md5 else "was recorded first"
                raise DataError(f"wrong MD5: it is {md5}, {expected} {known}", where=path, hint=hint)
            stamps[name] = [*now, md5]
        return content


def _find_folder(family: Family, data_dir: Path) -> tuple[Path, CifarLayout] | None:
    incomplete: DataError | None = None
    for layout in family.layouts:
        for folder in (data_dir / layout.folder, data_dir):
            missing = [name for name in layout.train if not (folder / name).is_file()]
            if not missing:
                return folder, layout
            if len(missing) < len(layout.train) and incomplete is None:
                incomplete = DataError(
                    f"{', '.join(missing)} missing",
                    where=folder,
                    hint="put the official file there, or delete the folder to download all of it again",
                )
    if incomplete is not None:
        raise incomplete
    return None


def _find_archive(family: Family, data_dir: Path) -> CifarLayout | None:
    return next((layout for layout in family.layouts if (data_dir / layout.archive).is_file()), None)


def _obtain(family: Family, data_dir: Path, allow_download: bool) -> None:
    """Unpack the archive in the data folder, downloading it first if it is missing.

    An existing archive is kept. Raises DataError showing both hashes if it is not the official one.
    """
    layout = _find_archive(family, data_dir) or family.layouts[0]
    path = data_dir / layout.archive
    if not allow_download and not path.is_file():
        raise DataError(f"{family.name} is not in this folder", where=data_dir, hint=f"save {urls(layout)[0]} there")
    with exclusive(data_dir / layout.folder):
        if _find_folder(family, data_dir):
            return  # another process was faster
        is_downloaded = not path.is_file()
        if is_downloaded:
            download.fetch(urls(layout), path, layout.archive_md5)
        elif (md5 := files.digest(path, "md5")) != layout.archive_md5:
            what = f"wrong MD5: it is {md5}, {layout.archive_md5} is published"
            raise DataError(what, where=path, hint=f"remove it, or put {urls(layout)[0]} in its place")
        _unpack(path, layout, data_dir / layout.folder)
        if is_downloaded:
            path.unlink()


def _unpack(archive: Path, layout: CifarLayout, folder: Path) -> None:
    """Move all files to the folder in one step, so that a process without the lock never sees only some of them.

    Existing files are kept: `verify` refuses them if they are not the official ones.
    """
    staged = folder.with_name(f"{files.TEMPORARY_PREFIX}{folder.name}")
    shutil.rmtree(staged, ignore_errors=True)  # left by a killed process
    extract(archive, {f"{layout.folder}/{name}": staged / name for name in layout.members})
    with files.explain_os_errors(folder):
        if not folder.exists():
            staged.rename(folder)
            return
        for name in layout.members:
            if not (folder / name).exists():
                (staged / name).replace(folder / name)
        shutil.rmtree(staged)


def _read_stamps(folder: Path) -> dict[str, Stamp]:
    try:
        stamps = json.loads((folder / _RECORD_NAME).read_bytes())
        return {str(name): [*map(int, numbers), str(md5)] for name, (*numbers, md5) in stamps.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # nothing is recorded: verify again


def _write_stamps(folder: Path, stamps: dict[str, Stamp]) -> None:
    with contextlib.suppress(EnvironmentFault):  # a folder that cannot be written is verified each time
        files.write_bytes(folder / _RECORD_NAME, files.json_bytes(stamps))
