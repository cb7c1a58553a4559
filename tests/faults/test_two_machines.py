"""Two machines train one network, one of them is lost, and one process resumes alone.

The machines are network namespaces with their own addresses, joined by a virtual cable.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pocket_resnet.model.step_folders import newest_first, step_of

TRAIN = (
    *("pocket_resnet", "train", "fast", "--data", "digits", "--run", "r", "--min-steps", "0", "--epochs", "5"),
    *("--batch-size", "128", "--model.widths", "8", "16", "16", "--model.stem-width", "8", "--norm-images", "256"),
    *("--checkpoint.every-s", "0", "--hardware.num-threads", "1", "--no-report"),
)
ADDRESSES, CARD, PORT = ("10.213.0.1", "10.213.0.2"), "eth0", 29500
WAIT_S, PATIENCE_S = 15, 180


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """The names of two namespaces; without the rights or `ip`, the test is skipped."""
    names = [f"pocket-{os.getpid()}-{number}" for number in (1, 2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", CARD, "netns", names[0], "type", "veth", "peer", "name", CARD, "netns", names[1])
    except (OSError, subprocess.CalledProcessError) as error:
        subprocess.run(["ip", "netns", "delete", names[0]], capture_output=True, check=False)
        pytest.skip(f"no network namespaces here: {error}")
    for name, address in zip(names, ADDRESSES, strict=True):
        ip("-n", name, "address", "add", f"{address}/24", "dev", CARD)
        for card in ("lo", CARD):
            ip("-n", name, "link", "set", card, "up")
    yield names
    for name in names:
        kill_all(name)
        ip("netns", "delete", name)


def kill_all(machine: str) -> None:
    """kill -9 to every process of the machine."""
    for pid in ip("netns", "pids", machine).split():
        os.kill(int(pid), signal.SIGKILL)


def lose_power(machine: str) -> None:
    """The cable first, so that no packet reaches the other machine."""
    ip("-n", machine, "link", "set", CARD, "down")
    kill_all(machine)


def start(machines: list[str], rank: int, folder: Path) -> subprocess.Popen[str]:
    """torchrun on the machine, in a folder that the other one does not see."""
    (folder / str(rank)).mkdir()
    torchrun = ["torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1"]
    meeting = ["--master-addr", ADDRESSES[0], "--master-port", str(PORT)]
    # Both have this machine's name, which does not resolve to their addresses, so gloo gets the network card.
    environment = os.environ | {"GLOO_SOCKET_IFNAME": CARD, "POCKET_RESNET_WAIT_S": str(WAIT_S)}
    with (folder / f"output-{rank}").open("w") as output:
        return subprocess.Popen(
            ["ip", "netns", "exec", machines[rank], sys.executable, "-m", *torchrun, *meeting, "-m", "--", *TRAIN],
            cwd=folder / str(rank),
            env=environment,
            stdout=output,
            stderr=output,
            text=True,
        )


def wait_for(happened: Callable[[], bool], processes: list[subprocess.Popen[str]]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < until_s
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)


@pytest.mark.threat(9, 55)
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("lose", "loss"), [(kill_all, "has ended"), (lose_power, "does not answer")])
def test_one_of_two_machines_is_lost(
    lose: Callable[[str], None], loss: str, machines: list[str], tmp_path: Path
) -> None:
    """The first reports it and has saved its state, and one process finishes the training."""
    processes = [start(machines, rank, tmp_path) for rank in (0, 1)]
    run = tmp_path / "0/runs/r"

    def has_trained() -> bool:
        return any(step_of(path) >= 4 for path in newest_first(run / "checkpoints"))

    try:
        wait_for(has_trained, processes)
        lose(machines[1])
        assert processes[1].wait(PATIENCE_S) == -signal.SIGKILL
        assert processes[0].wait(PATIENCE_S) == 1  # torchrun's own
    finally:
        outputs = [(tmp_path / f"output-{rank}").read_text() for rank in (0, 1)]
        sys.stdout.write("\n".join(outputs))
    assert f"pocket-resnet: another process of this run {loss}" in outputs[0]
    assert all(f"rank 0 of 2, on {os.uname().nodename}, writes {run}\n" in each for each in outputs)
    assert not (tmp_path / "1/runs").exists()
    step = step_of(newest_first(run / "checkpoints")[0])
    resumed = subprocess.run(
        [sys.executable, "-m", *TRAIN, "--resume"], cwd=tmp_path / "0", capture_output=True, text=True, check=True
    )
    assert f"resumed at step {step}\n" in resumed.stderr
    assert "not bit-exact: the run began on" in resumed.stderr
    result, records = json.loads((run / "result.json").read_text()), (run / "metrics.jsonl").read_text().splitlines()
    assert result["steps"] == json.loads(records[-1])["step"] > step
    assert [json.loads(record)["epoch"] for record in records] == list(range(1, 6))
