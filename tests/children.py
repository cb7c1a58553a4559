"""Children that can be killed: forked, so that each starts in a millisecond with everything imported."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

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
