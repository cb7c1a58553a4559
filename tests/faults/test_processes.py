"""Two processes have bit-equal weights; rank 0 writes; losing a process loses no training."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from children import free_port
from pocket_resnet.cli.main import main
from pocket_resnet.model.step_folders import newest_first
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import to_toml
from pocket_resnet.training import checkpoint
from pocket_resnet.training.callbacks import Callback, RunState
from pocket_resnet.training.distributed import DataParallel
from pocket_resnet.training.metrics import Record
from pocket_resnet.training.run import train
from pocket_resnet.training.trainer import Trainer

SGD: dict[str, Any] = {"name": "sgd", "lr": 0.05, "nesterov": False, "momentum": 0.9, "lookahead_steps": 0}

CHANGING_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "shutil.rmtree")

pytestmark = pytest.mark.usefixtures("synthetic")


@pytest.fixture
def command(tmp_path: Path, make_recipe: Callable[..., Recipe], tiny_spec: Any) -> Callable[..., list[str]]:
    """command("run", epochs=4): the arguments of a training without dropout, whose draws differ by process."""

    def make(run: str, **changes: Any) -> list[str]:
        path = tmp_path / f"{run}.toml"
        path.write_text(to_toml(make_recipe(**{"model": replace(tiny_spec), "name": "tiny"} | changes)))
        return ["train", str(path), "--run", run, "--no-report", "--runs-dir", str(tmp_path / "runs")]

    return make


def changes_in(folder: Path) -> list[str]:
    """Record the changes that this child process makes in the folder from now on."""
    changed: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in CHANGING_EVENTS or (
            event == "open" and arguments[2] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
        )
        if changes and str(arguments[0]).startswith(str(folder)):
            changed.append(f"{event} {arguments[0]}")

    sys.addaudithook(note)
    return changed


def state_at_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], dict[str, Tensor]]:
    """Make every process write its state after its last step; returns a function that reads it."""
    whole = Trainer.end_epoch

    def end_epoch(self: Trainer) -> None:
        whole(self)
        if self.step == self.steps.total:
            copies = {name: value.clone().contiguous() for name, value in self.tensors().items()}
            save_file(copies, tmp_path / f"state-{self.processes.rank}-of-{self.processes.world_size}")

    monkeypatch.setattr(Trainer, "end_epoch", end_epoch)
    return lambda rank: load_file(tmp_path / f"state-{rank}-of-2")


@pytest.mark.threat(64, 73)
@pytest.mark.parametrize(("optim", "hard_fraction"), [(SGD, 1.0), ({"name": "muon"}, 1.0), (SGD, 0.7)])
def test_both_processes_have_the_same_weights(
    optim: dict[str, Any],
    hard_fraction: float,
    command: Any,
    start_ranks: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Weights, momentum, averages, statistics and totals, to the bit; the other writes no file, prints no line."""
    state_of = state_at_the_end(monkeypatch, tmp_path)
    mixup = 0.5 if hard_fraction == 1 else 0.0
    arguments = command(
        "two", epochs=4, min_steps=9, optim=optim, hard_fraction=hard_fraction, augment={"mixup": mixup}
    )

    def work(rank: int) -> None:
        written = changes_in(tmp_path / "runs")
        main(arguments)
        sys.exit(0 if bool(written) == (rank == 0) else 3)

    assert [rank.wait() for rank in start_ranks(work)] == [0, 0]
    captured = capfd.readouterr()
    assert (captured.err.count("epoch 5/5"), captured.out.count("accuracy")) == (1, 1)
    assert captured.err.count("14 images are few") == 1
    one, other = state_of(0), state_of(1)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_callback_of_rank_0_stops_both(
    make_recipe: Callable[..., Recipe], start_ranks: Any, tmp_path: Path, tiny_spec: Any
) -> None:
    """At the same step; the callbacks of the other process are not called."""

    class StopAtOnce(Callback):
        def on_epoch(self, run: RunState, record: Record) -> None:  # noqa: ARG002
            assert run.trainer.processes.rank == 0
            run.stop()

    def work(_rank: int) -> None:
        recipe = make_recipe(model=replace(tiny_spec), epochs=4)
        result = train(recipe, runs_dir=tmp_path, run="r", callbacks=[StopAtOnce()])
        sys.exit(0 if result.steps == 2 else 3)

    assert [rank.wait() for rank in start_ranks(work)] == [0, 0]
    assert json.loads((tmp_path / "r/result.json").read_text())["steps"] == 2


@pytest.mark.threat(1, 9)
@pytest.mark.parametrize("moment", ["before the step", "before gradients are summed"])
def test_a_lost_process_ends_the_run_with_a_checkpoint(
    moment: str,
    command: Any,
    start_ranks: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Exit code 5, one line, an exact checkpoint of the last whole step; one process can resume it."""
    ranks = start_ranks(lambda _rank: main(command("whole", epochs=4, max_steps=3)))
    assert [rank.wait() for rank in ranks] == [0, 0]
    whole = checkpoint.load(tmp_path / "runs/whole/checkpoints/step-000003")[1]
    capfd.readouterr()
    step = Trainer.train_step

    def die_in_rank_1(self: Trainer, *signals: Any) -> int:
        def die(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        if self.step == 3 and self.processes.rank == 1:
            if moment == "before the step":
                die()
            monkeypatch.setattr(DataParallel, "backward", die)
        return step(self, *signals)

    monkeypatch.setattr(Trainer, "train_step", die_in_rank_1)
    arguments = command("lost", epochs=4, checkpoint={"every_s": 1e9})
    ranks = start_ranks(lambda _rank: main(arguments))
    assert [rank.wait() for rank in ranks] == [5, -signal.SIGKILL]
    err = capfd.readouterr().err
    assert "pocket-resnet: another process of this run has ended" in err
    assert "resume with: pocket-resnet train" in err
    [saved] = newest_first(tmp_path / "runs" / "lost" / "checkpoints")
    assert saved.name == "step-000003"
    assert checkpoint.load(saved)[1].keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in checkpoint.load(saved)[1].items())
    main([*arguments, "--resume"])
    err = capfd.readouterr().err
    assert "not bit-exact: the run began on" in err
    assert "2 processes" in err
    assert json.loads((tmp_path / "runs" / "lost" / "result.json").read_text())["steps"] == 8


@pytest.mark.threat(9)
def test_without_rank_0_the_run_ends_with_its_last_checkpoint(
    command: Any, start_ranks: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The other process reports it and ends with exit code 5; a resumed run starts from rank 0's last checkpoint."""
    step = Trainer.train_step

    def die_in_rank_0(self: Trainer, *signals: Any) -> int:
        if self.step == 3 and self.processes.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *signals)

    arguments = command("headless", epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", die_in_rank_0)
        ranks = start_ranks(lambda _rank: main(arguments))
        assert [rank.wait() for rank in ranks] == [-signal.SIGKILL, 5]
    assert "pocket-resnet: another process of this run has ended" in capfd.readouterr().err
    ranks = start_ranks(lambda _rank: main([*arguments, "--resume"]))
    assert [rank.wait() for rank in ranks] == [0, 0]
    err = capfd.readouterr().err
    assert "resumed at step 3" in err
    assert "not bit-exact: several processes" in err


@pytest.mark.threat(73)
def test_a_signal_to_one_stops_both_at_the_same_step(
    command: Any, start_ranks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = Trainer.train_step

    def interrupt_rank_1(self: Trainer, *signals: Any) -> int:
        if self.step == 2 and self.processes.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *signals)

    monkeypatch.setattr(Trainer, "train_step", interrupt_rank_1)
    arguments = command("stopped", epochs=4, checkpoint={"every_s": 1e9})
    ranks = start_ranks(lambda _rank: main(arguments))
    assert [rank.wait() for rank in ranks] == [128 + signal.SIGTERM] * 2
    [saved] = newest_first(tmp_path / "runs" / "stopped" / "checkpoints")
    assert saved.name == "step-000003"


@pytest.mark.threat(55)
@pytest.mark.parametrize("variables", [{"RANK": "1"}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "abc"}])
def test_invalid_torchrun_variables(
    variables: dict[str, str], command: Any, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit code 2 before any work, with what to do; no traceback, and nothing is written."""
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr("pocket_resnet.training.run.open_source", lambda *_, **__: pytest.fail("read the data"))
    code, out, err = run(*command("r"))
    assert (code, out) == (2, "")
    assert re.fullmatch(r"pocket-resnet: (RANK|WORLD_SIZE): .*\n  start several processes with torchrun.*\n", err)
    assert not (tmp_path / "runs").exists()


@pytest.mark.threat(55)
@pytest.mark.parametrize(("rank", "other"), [(0, 1), (1, 0)])
def test_a_missing_process(
    rank: int, other: int, command: Any, start_ranks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any
) -> None:
    """Exit code 5 after the deadline."""
    monkeypatch.setenv("POCKET_RESNET_WAIT_S", "0.5")
    monkeypatch.setattr("pocket_resnet.training.torchrun.FIRST_MESSAGE_S", 0.1)
    arguments = command("alone")
    ranks = start_ranks(lambda mine: main(arguments) if mine == rank else None)
    assert [each.wait() for each in ranks] == [5 if mine == rank else 0 for mine in (0, 1)]
    waits, fails, hint = capfd.readouterr().err.splitlines()
    assert re.fullmatch(rf"rank {rank} of 2 waits at 127.0.0.1:\d+ for rank {other}, 0.5 s at most", waits)
    assert re.fullmatch(rf"pocket-resnet: rank {other} of 2 did not connect to 127.0.0.1:\d+ within 0.5 s", fails)
    assert "POCKET_RESNET_WAIT_S" in hint
    assert not (tmp_path / "runs").exists()


@pytest.mark.threat(55)
def test_a_process_that_hangs(
    command: Any, start_ranks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The other saves the last whole step and ends with exit code 5 after the deadline."""
    step = Trainer.train_step

    def stop_in_rank_1(self: Trainer, *signals: Any) -> int:
        if self.step == 3 and self.processes.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return step(self, *signals)

    monkeypatch.setattr(Trainer, "train_step", stop_in_rank_1)
    monkeypatch.setenv("POCKET_RESNET_WAIT_S", "2")
    arguments = command("silent", epochs=4, checkpoint={"every_s": 1e9})
    first, _ = start_ranks(lambda _rank: main(arguments))
    assert first.wait() == 5
    assert "pocket-resnet: another process of this run does not answer" in capfd.readouterr().err
    [saved] = newest_first(tmp_path / "runs" / "silent" / "checkpoints")
    assert saved.name == "step-000003"


@pytest.mark.threat(64)
def test_the_real_torchrun(tmp_path: Path) -> None:
    """As in docs/several-machines.md: one run of two processes, announced once."""
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    train = ["train", "fast", "--data", "digits", "--run", "r", "--max-steps", "2", "--batch-size", "32", "--no-report"]
    small = ["--model.widths", "8", "8", "8", "--norm-images", "32", "--hardware.num-threads", "1"]
    command = [sys.executable, "-m", *torchrun, "-m", "--", "pocket_resnet", *train, *small]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy") == 1
    assert f"rank 0 of 2, on {socket.gethostname()}, writes {tmp_path / 'runs/r'}\n" in done.stderr
    assert json.loads((tmp_path / "runs/r/result.json").read_text())["steps"] == 2
    [state] = (tmp_path / "runs/r/checkpoints").glob("*/state.json")
    assert json.loads(state.read_text())["hardware"].endswith("2 processes")
