"""Watch the files that this process opens, and make system calls fail."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_opened: list[str] | None = None


def _note_open(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(arguments[0]))


sys.addaudithook(_note_open)


@contextmanager
def watch_opens() -> Iterator[list[str]]:
    """`with watch_opens() as paths`: the paths of all files that the process opens, by whatever means."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


def refuse(number: int) -> Callable[..., None]:
    """A function that fails with this error number, whatever its arguments."""

    def raise_error(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return raise_error
