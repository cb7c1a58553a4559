"""Two runs in one folder, and the lock of a dead process."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.io.locks import lock_folder
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training.run import Result, train


@pytest.fixture
def train_tiny(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> Callable[..., Result]:  # noqa: ARG001
    """train_tiny(max_steps=2) trains the tiny recipe in `folder`, or resumes there."""
    return lambda **changes: train(make_recipe(**changes), runs_dir=tmp_path / "runs", run="r", resume=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "r"


@pytest.mark.threat(12)
def test_second_run_in_a_folder_is_refused(train_tiny: Callable[..., Result], folder: Path, start_child: Any) -> None:
    """Exit 5, naming the process that holds it; stale temporaries, which may be its own, stay."""
    held, done = os.pipe(), os.pipe()

    def hold() -> None:
        with lock_folder(folder):
            os.write(held[1], b"x")
            os.read(done[0], 1)

    child = start_child(hold)
    os.read(held[0], 1)
    (folder / ".tmp-its-own").touch()
    with pytest.raises(EnvironmentFault, match=f"in use by process {child.pid}") as raised:
        train_tiny()
    assert raised.value.exit_code == 5
    assert (folder / ".tmp-its-own").exists()
    os.write(done[1], b"x")
    assert child.wait() == 0
    assert train_tiny().steps == 4


@pytest.mark.threat(12)
def test_the_lock_of_a_dead_process_is_reused(
    train_tiny: Callable[..., Result], folder: Path, start_child: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """With a log message; after a normal end there is none."""

    def die() -> None:
        with lock_folder(folder):
            os._exit(7)

    child = start_child(die)
    assert child.wait() == 7
    train_tiny(max_steps=1)
    assert f"took over the lock of process {child.pid}, which has ended" in caplog.text
    caplog.clear()
    with pytest.raises(UsageError):
        train_tiny(batch_size=7)
    train_tiny()
    assert "took over" not in caplog.text
