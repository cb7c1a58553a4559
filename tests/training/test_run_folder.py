"""The folder of a run: what its files say, and what a run that fails leaves."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.errors import DataError
from pocket_resnet.training import run
from pocket_resnet.training.run import Result, train
from pocket_resnet.training.run_folder import RunFolder


def test_what_a_run_has_left(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    """A recipe alone cannot be resumed; a lock alone is nothing."""
    train_tiny(max_steps=1)
    folder = RunFolder(tmp_path / "r")

    def found() -> tuple[bool, bool]:
        return folder.is_used, folder.can_be_resumed

    assert found() == (True, True)
    (folder.path / "result.json").unlink()
    assert found() == (True, True)
    shutil.rmtree(folder.checkpoints)
    assert found() == (True, False)
    (folder.path / "recipe.toml").unlink()
    assert found() == (False, False)


@pytest.mark.parametrize("left", ["recipe.toml", "result.json"])
def test_without_a_checkpoint_the_start_from_the_beginning_is_a_warning(
    left: str, train_tiny: Callable[..., Result], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_tiny(max_steps=2)
    shutil.rmtree(tmp_path / "r" / "checkpoints")
    if left == "recipe.toml":
        (tmp_path / "r" / "result.json").unlink()
    else:
        assert train_tiny(resume=True, max_steps=2).steps == 2  # finished: nothing is trained
        assert "nothing to resume" not in caplog.text
    assert train_tiny(resume=True).steps == 4
    assert f"nothing to resume in {tmp_path / 'r'}: starting a new run" in caplog.messages


@pytest.mark.usefixtures("synthetic")
def test_a_run_that_fails_before_it_writes_leaves_no_folder(
    make_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the next run has its name."""

    def fail(*_: Any) -> None:
        raise DataError("damaged")

    with monkeypatch.context() as patch:
        patch.setattr(run, "new_trainer", fail)
        with pytest.raises(DataError):
            train(make_recipe(), runs_dir=tmp_path)
    assert not list(tmp_path.glob("tiny-*"))
    assert train(make_recipe(max_steps=1), runs_dir=tmp_path).model == str(tmp_path / "tiny-synthetic-seed0/model")
