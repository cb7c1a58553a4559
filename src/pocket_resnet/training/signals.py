"""SIGTERM, SIGINT and SIGHUP while training: note the first, obey the second."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

CAUGHT: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Inside, the first signal is only noted in the list, and a second one exits at once.

    What the parent ignores stays ignored: SIGHUP under nohup, SIGINT of a background job. A second SIGHUP waits too: a
    terminal that closes sends one, and its shell another.
    """
    caught: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if caught and number != signal.SIGHUP:
            os._exit(128 + number)
        caught.append(number)

    previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
    with contextlib.suppress(ValueError):  # only the main thread may; elsewhere signals keep their meaning
        for number in CAUGHT:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: a program around Python has its own
                previous[number] = signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
