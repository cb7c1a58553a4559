"""SIGTERM, SIGINT and SIGHUP during training: the first is recorded, a second one exits."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

CAUGHT: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Inside the block, the first signal is only added to the list, and a second one exits at once.

    Signals that the parent ignores stay ignored: SIGHUP under nohup, SIGINT in a background job. A second SIGHUP does
    not exit: when a terminal closes, it sends one and its shell another.
    """
    caught: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if caught and number != signal.SIGHUP:
            os._exit(128 + number)
        caught.append(number)

    previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
    with contextlib.suppress(ValueError):  # only the main thread can set handlers; in others, signals are unchanged
        for number in CAUGHT:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: a handler not set from Python
                previous[number] = signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
