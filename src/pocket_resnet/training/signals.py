"""SIGTERM and SIGINT while training: note the first, obey the second."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

CAUGHT = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Inside, the first SIGTERM or SIGINT is only noted in the list, and a second one exits at once."""
    caught: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)

    previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
    with contextlib.suppress(ValueError):  # only the main thread may; elsewhere signals keep their meaning
        previous = {number: signal.signal(number, note) for number in CAUGHT}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
