"""kill -9 at every file event and at random times: the resumed run ends with the bytes of an uninterrupted one."""

import functools
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.io.files import read_folder, remove_temporaries, write_bytes, write_folder
from pocket_resnet.model.step_folders import newest_first
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training import checkpoint
from pocket_resnet.training.run import train
from pocket_resnet.training.run_folder import RunFolder

NUM_RANDOM_KILLS = 20
TRAIN_DIGITS = (
    *("train", "fast", "--data", "digits", "--run", "r", "--resume", "--min-steps", "0", "--epochs", "3"),
    *("--batch-size", "128", "--model.widths", "8", "16", "16", "--model.stem-width", "8", "--norm-images", "256"),
    *("--ema.decay", "0.9", "--optim.lookahead-steps", "3", "--checkpoint.every-s", "0", "--no-report"),
)
CHANGING_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
TIMES = ("seconds", "seconds_total", "images_per_s")


def run(runs_dir: Path, recipe: Recipe) -> None:
    train(recipe, runs_dir=runs_dir, run="r", resume=True)


def outcome(folder: Path) -> dict[str, Any]:
    """All files of a run except times: two runs are the same if this is equal."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    documents = [*metrics, *(json.loads((folder / name).read_text()) for name in ("result.json", "model/config.json"))]
    for document in documents:
        for key in TIMES:
            document.pop(key, None)
        if "model" in document:
            document["model"] = Path(document["model"]).name
    newest = newest_first(folder / "checkpoints")[0]
    return {
        "documents": documents,
        "checkpoint": (newest.name, (newest / checkpoint.TENSORS_NAME).read_bytes()),
        "weights": (folder / "model/model.safetensors").read_bytes(),
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")),
    }


def die_at(number: int) -> None:
    """Kill this process just before its change number `number` on the disk; half of a file being synced is kept.

    An audit hook cannot be removed: call it in a child.
    """
    count, fsync = itertools.count(1), os.fsync
    synced_bytes: dict[int, int] = {}  # by inode

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if (event in CHANGING_EVENTS or (event == "open" and arguments[2] & os.O_CREAT)) and next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync_or_die(descriptor: int) -> None:
        if next(count) == number:
            if os.path.isfile(f"/proc/self/fd/{descriptor}"):  # noqa: PTH113 - a descriptor, not a path of ours
                status = os.fstat(descriptor)
                os.ftruncate(descriptor, (synced_bytes.get(status.st_ino, 0) + status.st_size) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)
        synced_bytes[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size

    os.fsync = fsync_or_die
    sys.addaudithook(note)


@pytest.fixture
def recipe(make_recipe: Callable[..., Recipe]) -> Recipe:
    return make_recipe()


@pytest.fixture
def undisturbed(tmp_path: Path, recipe: Recipe, synthetic: Any) -> dict[str, Any]:  # noqa: ARG001
    run(tmp_path / "undisturbed", recipe)
    return outcome(tmp_path / "undisturbed" / "r")


@pytest.mark.threat(1, 2, 3)
def test_kill_at_each_file_event(undisturbed: dict[str, Any], recipe: Recipe, tmp_path: Path, start_child: Any) -> None:
    """Bit-equal after resuming; after the first save a checkpoint always exists; no temporaries stay."""

    def work(runs_dir: Path, number: int) -> None:
        die_at(number)
        run(runs_dir, recipe)

    last_step = 0
    for number in itertools.count(1):
        runs_dir = tmp_path / str(number)
        if start_child(functools.partial(work, runs_dir, number)).wait() == 0:
            break
        newest = checkpoint.load_newest(runs_dir / "r" / "checkpoints")
        step = 0 if newest is None else newest[0].step
        assert last_step <= step <= last_step + 1, f"at event {number}"
        for path in newest_first(runs_dir / "r" / "checkpoints"):
            checkpoint.load(path)  # half a checkpoint never has its name, be it half written or half removed
        last_step = step
        run(runs_dir, recipe)
        assert outcome(runs_dir / "r") == undisturbed, f"at event {number}"
    assert number > 60
    assert last_step == 4


@pytest.mark.threat(1)
@pytest.mark.parametrize("max_steps", [2, 3])
def test_kill_after_the_last_checkpoint(
    max_steps: int,
    make_recipe: Callable[..., Recipe],
    synthetic: Any,  # noqa: ARG001
    tmp_path: Path,
    start_child: Any,
) -> None:
    """Also where `max_steps` ends the run within an epoch, or after one that is not due for validation."""
    recipe = make_recipe(max_steps=max_steps, validate_every=3, epochs=4)

    def die_before_the_result(runs_dir: Path) -> None:
        RunFolder.write_final = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        run(runs_dir, recipe)

    run(tmp_path / "undisturbed", recipe)
    assert start_child(lambda: die_before_the_result(tmp_path / "killed")).wait() == -signal.SIGKILL
    run(tmp_path / "killed", recipe)
    assert outcome(tmp_path / "killed" / "r") == outcome(tmp_path / "undisturbed" / "r")


@pytest.mark.threat(1)
def test_kill_while_something_is_replaced(tmp_path: Path, start_child: Any) -> None:
    """After a kill, a replaced model or file is the complete old one or the complete new one."""

    def write(folder: Path, content: bytes) -> None:
        write_folder(folder / "model", {"a": content, "b": content * 2})
        write_bytes(folder / "result.json", content)

    def replace(folder: Path, number: int) -> None:
        die_at(number)
        write(folder, b"new")

    outcomes = []
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        write(folder, b"old")
        is_over = start_child(functools.partial(replace, folder, number)).wait() == 0
        remove_temporaries(folder)
        files = read_folder(folder / "model", ("a", "b"), max_bytes=100)
        assert files["a"] * 2 == files["b"]
        outcomes.append((files["a"], (folder / "result.json").read_bytes()))
        assert {path.name for path in folder.iterdir()} == {"model", "result.json"}
        if is_over:
            break
    assert number > 12
    assert sorted(outcomes, reverse=True) == outcomes
    assert set(outcomes) == {(b"old", b"old"), (b"new", b"old"), (b"new", b"new")}


@pytest.mark.threat(1)
def test_kill_at_random_times(undisturbed: dict[str, Any], recipe: Recipe, tmp_path: Path, start_child: Any) -> None:
    """Twenty kills, resumed until the run ends; every run ends bit-equal."""
    draws = random.Random(0)
    started_s = time.monotonic()
    run(tmp_path / "timed", recipe)
    whole_s = time.monotonic() - started_s
    num_killed = number = 0
    while num_killed < NUM_RANDOM_KILLS:
        number += 1
        runs_dir, is_killed = tmp_path / str(number), True
        while is_killed:
            child = start_child(lambda runs_dir=runs_dir: run(runs_dir, recipe))
            if num_killed < NUM_RANDOM_KILLS:  # after that it may take its time
                time.sleep(draws.uniform(0, whole_s))
                child.signal(signal.SIGKILL)
            is_killed = child.wait() == -signal.SIGKILL
            num_killed += is_killed
        assert outcome(runs_dir / "r") == undisturbed


@pytest.mark.threat(1, 2)
@pytest.mark.long
def test_kill_the_real_command_at_random_times(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Twenty kills in the training loop, resumed until the end; the files are bit-equal."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pocket_resnet", *TRAIN_DIGITS]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "undisturbed").wait() == 0
    undisturbed, draws = outcome(tmp_path / "undisturbed/runs/r"), random.Random(0)
    num_killed = number = 0
    while num_killed < NUM_RANDOM_KILLS:
        number += 1
        runs, is_killed = tmp_path / str(number), True
        while is_killed:
            metrics, process = runs / "runs/r/metrics.jsonl", start(runs)
            last = metrics.stat().st_mtime_ns if metrics.exists() else 0
            while process.poll() is None and (not metrics.exists() or metrics.stat().st_mtime_ns == last):
                time.sleep(0.005)  # until the loop begins: importing is not what is to be killed
            if num_killed < NUM_RANDOM_KILLS:  # after that it may take its time
                time.sleep(draws.uniform(0, 1))
                process.kill()
            is_killed = process.wait() == -signal.SIGKILL
            num_killed += is_killed
            assert is_killed or process.returncode == 0
            newest = checkpoint.load_newest(runs / "runs/r/checkpoints")
            assert newest is None or newest[0].step > 0
            assert not caplog.messages
        assert outcome(runs / "runs/r") == undisturbed
