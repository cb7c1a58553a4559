"""The folder that a run trains in, and the one that it resumes."""

import shutil
from collections.abc import Callable
from copy import copy
from pathlib import Path

import pytest

from pocket_resnet.data.source import Source
from pocket_resnet.errors import UsageError
from pocket_resnet.io.locks import lock_folder
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import to_toml
from pocket_resnet.training import checkpoint
from pocket_resnet.training.checkpoint import CheckpointState
from pocket_resnet.training.run_names import choose_folder

STATE = CheckpointState(step=1, seconds=0.0, hardware="", data_fingerprint="other")
NAME = "tiny-synthetic-seed7"


@pytest.fixture
def choose(make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path) -> Callable[..., str]:
    """choose(resume=True) gives the name of the folder of a run whose name is not given."""
    return lambda resume: choose_folder(tmp_path, make_recipe(seed=7), source, None, resume=resume).path.name


def begin(folder: Path) -> None:
    folder.mkdir()
    (folder / "recipe.toml").touch()


def test_default_folders(choose: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """NAME, NAME-2, NAME-3; resuming uses the last. A second run says where it goes."""
    caplog.set_level("INFO")
    assert choose(resume=True) == NAME
    for name in (NAME, f"{NAME}-2", f"{NAME}-3"):
        assert choose(resume=False) == name
        begin(tmp_path / name)
        assert choose(resume=True) == name
    second, third = (tmp_path / f"{NAME}-{number}" for number in (2, 3))
    assert [message for message in caplog.messages if "exists" in message] == [
        f"{tmp_path / NAME} exists: this run goes to {second}",
        f"{second} exists: this run goes to {third}",
    ]


def test_starts_that_left_nothing_use_no_number(choose: Callable[..., str], tmp_path: Path) -> None:
    """Killed before they wrote anything, they leave a lock. The folder of a process that has just begun is used."""

    (tmp_path / NAME).mkdir()
    assert choose(resume=False) == choose(resume=True) == NAME
    (tmp_path / f"{NAME}-2").mkdir()
    (tmp_path / f"{NAME}-2" / ".lock").write_text("4194304")
    assert choose(resume=False) == choose(resume=True) == NAME
    with lock_folder(tmp_path / f"{NAME}-2"):
        assert choose(resume=False) == f"{NAME}-3"
        assert choose(resume=True) == f"{NAME}-2"
    assert choose(resume=False) == NAME
    (tmp_path / NAME).rmdir()
    (tmp_path / NAME).touch()  # a file
    assert choose(resume=False) == f"{NAME}-2"


@pytest.mark.threat(1)
@pytest.mark.parametrize("left", ["checkpoint", "result"])
def test_a_start_without_a_checkpoint_does_not_hide_the_run(
    left: str, choose: Callable[..., str], tmp_path: Path
) -> None:
    """Resuming takes the last folder with a checkpoint or a result, also after gaps; new runs come after all."""
    for name in (NAME, f"{NAME}-3"):
        begin(tmp_path / name)
        if left == "checkpoint":
            checkpoint.save(tmp_path / name / "checkpoints", STATE, {})
        else:
            (tmp_path / name / "result.json").touch()
    begin(tmp_path / f"{NAME}-10")
    (tmp_path / f"{NAME}-11").mkdir()
    for other in ("-01", "-1", "-12-old", "0", "-4x"):
        begin(tmp_path / f"{NAME}{other}")
    assert choose(resume=True) == f"{NAME}-3"
    assert choose(resume=False) == f"{NAME}-11"
    shutil.rmtree(tmp_path / f"{NAME}-3")
    assert choose(resume=True) == NAME
    shutil.rmtree(tmp_path / NAME)
    assert choose(resume=True) == f"{NAME}-10"


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
    (tmp_path / "tiny-place-seed7").mkdir()  # of a start that failed
    assert choose_folder(tmp_path, recipe, moved, None, resume=True).path == tmp_path / "tiny-synthetic-seed7"
    assert choose_folder(tmp_path, recipe, moved, None, resume=False).path == tmp_path / "tiny-place-seed7"
    (tmp_path / "tiny-others-seed7" / "checkpoints").rename(tmp_path / "gone")
    shutil.copytree(tmp_path / "tiny-synthetic-seed7", tmp_path / "tiny-copy-seed7-2")
    with pytest.raises(UsageError, match=r"several runs .* tiny-copy-seed7-2, tiny-synthetic-seed7\n  choose one"):
        choose_folder(tmp_path, recipe, moved, None, resume=True)
    checkpoint.save(tmp_path / "tiny-place-seed7" / "checkpoints", STATE, {})
    assert choose_folder(tmp_path, recipe, moved, None, resume=True).path == tmp_path / "tiny-place-seed7"


def test_default_folder_stays_in_runs(make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path) -> None:
    for name, data in {"../../up": "/a/b c\n", "/abs": "..", "a/b": "."}.items():
        source.name = data
        folder = choose_folder(tmp_path, make_recipe(name=name), source, None, resume=False).path
        assert folder.parent == tmp_path
        assert folder.name.endswith("-seed0")
        assert not set(folder.name) & set("/\n ")


def test_named_folder(make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path) -> None:
    recipe = make_recipe()
    for leaves in (lambda: None, (tmp_path / "mine").mkdir):
        leaves()
        assert choose_folder(tmp_path, recipe, source, "mine", resume=False).path == tmp_path / "mine"
    checkpoint.save(tmp_path / "mine" / "checkpoints", STATE, {})
    with pytest.raises(UsageError, match="this run already exists"):
        choose_folder(tmp_path, recipe, source, "mine", resume=False)
    assert choose_folder(tmp_path, recipe, source, "mine", resume=True).path == tmp_path / "mine"
    for name in ("../x", "a/b", "/abs", "..", ".hidden", ""):
        with pytest.raises(UsageError, match="not a plain folder name"):
            choose_folder(tmp_path, recipe, source, name, resume=False)


def test_link_to_the_latest_run_is_followed(make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path) -> None:
    begin(tmp_path / "mine")
    (tmp_path / "latest").symlink_to("mine")
    assert choose_folder(tmp_path, make_recipe(), source, "latest", resume=True).path == tmp_path / "mine"
    with pytest.raises(UsageError, match="this run already exists"):
        choose_folder(tmp_path, make_recipe(), source, "latest", resume=False)


@pytest.mark.parametrize("there", ["nothing", "a link to a deleted run", "a folder", "a run"])
@pytest.mark.parametrize("resume", [False, True])
def test_latest_is_no_name_of_a_run(
    there: str, resume: bool, make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path
) -> None:
    """Its folder would take the place of the link for good."""
    link = tmp_path / "latest"
    {
        "nothing": lambda: None,
        "a link to a deleted run": lambda: link.symlink_to("deleted"),
        "a folder": link.mkdir,
        "a run": lambda: begin(link),
    }[there]()
    with pytest.raises(UsageError, match="latest: not a link to a run, and the name `latest` is reserved"):
        choose_folder(tmp_path, make_recipe(), source, "latest", resume=resume)
