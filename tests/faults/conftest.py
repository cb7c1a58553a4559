"""Children that can be killed: forked, so that each starts in a millisecond with everything imported; and how long
to fuzz.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

CRASHED = 99

# `make test` draws the same few examples every time, `make fuzz` others in every round.
settings.register_profile("quick", max_examples=60, derandomize=True, database=None, deadline=10_000)
settings.register_profile("long", max_examples=2_000, deadline=10_000, print_blob=True)


class Child:
    """A forked process that runs `work` and exits with its code."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.ended = False
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _work_and_exit(work)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def is_running(self) -> bool:
        return not self.ended and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self) -> int:
        """The exit code, negative for the signal that killed it."""
        status = os.waitpid(self.pid, 0)[1]
        self.ended = True
        return os.waitstatus_to_exitcode(status)


def _work_and_exit(work: Callable[[], Any]) -> None:
    code = CRASHED
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


@pytest.fixture
def start_child() -> Iterator[Callable[[Callable[[], Any]], Child]]:
    """start_child(function) forks; what is left at the end of the test is killed."""
    children: list[Child] = []

    def start(work: Callable[[], Any]) -> Child:
        children.append(Child(work))
        return children[-1]

    yield start
    for child in children:
        if not child.ended:
            child.signal(signal.SIGKILL)
            child.wait()
