"""Writes all files and folders: under a temporary name first, then synced and renamed.

A crash leaves the old file or the new one, never half a file, and possibly a `.tmp-*` file that the next owner of the
folder removes. Folders whose content must be verified later contain a SHA256SUMS file.
"""

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pocket_resnet.errors import ArtifactError, EnvironmentFault, UsageError
from pocket_resnet.io import sums
from pocket_resnet.io.json_format import json_text

TEMPORARY_PREFIX = ".tmp-"
SUMS_NAME = "SHA256SUMS"
MAX_SUMS_BYTES = 64 * 1024
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Errors of file systems that do not support an operation: FUSE, Google Drive's folder in Colab, some NFS.
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
_log = logging.getLogger(__name__)


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with `~` replaced by the user's home; unchanged if there is no such user or home.

    Raises UsageError for anything else, such as a program's result in place of its path.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"{type(path).__name__} is not a path", hint="give a path, such as `result.model`")
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises without one)


@contextlib.contextmanager
def explain_os_errors(path: Path, num_bytes: int | None = None, hint: str | None = None) -> Iterator[None]:
    """Turn an OSError raised inside into an EnvironmentFault that names the path (and the bytes needed)."""
    try:
        yield
    except BrokenPipeError:  # the reader of a FIFO has gone: not a problem of the machine
        raise
    except OSError as error:
        needed = "" if num_bytes is None else f" ({num_bytes:,} bytes needed)"
        if error.errno in _DISK_FULL:
            raise EnvironmentFault(
                f"the disk is full{needed}", where=path, hint="free some space and try again"
            ) from error
        raise EnvironmentFault(
            f"cannot write: {error.strerror or error}{needed}",
            where=path,
            hint=hint or "choose a writable folder",
        ) from error


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder survive a power cut, if the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor, folder)
    finally:
        os.close(descriptor)


def _sync(descriptor: int, path: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        warn_once("the file system cannot sync: a power cut may lose the newest files", path)


def warn_once(what: str, path: Path) -> None:
    """Log a warning about the path's file system, each warning once per process."""
    if what not in _warned:
        _warned.add(what)
        _log.warning("%s: %s", path, what)


_warned: set[str] = set()


def _temporary_sibling(path: Path) -> Path:
    return path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}"


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        _sync(file.fileno(), path)


def append_line(path: Path, line: str) -> None:
    """Append a line to the file and sync it. Raises EnvironmentFault if that fails."""
    content = f"{line}\n".encode()
    with explain_os_errors(path, len(content)), path.open("ab") as file:
        file.write(content)
        file.flush()
        _sync(file.fileno(), path)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file in one step. Raises EnvironmentFault and keeps the old one if that fails."""
    with replacing(path, len(content)) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path, num_bytes: int | None = None) -> Iterator[BinaryIO]:
    """Yields a file to write in pieces; it replaces the path in one step if the block ends without an error."""
    temporary = _temporary_sibling(path)
    with explain_os_errors(path, num_bytes):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                _sync(file.fileno(), path)
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def is_replaced(path: Path) -> bool:
    """Whether `write_through` replaces the path by a new file; it writes into an existing FIFO or character device.

    Raises UsageError if the path is not a writable kind of file.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return True
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        what = "a folder" if stat.S_ISDIR(mode) else "a block device or socket"
        raise UsageError(f"{what}, not a writable file", where=path, hint="give a file name")
    return stat.S_ISREG(mode)


def write_through(path: Path, content: bytes) -> None:
    """Replace a regular file in one step, also through a link; write into other kinds of files, see `is_replaced`."""
    with explain_os_errors(path, len(content)):
        if is_replaced(path):
            write_bytes(Path(os.path.realpath(path)), content)
        else:
            with path.open("wb") as file:
                file.write(content)


def write_text(path: Path, text: str) -> None:
    """Replace the UTF-8 file in one step."""
    write_bytes(path, text.encode())


def json_bytes(value: Any) -> bytes:
    """The value as JSON in UTF-8. Raises ValueError for NaN and infinity, which JSON does not have."""
    return json_text(value).encode()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder of files with their SHA256SUMS in one step, replacing an older one.

    Markdown files are left out of the sums: people may edit them.
    """
    temporary, replaced = (
        _temporary_sibling(folder),
        _temporary_sibling(folder.with_name(f"{folder.name}.old")),
    )
    with explain_os_errors(folder, sum(len(content) for content in files.values())):
        try:
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had this one's number
            temporary.mkdir(parents=True)
            for name, content in {**files, SUMS_NAME: sums.of(files)}.items():
                _write_synced(temporary / name, content)
            sync_folder(temporary)
            if folder.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                folder.rename(replaced)
            temporary.rename(folder)
            sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            if replaced.exists() and not folder.exists():
                replaced.rename(folder)
            raise
        if replaced.exists():
            shutil.rmtree(replaced)


def remove_folder(folder: Path) -> None:
    """Remove the folder; a crash leaves it whole or under a temporary name."""
    temporary = _temporary_sibling(folder)
    with explain_os_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        folder.rename(temporary)
        shutil.rmtree(temporary)


def read_folder(folder: Path, required: tuple[str, ...], max_bytes: int) -> dict[str, bytes]:
    """These files of a folder made by `write_folder`, each checked against its SHA-256; others are not opened.

    Raises ArtifactError for a file that is missing, too large, not in SHA256SUMS or has another hash.
    """
    recorded = _read_sums(folder)
    contents = {}
    for name in required:
        if name not in recorded:
            raise ArtifactError(f"{name} is not listed in {SUMS_NAME}", where=folder)
        path = folder / name
        contents[name] = read_limited(path, max_bytes)
        sums.check(contents[name], recorded[name], path)
    return contents


def is_listed(folder: Path, name: str) -> bool:
    """Whether the folder's SHA256SUMS has the file. Raises ArtifactError if it cannot be read."""
    return name in _read_sums(folder)


def _read_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS_NAME
    return sums.parse(read_limited(path, MAX_SUMS_BYTES), path)


def read_limited(path: Path, max_bytes: int) -> bytes:
    """The file's content. Raises ArtifactError before reading if the file is larger than the limit."""
    try:
        num_bytes = path.stat().st_size
        if not path.is_file():
            raise ArtifactError("not a plain file", where=path)
        if num_bytes > max_bytes:
            raise ArtifactError(f"{num_bytes:,} bytes, over the limit of {max_bytes:,}", where=path)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError("missing", where=path) from error
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", where=path) from error


def remove_temporaries(folder: Path) -> int:
    """Remove temporary files and folders of a crashed writer, and return their number; call it under the folder's lock.

    A folder that was moved aside for a new one is moved back if the new one is missing.
    """
    stale = list(folder.glob(f"{TEMPORARY_PREFIX}*"))
    for path in stale:
        moved_aside = re.fullmatch(rf"{re.escape(TEMPORARY_PREFIX)}\d+-(.+)\.old", path.name)
        if moved_aside and not (folder / moved_aside[1]).exists():
            path.rename(folder / moved_aside[1])
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return len(stale)


def point_to(link: Path, target: str) -> None:
    """Create or replace a symbolic link in one step; anything else under its name is left alone.

    Links are a convenience: a failure only logs a warning.
    """
    if link.exists() and not link.is_symlink():
        return
    temporary = _temporary_sibling(link)
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)
    except OSError as error:
        warn_once(f"cannot create the link `{link.name}` to {target} ({error.strerror or error})", link.parent)


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The file's hexadecimal hash, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
