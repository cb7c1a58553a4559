"""The folder of a run: its path, and which runs may use it."""

import shutil
from collections.abc import Callable
from copy import copy
from pathlib import Path

import pytest

from pocket_resnet.data.source import Source
from pocket_resnet.errors import UsageError
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import to_toml
from pocket_resnet.training import checkpoint
from pocket_resnet.training.checkpoint import CheckpointState
from pocket_resnet.training.run_folder import RunFolder, choose_folder


def test_default_folders(make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path) -> None:
    """NAME, NAME-2, NAME-3; resuming uses the last."""
    recipe = make_recipe(seed=7)
    for name in ("tiny-synthetic-seed7", "tiny-synthetic-seed7-2", "tiny-synthetic-seed7-3"):
        folder = choose_folder(tmp_path, recipe, source, None, resume=False)
        assert folder == tmp_path / name
        folder.mkdir()
        assert choose_folder(tmp_path, recipe, source, None, resume=True) == folder
    assert choose_folder(tmp_path / "new", recipe, source, None, resume=True).name == "tiny-synthetic-seed7"


@pytest.mark.threat(43)
def test_resuming_finds_the_run_whose_data_were_moved(
    make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path
) -> None:
    """The folder's name changed with its path. Other recipes, seeds, data and names do not match."""
    recipe, moved = make_recipe(seed=7), copy(source)
    moved.name = "/new/place"
    for number, (name, fingerprint, owner) in enumerate(
        [
            ("tiny-synthetic-seed7", source.fingerprint, recipe),
            ("tiny-others-seed7", "other", recipe),
            ("tiny-synthetic-seed70", source.fingerprint, make_recipe(seed=70)),
            ("tiny-x-synthetic-seed7", source.fingerprint, make_recipe(name="tiny-x", seed=7)),
            ("tiny-mine", source.fingerprint, recipe),
        ]
    ):
        state = CheckpointState(step=number, seconds=0.0, hardware="", data_fingerprint=fingerprint)
        checkpoint.save(tmp_path / name / "checkpoints", state, {})
        (tmp_path / name / "recipe.toml").write_text(to_toml(owner))
    assert choose_folder(tmp_path, recipe, moved, None, resume=True) == tmp_path / "tiny-synthetic-seed7"
    assert choose_folder(tmp_path, recipe, moved, None, resume=False) == tmp_path / "tiny-place-seed7"
    (tmp_path / "tiny-others-seed7" / "checkpoints").rename(tmp_path / "gone")
    shutil.copytree(tmp_path / "tiny-synthetic-seed7", tmp_path / "tiny-copy-seed7-2")
    with pytest.raises(UsageError, match=r"several runs .* tiny-copy-seed7-2, tiny-synthetic-seed7\n  choose one"):
        choose_folder(tmp_path, recipe, moved, None, resume=True)
    (tmp_path / "tiny-place-seed7").mkdir()
    assert choose_folder(tmp_path, recipe, moved, None, resume=True) == tmp_path / "tiny-place-seed7"


@pytest.mark.threat(43)
def test_resuming_without_a_run_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also with the default folder name."""
    with RunFolder(tmp_path / "r").locked(expected=True):
        assert caplog.messages == [f"nothing to resume in {tmp_path / 'r'}: starting a new run"]


def test_default_folder_stays_in_runs(make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path) -> None:
    for name, data in {"../../up": "/a/b c\n", "/abs": "..", "a/b": "."}.items():
        source.name = data
        folder = choose_folder(tmp_path, make_recipe(name=name), source, None, resume=False)
        assert folder.parent == tmp_path
        assert folder.name.endswith("-seed0")
        assert not set(folder.name) & set("/\n ")


def test_named_folder(make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path) -> None:
    recipe = make_recipe()
    assert choose_folder(tmp_path, recipe, source, "mine", resume=False) == tmp_path / "mine"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.toml").touch()
    with pytest.raises(UsageError, match="this run already exists"):
        choose_folder(tmp_path, recipe, source, "mine", resume=False)
    assert choose_folder(tmp_path, recipe, source, "mine", resume=True) == tmp_path / "mine"
    for name in ("../x", "a/b", "/abs", "..", ".hidden", ""):
        with pytest.raises(UsageError, match="not a plain folder name"):
            choose_folder(tmp_path, recipe, source, name, resume=False)


def test_link_to_the_latest_run_is_followed(make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "latest").symlink_to("mine")
    assert choose_folder(tmp_path, make_recipe(), source, "latest", resume=True) == tmp_path / "mine"
