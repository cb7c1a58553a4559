"""Children that can be killed: forked, so that each starts in a millisecond with everything imported."""

import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

CRASHED = 99


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


@pytest.fixture
def start_ranks(start_child: Callable[..., Child]) -> Callable[..., list[Child]]:
    """start_ranks(function, 3) forks three processes as torchrun would; each calls the function with its rank."""

    import torch._dynamo  # noqa: F401 - torch's data parallelism would, in each child anew, for seconds

    def start(work: Callable[[int], Any], world_size: int = 2) -> list[Child]:
        port = free_port()

        def as_rank(rank: int) -> None:
            values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
            os.environ.update({key: str(value) for key, value in values.items()} | {"MASTER_ADDR": "127.0.0.1"})
            work(rank)

        return [start_child(lambda rank=rank: as_rank(rank)) for rank in range(world_size)]

    return start


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
