"""SIGTERM, SIGINT and SIGHUP during training: the first is recorded, a second one ends the work at once."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any

CAUGHT: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_exits: ContextVar[bool] = ContextVar("exits", default=False)


@contextlib.contextmanager
def second_signal_exits() -> Iterator[None]:
    """Inside the block, a second signal ends the process: for the command line and its workers."""
    before = _exits.set(True)
    try:
        yield
    finally:
        _exits.reset(before)


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Inside the block, the first signal is only added to the list, and a second one ends the work at once.

    In the caller's process, a second SIGINT raises KeyboardInterrupt and a second SIGTERM SystemExit, so that the
    caller's `finally` blocks run. Inside `second_signal_exits`, both end the process.
    Signals that the parent ignores stay ignored: SIGHUP under nohup, SIGINT in a background job. A second SIGHUP has no
    effect: when a terminal closes, it sends one and its shell another.
    """
    caught: list[int] = []
    exits = _exits.get()

    def note(number: int, _frame: FrameType | None) -> None:
        if not caught or number == signal.SIGHUP:
            caught.append(number)
        elif exits:
            os._exit(128 + number)
        else:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

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
