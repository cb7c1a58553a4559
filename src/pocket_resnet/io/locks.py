"""File locks that the kernel releases when their process ends, so a crash leaves nothing to clean up.

`lock_folder` refuses a folder in use; `exclusive` and `PatientLock` wait.
"""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor, unlock_descriptor

from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.io.files import TEMPORARY_PREFIX, explain_os_errors, warn_once

WAIT_S, POLL_S = 3600.0, 0.1
LOCK_NAME = ".lock"
NUM_ATTEMPTS = 100
NO_LOCKS = "the file system does not support locks: make sure that no other process writes here"


class HeldError(Exception):
    """Another process has the lock."""


def lock(file: IO[Any]) -> bool:
    """Lock the open file; False if its file system has no locks. Raises HeldError if another process has the lock."""
    try:
        is_ours = lock_descriptor(file.fileno(), blocking=False)
    except OSError:
        return False
    if not is_ours:
        raise HeldError
    return True


class PatientLock:
    """A lock on a file; `acquire` waits for it. The kernel releases the lock of a killed process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+")

    def acquire(self) -> bool:
        """Wait for the lock and take it. Returns at once if the file system has no locks."""
        with contextlib.suppress(OSError):
            lock_descriptor(self._file.fileno(), blocking=True)
        return True

    def release(self) -> None:
        """Release the lock."""
        with contextlib.suppress(OSError):
            unlock_descriptor(self._file.fileno())


@contextlib.contextmanager
def lock_folder(folder: Path, hint: str = "wait for it, or choose another --run name") -> Iterator[str | None]:
    """Lock the folder for this process; yields a warning if a dead process left its lock, or there are no locks.

    A folder that this creates is removed again if the block leaves nothing in it. Raises EnvironmentFault naming the
    process that has the lock.
    """
    file, is_locked, is_new = _take(folder, hint)
    with file:
        holder = _holder(file)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        taken_over = f"took over the lock of process {holder}, which has ended" if holder else None
        try:
            yield taken_over if is_locked else f"{folder}: {NO_LOCKS}"
        finally:
            file.truncate(0)
            if is_locked and is_new:
                _remove_unused(folder)


def is_in_use(folder: Path) -> bool:
    """Whether another process has locked the folder, or this one may not; False where files cannot be locked."""
    try:
        with (folder / LOCK_NAME).open("r+") as file:
            if _holder(file):
                lock(file)  # until the file is closed
            return False
    except FileNotFoundError:
        return False
    except (HeldError, OSError):
        return True


def _take(folder: Path, hint: str) -> tuple[IO[str], bool, bool]:
    """The open lock file, whether it is locked, and whether this created the folder."""
    path, is_new = folder / LOCK_NAME, False
    for _ in range(NUM_ATTEMPTS):
        with explain_os_errors(path):
            is_new |= _create(folder)
            try:
                file = path.open("a+")
            except FileNotFoundError:  # another process has just removed its new folder
                continue
        try:
            is_locked = lock(file)
        except HeldError as error:
            with file:
                raise EnvironmentFault(
                    f"in use by process {_holder(file) or 'unknown'}", where=folder, hint=hint
                ) from error
        if not is_locked or _is_at(path, file):
            return file, is_locked, is_new
        file.close()
    raise EnvironmentFault("other processes keep removing it", where=folder, hint=hint)


def _create(folder: Path) -> bool:
    """Create the folder; whether it is new."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if os.path.lexists(folder) and not folder.is_dir():
            raise
        return False
    return True


def _holder(file: IO[str]) -> str:
    """The process that has the lock, or that died with it."""
    file.seek(0)
    return file.read().strip()


def _is_at(path: Path, file: IO[str]) -> bool:
    """Whether the open file is still the one at that path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _remove_unused(folder: Path) -> None:
    """Remove the folder if it holds only its lock, which this process has. One that waits for it notices (`_is_at`)."""
    path = folder / LOCK_NAME
    with contextlib.suppress(OSError):
        if list(folder.iterdir()) == [path]:
            path.unlink()
            folder.rmdir()  # fails if another process has a new lock there


@contextlib.contextmanager
def exclusive(path: Path, wait_s: float = WAIT_S, watch: Callable[[], None] | None = None) -> Iterator[None]:
    """Lock a path in the data folder against other processes and threads; waits for it, at most `wait_s`.

    First removes what a killed process has left under a temporary name of this path. `watch` is called repeatedly while
    it waits, and may raise to end the wait. Raises EnvironmentFault if the folder cannot be written, or if another
    process holds the lock for too long.
    """
    file_path, deadline_s = path.with_name(f".{path.name}.lock"), time.monotonic() + wait_s
    with explain_os_errors(file_path, hint="choose a writable --data-dir or $POCKET_RESNET_DATA"):
        file_path.parent.mkdir(parents=True, exist_ok=True)
        file = file_path.open("a")
    with file:
        while True:
            try:
                is_locked = lock(file)
                break
            except HeldError:
                if time.monotonic() >= deadline_s:
                    what = "another process has held this for too long"
                    raise EnvironmentFault(what, where=path, hint="wait, or stop that process") from None
            if watch is not None:
                watch()
            time.sleep(POLL_S)
        if is_locked:
            _remove_temporaries(path)
        else:
            warn_once(NO_LOCKS, path)
        yield


def _remove_temporaries(path: Path) -> None:
    name = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}\d+-{re.escape(path.name)}")
    with explain_os_errors(path):
        for sibling in path.parent.iterdir():
            if not name.fullmatch(sibling.name):
                continue
            if sibling.is_dir() and not sibling.is_symlink():
                shutil.rmtree(sibling)
            else:
                sibling.unlink()
