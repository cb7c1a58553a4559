"""Extracts the expected files from an untrusted .tar.gz, and nothing else.

The whole archive is checked first. It is refused if an entry is a link or a device, if a name leads outside the
folder, or if there are more data than the limits allow. Then only the named files are written.
"""

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pocket_resnet.errors import DataError
from pocket_resnet.io import files

MAX_MEMBER_BYTES = 256 * 2**20
MAX_TOTAL_BYTES = 512 * 2**20
MAX_NUM_MEMBERS = 1_000
MAX_RATIO = 100  # unpacked to packed bytes; near 1 for photographs
MAX_HEADER_BYTES = 2**20
_AGAIN = "delete it and try again"
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)


class _BoundedGzip(gzip.GzipFile):
    """Limits each read: tarfile reads an extended header at once, whatever size it states."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of more than {MAX_HEADER_BYTES:,} bytes")
        return super().read(size)


def extract(archive: Path, members: Mapping[str, Path]) -> None:
    """Write each named member to its path, each file atomically.

    Raises DataError before writing anything if the archive is damaged, unsafe, over the limits, or lacks a member.
    """
    try:
        _check(archive, members)
        with _BoundedGzip(archive) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as tar:
            for entry in tar:
                if entry.isfile() and entry.name in members:
                    _write(tar, entry, members[entry.name])
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise DataError(f"a damaged archive: {error}", where=archive, hint=_AGAIN) from error


def _check(archive: Path, members: Mapping[str, Path]) -> None:
    max_total = min(MAX_TOTAL_BYTES, MAX_RATIO * archive.stat().st_size)
    num_bytes, names = 0, set()
    with _BoundedGzip(archive) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as tar:
        for number, entry in enumerate(tar, 1):
            num_bytes += entry.size
            if number > MAX_NUM_MEMBERS:
                raise _unsafe(archive, f"more than {MAX_NUM_MEMBERS:,} entries")
            if entry.size > MAX_MEMBER_BYTES or num_bytes > max_total:
                raise _unsafe(archive, f"{entry.name!r} exceeds the size limit ({num_bytes:,} bytes unpacked so far)")
            if not entry.isdir() and (entry.type not in _REGULAR or entry.issparse()):
                raise _unsafe(archive, f"{entry.name!r} is a link, a device or another special file")
            if PurePosixPath(entry.name).is_absolute() or ".." in PurePosixPath(entry.name).parts:
                raise _unsafe(archive, f"{entry.name!r} would be written outside the folder")
            names.add(entry.name)
    if missing := sorted(set(members) - names):
        raise DataError(f"does not contain {', '.join(missing)}", where=archive, hint=_AGAIN)


def _unsafe(archive: Path, what: str) -> DataError:
    return DataError(f"refused: {what}", where=archive, hint="delete it and download it from the official address")


def _write(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    content = tar.extractfile(entry)
    if content is None:
        raise tarfile.ReadError(f"{entry.name!r} cannot be read")
    with content, files.replacing(path) as file:
        shutil.copyfileobj(content, file, 2**16)
