"""SIGTERM, SIGINT and SIGHUP while training: the first saves, the second exits at once."""

import functools
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.cli.main import main
from pocket_resnet.model.step_folders import newest_first
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import to_toml
from pocket_resnet.training import checkpoint
from pocket_resnet.training.run import train
from pocket_resnet.training.trainer import Trainer

PATIENCE_S = 60


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (outcome := condition()):
        assert time.monotonic() < deadline_s, "nothing happened"
        time.sleep(0.002)
    return outcome


def has_trained(folder: Path) -> bool:
    """Whether an epoch has ended, so that the run is certainly in its loop."""
    path = folder / "metrics.jsonl"
    return path.exists() and path.stat().st_size > 0


@pytest.fixture
def recipe_path(tmp_path: Path, make_recipe: Callable[..., Recipe]) -> Path:
    """A run of many steps that saves only when asked to."""
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(make_recipe(epochs=100_000, checkpoint={"every_s": 1e9})))
    return path


@pytest.fixture
def arguments(recipe_path: Path, tmp_path: Path) -> list[str]:
    return ["train", str(recipe_path), "--run", "r", "--no-report", "--runs-dir", str(tmp_path / "runs")]


@pytest.mark.threat(4, 60)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
@pytest.mark.usefixtures("synthetic")
def test_first_signal_saves(
    number: int, code: int, arguments: list[str], tmp_path: Path, start_child: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """The state is saved, the exit code is 128 + signal, and the printed command resumes."""
    folder = tmp_path / "runs" / "r"
    child = start_child(lambda: main(arguments))
    wait_for(functools.partial(has_trained, folder))
    child.signal(number)
    assert child.wait() == code
    state, _ = checkpoint.load_newest(folder / "checkpoints") or pytest.fail("nothing saved")
    printed = capfd.readouterr().err
    assert f"stopped by {signal.Signals(number).name} after saving step {state.step}" in printed
    assert "Traceback" not in printed
    command = re.search(r"resume with: pocket-resnet (.*)", printed)
    assert command
    main([*shlex.split(command[1]), "--no-report", "--max-steps", str(state.step + 1)])
    assert f"resumed at step {state.step}" in capfd.readouterr().err
    assert json.loads((folder / "result.json").read_text())["steps"] == state.step + 1


@pytest.mark.threat(4)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.usefixtures("synthetic")
def test_second_signal_exits_at_once(
    number: int, code: int, arguments: list[str], tmp_path: Path, start_child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second signal does not wait for a step that hangs."""

    def hang(*_: Any) -> None:
        (tmp_path / "hangs").touch()
        time.sleep(PATIENCE_S)
        (tmp_path / "hung").touch()

    monkeypatch.setattr(Trainer, "train_step", hang)
    child = start_child(lambda: main(arguments))
    wait_for((tmp_path / "hangs").exists)
    child.signal(number)
    time.sleep(0.1)
    assert child.is_running()
    child.signal(number)
    assert child.wait() == code
    assert not (tmp_path / "hung").exists()
    assert not newest_first(tmp_path / "runs" / "r" / "checkpoints")


@pytest.mark.threat(4)
@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.usefixtures("synthetic")
def test_second_signal_in_the_callers_process_lets_it_clean_up(
    number: int,
    raised: type[BaseException],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a notebook, Ctrl-C twice must not end the kernel. The lock and the handlers are released."""

    def hang(*_: Any) -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        pytest.fail("the signal had no effect")

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", hang)
        with pytest.raises(raised) as ending:
            train(make_recipe(), runs_dir=tmp_path, run="r")
    assert getattr(ending.value, "code", 143) == 143
    assert signal.getsignal(number) == before
    assert not newest_first(tmp_path / "r" / "checkpoints")
    assert train(make_recipe(), runs_dir=tmp_path, run="r", resume=True).steps == 4


@pytest.mark.threat(60)
@pytest.mark.usefixtures("synthetic")
def test_a_second_sighup_does_not_exit_at_once(arguments: list[str], tmp_path: Path, start_child: Any) -> None:
    """A closing terminal sends one SIGHUP, and its shell another."""
    folder = tmp_path / "runs" / "r"
    child = start_child(lambda: main(arguments))
    wait_for(functools.partial(has_trained, folder))
    for _ in range(3):
        child.signal(signal.SIGHUP)
    assert child.wait() == 129
    assert newest_first(folder / "checkpoints")


@pytest.mark.threat(60)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.usefixtures("synthetic")
def test_what_the_parent_ignores_stays_ignored(
    number: int, arguments: list[str], tmp_path: Path, start_child: Any
) -> None:
    """SIGINT of a job in the background, SIGHUP under nohup; SIGTERM ends it all the same."""

    def work() -> None:
        signal.signal(number, signal.SIG_IGN)
        main(arguments)

    folder = tmp_path / "runs" / "r"
    child = start_child(work)
    wait_for(functools.partial(has_trained, folder))
    child.signal(number)
    trained = (folder / "metrics.jsonl").stat().st_size
    wait_for(lambda: (folder / "metrics.jsonl").stat().st_size > trained + 1_000)
    assert child.is_running()
    child.signal(signal.SIGTERM)
    assert child.wait() == 143


@pytest.mark.threat(60)
@pytest.mark.usefixtures("synthetic")
def test_a_closed_terminal_stops_with_a_checkpoint(arguments: list[str], tmp_path: Path) -> None:
    """No output can be written, neither progress bar nor errors; the run is saved."""
    folder, read_end, write_end = tmp_path / "runs" / "r", *os.pipe()
    child, terminal = pty.fork()
    if child == 0:
        code = 99
        try:
            main(arguments)
        except SystemExit as ending:
            code = int(str(ending.code))
        finally:
            os.write(write_end, str(code).encode())
            os._exit(code)
    wait_for(functools.partial(has_trained, folder))
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert os.read(read_end, 9) == b"129"
    assert newest_first(folder / "checkpoints")


class LateSignal(list[int]):
    """A list of caught signals that fills just after the decision whether to stop at the first step.

    The step itself has looked before, to inform other processes.
    """

    def __init__(self) -> None:
        super().__init__([signal.SIGTERM])
        self.num_looks = 0

    def __bool__(self) -> bool:
        self.num_looks += 1
        return self.num_looks > 2


@pytest.mark.threat(4)
@pytest.mark.usefixtures("synthetic")
def test_a_run_that_reports_saving_has_saved(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the signal arrives just after the decision not to save."""
    monkeypatch.setattr("pocket_resnet.training.run.catch_signals", lambda: nullcontext(LateSignal()))
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 143
    [saved] = newest_first(tmp_path / "runs" / "r" / "checkpoints")
    assert checkpoint.load(saved)[0].step == 2


@pytest.mark.threat(4)
def test_the_real_command_stops_on_sigterm(recipe_path: Path, tmp_path: Path) -> None:
    """As a shell sees it."""
    recipe_path.write_text(recipe_path.read_text().replace("image_size = 8", "image_size = 32"))
    command = [sys.executable, "-m", "pocket_resnet", "train", str(recipe_path), "--data", "digits", "--run", "r"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: has_trained(tmp_path / "runs/r") or process.poll())
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 143, printed
    assert "resume with: pocket-resnet train runs/r/recipe.toml --resume --run r\n" in printed
    assert len(newest_first(tmp_path / "runs/r/checkpoints")) == 1
