"""File locks that the kernel releases when their process ends, so a crash leaves nothing to clean up."""

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
