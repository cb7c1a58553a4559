"""Locks that the kernel drops with their process, so that there is nothing to clean up after a crash."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor, unlock_descriptor

from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.io.files import explain_os_errors

NO_LOCKS = "the file system does not support locks: make sure that no other process writes here"


class HeldError(Exception):
    """Another process has the lock."""


def lock(file: IO[Any]) -> bool:
    """Lock the open file; False where its file system has no locks. Raises HeldError where another process has it."""
    try:
        is_ours = lock_descriptor(file.fileno(), blocking=False)
    except OSError:
        return False
    if not is_ours:
        raise HeldError
    return True


class PatientLock:
    """A lock on a file that is waited for; what a killed process had locked is free again."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+")

    def acquire(self) -> bool:
        """Wait for the lock and take it. Without locks in the file system there is nothing to wait for."""
        with contextlib.suppress(OSError):
            lock_descriptor(self._file.fileno(), blocking=True)
        return True

    def release(self) -> None:
        """Let the next one have it."""
        with contextlib.suppress(OSError):
            unlock_descriptor(self._file.fileno())


@contextlib.contextmanager
def lock_folder(folder: Path, hint: str = "wait for it, or choose another --run name") -> Iterator[str | None]:
    """Hold the folder for this process; yields a warning where a dead process left its lock, or there are no locks.

    Raises EnvironmentFault naming the process that holds the folder.
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
