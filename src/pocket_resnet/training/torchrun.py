"""Reads torchrun's environment variables, and connects the processes of a run."""

import contextlib
import math
import os
import re
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.io.progress import print_line

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
WAIT_S = 1800.0  # like torch: other machines may still decode their images
WAIT_VARIABLE = "POCKET_RESNET_WAIT_S"
FIRST_MESSAGE_S, MESSAGE_EVERY_S = 5.0, 60.0
POLL_S, ATTEMPT_S = 0.05, 2.0


@dataclass(frozen=True)
class Launch:
    """This process among those that were started together; alone by default."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    address: str = ""
    port: int = 0
    wait_s: float = WAIT_S
    """Maximum time that one process waits for another, in seconds."""


class LaunchError(UsageError):
    """Environment variables are missing or invalid."""

    usual_hint = (
        f"start several processes with torchrun, which sets {', '.join((*NUMBERS, *ADDRESS))}, "
        "or unset them to train with one"
    )


def launch() -> Launch:
    """This process according to the variables. Raises LaunchError naming one that is missing or invalid.

    An address alone is ignored: some clusters set it for all processes.
    """
    present = [name for name in NUMBERS if name in os.environ]
    if not present:
        return Launch()
    world_size = _number("WORLD_SIZE", 1, 2**31 - 1, present)
    rank = _number("RANK", 0, world_size - 1, present)
    if world_size == 1 and "LOCAL_RANK" not in os.environ:
        return Launch()
    local_rank = _number("LOCAL_RANK", 0, world_size - 1, present)
    if world_size == 1:
        return Launch()
    address, port = _text("MASTER_ADDR", present), _number("MASTER_PORT", 1, 65_535, present)
    return Launch(rank, world_size, local_rank, address, port, _wait_s())


def _text(name: str, present: list[str]) -> str:
    if name not in os.environ:
        raise LaunchError(f"not set, but {' and '.join(present)} {'is' if len(present) == 1 else 'are'}", where=name)
    if not (text := os.environ[name].strip()):
        raise LaunchError("set, but empty", where=name)
    return text


def _number(name: str, low: int, high: int, present: list[str]) -> int:
    text = _text(name, present)
    if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
        among = " alone" if low == high else f" to {high}"
        raise LaunchError(f"{text[:20]!r} is not a whole number from {low}{among}", where=name)
    return int(text)


def _wait_s() -> float:
    text = os.environ.get(WAIT_VARIABLE, f"{WAIT_S:g}")
    with contextlib.suppress(ValueError):
        if 0 < (wait_s := float(text)) < math.inf:
            return wait_s
    raise UsageError(
        f"{text!r} is not a number of seconds above 0", where=WAIT_VARIABLE, hint="set it to such a number, or unset it"
    )


def connect_store(launch: Launch) -> Any:
    """A store that all processes of the run have connected to; prints which ones are missing.

    Raises EnvironmentFault naming those that have not connected within `wait_s`.
    """
    waiting = _Waiting(launch)
    store = _store(launch, waiting)
    store.set(_key(launch.rank), "here")
    others = [rank for rank in range(launch.world_size) if rank != launch.rank]
    while others := [rank for rank in others if not store.check([_key(rank)])]:
        waiting.wait_for(others)
    return store


def _key(rank: int) -> str:
    return f"pocket-resnet/{rank}"


def _store(launch: Launch, waiting: "_Waiting") -> Any:
    """torchrun's own store, or one on rank 0 if another launcher started the processes."""
    is_master = launch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
    while not is_master and not _accepts_connections(launch):  # torch itself would print stack traces
        waiting.wait_for([0])
    try:
        return dist.TCPStore(  # type: ignore[attr-defined]
            launch.address,
            launch.port,
            launch.world_size,
            is_master,
            timeout=timedelta(seconds=launch.wait_s),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except dist.DistError as error:
        what = f"no torchrun store at {launch.address}:{launch.port}: {str(error).splitlines()[0]}"
        raise EnvironmentFault(what, hint="give torchrun another --master-port") from error


def _accepts_connections(launch: Launch) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((launch.address, launch.port), timeout=ATTEMPT_S).close()
        return True
    return False


class _Waiting:
    """Waits for processes: prints periodically which ones are missing, and gives up at the deadline."""

    def __init__(self, launch: Launch) -> None:
        self.launch, self.started_s = launch, time.monotonic()
        self.message_s = self.started_s + FIRST_MESSAGE_S - MESSAGE_EVERY_S

    def wait_for(self, missing: list[int]) -> None:
        launch, now_s = self.launch, time.monotonic()
        names = f"rank{'' if len(missing) == 1 else 's'} {', '.join(map(str, missing))}"
        at = f"{launch.address}:{launch.port}"
        if now_s - self.started_s > launch.wait_s:
            raise EnvironmentFault(
                f"{names} of {launch.world_size} did not connect to {at} within {launch.wait_s:g} s",
                hint=f"start all of them (check their messages), or wait longer with {WAIT_VARIABLE}",
            )
        if now_s - self.message_s > MESSAGE_EVERY_S:
            self.message_s = now_s
            me = f"rank {launch.rank} of {launch.world_size}"
            print_line(f"{me} waits at {at} for {names}, {launch.wait_s:g} s at most")
        time.sleep(POLL_S)
