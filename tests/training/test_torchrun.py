"""Which of torchrun's variables are accepted, and the errors for the others."""

import functools
import socket
import threading
from typing import Any

import pytest

from children import free_port
from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.training import torchrun
from pocket_resnet.training.torchrun import ADDRESS, NUMBERS, WAIT_VARIABLE, Launch, LaunchError, connect_store, launch

WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
ONE = WHOLE | {"RANK": "0", "WORLD_SIZE": "1"}
ALONE = Launch()

TAKEN: dict[str, tuple[dict[str, str], Launch]] = {
    "nothing": ({}, ALONE),
    "an address alone": ({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}, ALONE),
    "an odd address alone": ({"MASTER_PORT": "abc"}, ALONE),
    "one process of torchrun": (ONE, ALONE),
    "one process": ({"RANK": "0", "WORLD_SIZE": "1"}, ALONE),
    "two processes": (WHOLE, Launch(1, 2, 0, "10.0.0.1", 29500)),
    "the first of two": (WHOLE | {"RANK": "0"}, Launch(0, 2, 0, "10.0.0.1", 29500)),
    "spaces": (WHOLE | {"RANK": " 1 "}, Launch(1, 2, 0, "10.0.0.1", 29500)),
    "a deadline": (WHOLE | {WAIT_VARIABLE: "2.5"}, Launch(1, 2, 0, "10.0.0.1", 29500, 2.5)),
}


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in WHOLE.items() if key != name}


# The variable that the error names, and its message.
REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "RANK=1 alone": ({"RANK": "1"}, "WORLD_SIZE: not set, but RANK is"),
    "RANK=0 alone": ({"RANK": "0"}, "WORLD_SIZE: not set, but RANK is"),
    "WORLD_SIZE=2 alone": ({"WORLD_SIZE": "2"}, "RANK: not set, but WORLD_SIZE is"),
    "WORLD_SIZE=1 alone": ({"WORLD_SIZE": "1"}, "RANK: not set, but WORLD_SIZE is"),
    "LOCAL_RANK alone": ({"LOCAL_RANK": "0"}, "WORLD_SIZE: not set, but LOCAL_RANK is"),
    **{f"without {name}": (without(name), f"{name}: not set, but .* (is|are)\n") for name in (*NUMBERS, *ADDRESS)},
    **{f"{name} empty": (WHOLE | {name: ""}, f"{name}: set, but empty") for name in WHOLE},
    **{f"{name} blank": (WHOLE | {name: " "}, f"{name}: set, but empty") for name in WHOLE},
    **{
        f"{name}={text}": (WHOLE | {name: text}, f"{name}: '{text[:20]}' is not a whole number from")
        for name in (*NUMBERS, "MASTER_PORT")
        for text in ("abc", "-1", "1.0", "0x1", "1_0", "²", "9" * 5000)
    },
    "a rank beyond the size": (WHOLE | {"RANK": "2"}, "RANK: '2' is not a whole number from 0 to 1"),
    "a local rank beyond": (WHOLE | {"LOCAL_RANK": "2"}, "LOCAL_RANK: '2' is not a whole number from 0 to 1"),
    "no process at all": (WHOLE | {"WORLD_SIZE": "0"}, "WORLD_SIZE: '0' is not"),
    "one process, but the second": (ONE | {"RANK": "1"}, "RANK: '1' is not a whole number from 0 alone"),
    "one process, the second here": (ONE | {"LOCAL_RANK": "1"}, "LOCAL_RANK: '1' is not a whole number from 0 alone"),
    "port 0": (WHOLE | {"MASTER_PORT": "0"}, "MASTER_PORT: '0' is not"),
    "port 65536": (WHOLE | {"MASTER_PORT": "65536"}, "MASTER_PORT: '65536' is not a whole number from 1 to 65535"),
}


def set_only(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in (*NUMBERS, *ADDRESS, WAIT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)


@pytest.mark.threat(55)
@pytest.mark.parametrize("case", TAKEN)
def test_accepted(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables, expected = TAKEN[case]
    set_only(monkeypatch, variables)
    assert launch() == expected


@pytest.mark.threat(55)
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named, and torchrun."""
    variables, message = REFUSED[case]
    set_only(monkeypatch, variables)
    with pytest.raises(LaunchError, match=f"^{message}") as refusal:
        launch()
    assert "start several processes with torchrun" in str(refusal.value)


@pytest.mark.threat(55)
@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf"])
def test_refused_deadline(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_only(monkeypatch, WHOLE | {WAIT_VARIABLE: text})
    with pytest.raises(UsageError, match=f"^{WAIT_VARIABLE}: '{text}' is not a number of seconds above 0"):
        launch()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.mark.threat(55)
@pytest.mark.parametrize(("rank", "missing"), [(0, "ranks 1, 2"), (2, "rank 0")])
def test_missing_processes_are_named_until_the_deadline(
    rank: int, missing: str, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rank 0 knows which processes are missing; the others wait for rank 0."""
    monkeypatch.setattr(torchrun, "FIRST_MESSAGE_S", 0.0)
    with pytest.raises(
        EnvironmentFault, match=rf"^{missing} of 3 did not connect to 127\.0\.0\.1:{port} within 0\.2 s"
    ):
        connect_store(Launch(rank, 3, rank, "127.0.0.1", port, wait_s=0.2))
    assert capsys.readouterr().err == f"rank {rank} of 3 waits at 127.0.0.1:{port} for {missing}, 0.2 s at most\n"


def test_processes_meet_in_any_order(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    stores: dict[int, Any] = {}

    def come(rank: int) -> None:
        stores[rank] = connect_store(Launch(rank, 3, rank, "127.0.0.1", port, wait_s=60))

    threads = [threading.Thread(target=functools.partial(come, rank)) for rank in (2, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stores) == [0, 1, 2]
    stores[0].set("a", "b")
    assert stores[2].get("a") == b"b"
    assert capsys.readouterr().err == ""


def test_port_in_use(port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(EnvironmentFault, match=rf"no torchrun store at 127\.0\.0\.1:{port}: .*EADDRINUSE"):
            connect_store(Launch(0, 2, 0, "127.0.0.1", port, wait_s=1))
