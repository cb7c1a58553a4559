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

    Raises EnvironmentFault naming the process that has the lock.
    """
    path = folder / ".lock"
    with explain_os_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        file.seek(0)
        holder = file.read().strip()
        try:
            is_locked = lock(file)
        except HeldError as error:
            raise EnvironmentFault(
                f"in use by process {holder or 'unknown'}",
                where=folder,
                hint=hint,
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        taken_over = f"took over the lock of process {holder}, which has ended" if holder else None
        try:
            yield taken_over if is_locked else f"{folder}: {NO_LOCKS}"
        finally:
            file.truncate(0)


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
