"""Checkpoints that are damaged, newer, forged, or of another recipe: named, and the newest good one is used."""

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pocket_resnet.errors import ArtifactError, UsageError
from pocket_resnet.io.files import SUMS_NAME, write_folder
from pocket_resnet.model.step_folders import STATE_NAME, newest_first
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training import checkpoint
from pocket_resnet.training.checkpoint import TENSORS_NAME, CheckpointState
from pocket_resnet.training.run import Result, train

NUM_FLIPS = 100
MEMBERS = (TENSORS_NAME, STATE_NAME, SUMS_NAME)


def state(step: int, **changes: Any) -> CheckpointState:
    values = {"step": step, "seconds": 1.5, "hardware": "x", "data_fingerprint": "y"}
    return CheckpointState.model_validate(values | changes)


def save(folder: Path, *steps: int) -> list[Path]:
    return [checkpoint.save(folder, state(step), {"a": torch.full((3,), float(step))}) for step in steps]


def forge(path: Path, **changes: Any) -> None:
    """Write the checkpoint again with other values in its state, with matching sums."""
    values = json.loads((path / STATE_NAME).read_text()) | changes
    tensors = (path / TENSORS_NAME).read_bytes()
    write_folder(path, {TENSORS_NAME: tensors, STATE_NAME: json.dumps(values).encode()})


@pytest.fixture
def train_tiny(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> Callable[..., Result]:  # noqa: ARG001
    """train_tiny(max_steps=2, resume=True) trains the tiny recipe in runs/r."""

    def train_tiny(*, resume: bool = True, fork: bool = False, **changes: Any) -> Result:
        return train(make_recipe(**changes), runs_dir=tmp_path / "runs", run="r", resume=resume, fork=fork)

    return train_tiny


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "r" / "checkpoints"


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), "n": torch.tensor(7)}
    checkpoint.save(tmp_path, state(12), tensors)
    loaded, loaded_tensors = checkpoint.load_newest(tmp_path) or pytest.fail("nothing found")
    assert loaded == state(12)
    assert all(torch.equal(loaded_tensors[name], value) for name, value in tensors.items())
    assert loaded_tensors.keys() == tensors.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000012"]


def test_nothing_saved_yet(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "none") is None


@pytest.mark.threat(7)
def test_newest_by_number(tmp_path: Path) -> None:
    """10 comes after 9, and 1,000,000, which is longer than the padding, after 999,999."""
    save(tmp_path, 9, 10, 999_999, 1_000_000)
    (tmp_path / "step-9999999x").mkdir()
    names = [path.name for path in newest_first(tmp_path)]
    assert names == ["step-1000000", "step-999999", "step-000010", "step-000009"]
    loaded, _ = checkpoint.load_newest(tmp_path) or pytest.fail("nothing found")
    assert loaded.step == 1_000_000


def test_prune_keeps_the_newest_that_count(tmp_path: Path) -> None:
    save(tmp_path, 8, 9, 10, 11, 12)
    checkpoint.remove_after(tmp_path, step=11)
    checkpoint.prune(tmp_path, keep=2)
    assert [path.name for path in newest_first(tmp_path)] == ["step-000011", "step-000010"]


@pytest.mark.threat(6)
@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("damage", ["deleted", "cut", "emptied", "a folder"])
def test_a_damaged_checkpoint_is_named_and_skipped(
    member: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each member, four ways."""
    old, new = save(tmp_path, 1, 2)
    path = new / member
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "deleted":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    loaded, tensors = checkpoint.load_newest(tmp_path) or pytest.fail("nothing found")
    assert loaded.step == 1
    assert tensors["a"].tolist() == [1, 1, 1]
    [message] = caplog.messages
    assert str(new) in message
    assert member in message or damage in ("cut", "emptied")
    shutil.rmtree(old)
    with pytest.raises(ArtifactError, match="every checkpoint is damaged") as raised:
        checkpoint.load_newest(tmp_path)
    assert raised.value.exit_code == 4


@pytest.mark.threat(6)
def test_every_flipped_bit_is_detected(tmp_path: Path) -> None:
    """100 random bits of each file that the sums cover; the file is named."""
    draws = random.Random(0)
    _, new = save(tmp_path, 1, 2)
    for member in (TENSORS_NAME, STATE_NAME):
        whole = (new / member).read_bytes()
        for _ in range(NUM_FLIPS):
            flipped = bytearray(whole)
            flipped[draws.randrange(len(whole))] ^= 1 << draws.randrange(8)
            (new / member).write_bytes(flipped)
            with pytest.raises(ArtifactError, match="damaged") as raised:
                checkpoint.load(new)
            assert raised.value.where == new / member
        (new / member).write_bytes(whole)
    assert checkpoint.load(new)[0].step == 2


@pytest.mark.threat(6)
def test_flipped_sums_never_give_wrong_tensors(tmp_path: Path) -> None:
    """A bit flipped in SHA256SUMS itself is refused or changes nothing."""
    draws = random.Random(1)
    [path] = save(tmp_path, 1)
    whole = (path / SUMS_NAME).read_bytes()
    for _ in range(NUM_FLIPS):
        flipped = bytearray(whole)
        flipped[draws.randrange(len(whole))] ^= 1 << draws.randrange(8)
        (path / SUMS_NAME).write_bytes(flipped)
        with contextlib.suppress(ArtifactError):
            assert checkpoint.load(path)[1]["a"].tolist() == [1, 1, 1]


@pytest.mark.threat(6)
def test_run_falls_back_with_a_warning_and_replaces_the_damaged_checkpoint(
    train_tiny: Callable[..., Result], checkpoints: Path, logged: pytest.LogCaptureFixture
) -> None:
    """The final weights are those without the damage, with one or two checkpoints kept."""
    train_tiny(max_steps=3, checkpoint={"keep": 3})
    damaged = checkpoints / "step-000003" / TENSORS_NAME
    damaged.write_bytes(damaged.read_bytes()[:-1])
    logged.clear()
    (checkpoints.parent / "result.json").unlink()  # as if killed before the end: a finished run is left alone
    assert train_tiny(max_steps=3, checkpoint={"keep": 1}).steps == 3
    assert logged.messages[0].startswith(f"{damaged}: damaged: SHA-256")
    assert logged.messages[1:] == ["resumed at step 2"]
    assert [path.name for path in checkpoints.iterdir()] == ["step-000003"]
    assert checkpoint.load(checkpoints / "step-000003")[0].step == 3


@pytest.mark.threat(6)
def test_run_without_an_intact_checkpoint_exits_with_4(train_tiny: Callable[..., Result], checkpoints: Path) -> None:
    """The damaged checkpoints are left unchanged."""
    train_tiny(max_steps=2)
    for path in checkpoints.iterdir():
        (path / STATE_NAME).write_bytes(b"{}")
    with pytest.raises(ArtifactError, match="every checkpoint is damaged") as raised:
        train_tiny(max_steps=3)
    assert raised.value.exit_code == 4
    assert len(list(checkpoints.iterdir())) == 2


FORGED: dict[str, dict[str, Any]] = {
    "another step than the folder's": {"step": 1},
    "a negative step": {"step": -1},
    "no time": {"seconds": float("nan")},
    "endless time": {"seconds_total": float("inf")},
    "a megabyte more": {"hardware": "x" * 10**6},
}


@pytest.mark.threat(6)
@pytest.mark.parametrize("case", FORGED)
def test_forged_state_is_damage(case: str, train_tiny: Callable[..., Result], checkpoints: Path) -> None:
    """Also with matching sums; an older checkpoint replaces it, and nothing else is removed."""
    train_tiny(max_steps=2)
    (checkpoints.parent / "result.json").unlink()
    forge(checkpoints / "step-000002", **FORGED[case])
    assert train_tiny(max_steps=2, checkpoint={"keep": 3}).steps == 2
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000001", "step-000002"]
    assert checkpoint.load(checkpoints / "step-000002")[0].step == 2


@pytest.mark.threat(6)
def test_step_beyond_the_run(train_tiny: Callable[..., Result], checkpoints: Path) -> None:
    """A step number beyond the run's end is damage."""
    train_tiny(max_steps=1)
    (checkpoints.parent / "result.json").unlink()
    (checkpoints / "step-000001").rename(checkpoints / f"step-{10**15}")
    forge(checkpoints / f"step-{10**15}", step=10**15)
    with pytest.raises(
        ArtifactError, match="the newest checkpoint is at step 1000000000000000, but the run has only 4"
    ):
        train_tiny()


@pytest.mark.threat(10)
def test_newer_format_is_no_damage(train_tiny: Callable[..., Result], checkpoints: Path) -> None:
    """Asks for an upgrade, and neither falls back to an older checkpoint nor removes anything."""
    train_tiny(max_steps=2)
    forge(checkpoints / "step-000002", format=checkpoint.FORMAT + 1, version="9.8", what_is_new=1)
    with pytest.raises(ArtifactError, match="is newer than this program's") as raised:
        train_tiny(max_steps=3)
    assert "upgrade pocket-resnet to 9.8 or later" in str(raised.value)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000001", "step-000002"]


@pytest.mark.threat(9)
def test_another_torch_or_machine_is_logged(
    train_tiny: Callable[..., Result], checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A log message, and the run resumes."""
    train_tiny(max_steps=2)
    train_tiny(max_steps=2)
    assert "not bit-exact" not in caplog.text
    forge(checkpoints / "step-000002", hardware="a calculator, torch 1.0.0")
    assert train_tiny(max_steps=3).steps == 3
    assert "not bit-exact" in caplog.text


@pytest.mark.threat(9)
def test_another_algorithm_is_logged(train_tiny: Callable[..., Result], caplog: pytest.LogCaptureFixture) -> None:
    on_cpu = {"device": "cpu", "precision": "fp32"}
    train_tiny(max_steps=2, hardware=on_cpu)
    assert train_tiny(max_steps=3, hardware=on_cpu | {"winograd": False}).steps == 3
    assert "not bit-exact" in caplog.text


@pytest.mark.threat(8)
def test_changed_recipe_is_refused_by_field(
    train_tiny: Callable[..., Result], logged: pytest.LogCaptureFixture
) -> None:
    """Names every differing field with both values; `fork` resumes; hardware and checkpoints may change."""
    train_tiny(max_steps=2)
    with pytest.raises(UsageError) as raised:
        train_tiny(optim={"lr": 0.07}, batch_size=7)
    assert raised.value.exit_code == 2
    for part in ("batch_size: 8 -> 7", "optim.lr: 0.05 -> 0.07", "--fork"):
        assert part in str(raised.value)
    assert "muon_lr" not in str(raised.value)
    assert train_tiny(max_steps=3, hardware={"channels_last": False}, checkpoint={"keep": 5}).steps == 3
    assert train_tiny(optim={"lr": 0.07}, fork=True).steps == 4
    assert "resumed at step 3" in logged.messages
    with pytest.raises(UsageError, match=r"optim\.lr: 0\.07 -> 0\.05"):  # the fork is what the run is now
        train_tiny()


@pytest.mark.threat(8)
def test_changed_data_is_refused(train_tiny: Callable[..., Result], synthetic: Any) -> None:
    """The data are named, and `fork` resumes."""
    train_tiny(max_steps=2)
    synthetic.fingerprint = "other pictures"
    with pytest.raises(UsageError, match="synthetic differs from the data this run began with") as raised:
        train_tiny(max_steps=3)
    assert "--fork" in str(raised.value)
    assert train_tiny(max_steps=3, fork=True).steps == 3


def test_existing_run_needs_resume(train_tiny: Callable[..., Result], checkpoints: Path) -> None:
    train_tiny(max_steps=2)
    before = (checkpoints / "step-000002" / TENSORS_NAME).read_bytes()
    with pytest.raises(UsageError, match="this run already exists") as raised:
        train_tiny(max_steps=3, resume=False)
    assert "--resume" in str(raised.value)
    assert (checkpoints / "step-000002" / TENSORS_NAME).read_bytes() == before


@pytest.mark.threat(3)
def test_stale_temporaries_are_removed(train_tiny: Callable[..., Result], checkpoints: Path) -> None:
    """Files and folders, beside the run's files and beside checkpoints; nothing else is."""
    train_tiny(max_steps=2)
    folder = checkpoints.parent
    (folder / ".tmp-1-result.json").write_text("{")
    (checkpoints / ".tmp-1-step-000003").mkdir()
    (checkpoints / ".tmp-1-step-000003" / STATE_NAME).write_text("{")
    (folder / "tmp-of-the-user").touch()
    (folder / ".tmp-link").symlink_to(folder / "model")
    train_tiny(max_steps=3)
    assert not list(folder.rglob(".tmp-*"))
    assert (folder / "tmp-of-the-user").exists()
    assert (folder / "model" / "config.json").exists()
