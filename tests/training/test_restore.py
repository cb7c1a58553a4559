"""Runs that start from another run's checkpoint, and checkpoints kept for that."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from painted import NUM_IMAGES, paint
from pocket_resnet.errors import ArtifactError, UsageError
from pocket_resnet.model.artifact import load_model
from pocket_resnet.model.step_folders import newest_first
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import load_recipe
from pocket_resnet.reporting.report import write_report
from pocket_resnet.training import checkpoint, run
from pocket_resnet.training.metrics import read_metrics
from pocket_resnet.training.run import Result, train
from pocket_resnet.training.run_folder import RunFolder, kept_steps
from pocket_resnet.training.saved_run import command, read_run
from pocket_resnet.training.trainer import Trainer


def saved(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in newest_first(folder / "checkpoints")][::-1]


def state_of(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints" / f"step-{step:06d}")[1]


def losses(folder: Path) -> list[tuple[float, ...]]:
    return [(record["train_loss"], record["val_nll"]) for record in read_metrics(folder / "metrics.jsonl")]


KEPT: dict[str, Any] = {"keep": 1, "keep_at": (0.25, 0.5, 1.0)}


def test_checkpoints_at_shares_of_the_run_stay(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    """Also if none is due by time."""
    train_tiny(epochs=6, checkpoint=KEPT | {"every_s": 1e9})
    assert saved(tmp_path / "r") == [3, 6, 12]
    train_tiny("every", epochs=6, checkpoint=KEPT)
    assert saved(tmp_path / "every") == [3, 6, 12]


def test_kept_checkpoints_stay_across_a_resume(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    for max_steps in (4, 5, 7, 9, 12):
        train_tiny(epochs=6, max_steps=max_steps, checkpoint=KEPT, resume=max_steps > 4)
        assert saved(tmp_path / "r") == sorted({3, *([6] if max_steps > 6 else []), max_steps})


def test_the_first_checkpoint_after_a_share_is_kept(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    """Requested after the run had passed that share."""
    train_tiny(epochs=6, max_steps=5, checkpoint={"keep": 2})
    assert saved(tmp_path / "r") == [4, 5]
    train_tiny(epochs=6, checkpoint={"keep": 1, "keep_at": (0.25,)}, resume=True)
    assert saved(tmp_path / "r") == [4, 12]


@pytest.mark.parametrize(
    ("share", "num_steps", "step"), [(0.07, 100, 7), (1 / 3, 3, 1), (0.5, 5, 3), (1.0, 7, 7), (0.001, 7, 1)]
)
def test_steps_of_shares(share: float, num_steps: int, step: int, make_recipe: Callable[..., Recipe]) -> None:
    assert kept_steps(make_recipe(checkpoint={"keep_at": (share,)}), num_steps) == (step,)


def test_init_from_with_the_same_recipe_equals_resuming(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    """Weights, optimizer, averages, step and an epoch's totals so far: to the bit, also in the midst of an epoch."""
    train_tiny("whole", epochs=3, checkpoint={"keep": 9})
    start = tmp_path / "whole" / "checkpoints" / "step-000003"
    result = train_tiny("fork", epochs=3, init_from=str(start))
    whole, fork = (load_model(tmp_path / name)[0].state_dict() for name in ("whole", "fork"))
    assert all(torch.equal(value, fork[name]) for name, value in whole.items())
    assert losses(tmp_path / "fork") == losses(tmp_path / "whole")[1:]
    assert (result.steps, result.images_seen) == (6, 42)


def test_init_from_with_another_recipe(
    train_tiny: Callable[..., Result], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """It has its own schedule, data order and averages; recipe.toml, card and report name its start."""
    train_tiny("first", epochs=2, ema={"decay": 0.0})
    start = tmp_path / "first" / "checkpoints" / "step-000003"
    changes = {"epochs": 4, "data": {"seed": 5}, "ema": {"decay": 0.5}, "init_from": str(start)}
    train_tiny("fork", **changes, max_steps=3 + 1)
    assert state_of(tmp_path / "fork", 3).keys() > state_of(tmp_path / "first", 3).keys()
    assert load_recipe(str(tmp_path / "fork" / "recipe.toml")).init_from == str(start)
    assert load_model(tmp_path / "fork")[1].init_from == "first/step-000003"
    assert "| started from | checkpoint `first/step-000003` of" in (tmp_path / "fork/model/README.md").read_text()
    assert str(tmp_path) not in (tmp_path / "fork/model/config.json").read_text()
    assert "started from checkpoint first/step-000003" in write_report([tmp_path / "fork"]).read_text()
    assert command(read_run(tmp_path / "fork")) == f"pocket-resnet train {tmp_path}/fork/recipe.toml"
    shutil.rmtree(tmp_path / "first")
    recipe = make_recipe(**changes)
    assert train(recipe, runs_dir=tmp_path, run="fork", resume=True).steps == 8


def test_a_crash_before_the_first_step_of_its_own_loses_nothing(
    train_tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is in the new folder before training starts, so the other run may be deleted."""
    train_tiny("first", max_steps=2)
    start = str(tmp_path / "first" / "checkpoints" / "step-000002")
    with monkeypatch.context() as crashing:
        crashing.setattr(Trainer, "train_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_tiny("fork", init_from=start)
    shutil.rmtree(tmp_path / "first")
    assert train_tiny("fork", init_from=start, resume=True).steps == 4


def test_init_from_unsuitable_checkpoints_is_refused(
    train_tiny: Callable[..., Result], make_recipe: Any, tmp_path: Path
) -> None:
    """Another network, no step left, no checkpoint: a clear error, and no run folder is left."""
    train_tiny("first")
    checkpoints = tmp_path / "first" / "checkpoints"
    wider = replace(make_recipe().model, widths=(4, 12))
    for changes, message, hint in (
        ({"model": wider}, r"is from another network: size mismatch for stages.1", r"\[model\] in its recipe.toml"),
        ({"epochs": 1}, "is at step 3, but this run ends at step 2", "train more epochs"),
        ({"max_steps": 3}, "is at step 3, but this run ends at step 3", "train more epochs"),
    ):
        with pytest.raises(UsageError, match=message) as raised:
            train_tiny("fork", init_from=str(checkpoints / "step-000003"), **changes)
        assert raised.value.where == checkpoints / "step-000003"
        assert hint.replace("\\", "") in str(raised.value)
    for path in (tmp_path / "first", checkpoints):
        with pytest.raises(UsageError, match="not a checkpoint") as raised:
            train_tiny("fork", init_from=str(path))
        assert str(checkpoints / "step-000004") in str(raised.value)
    with pytest.raises(UsageError, match="use the folder step-NNNNNN of a run"):
        train_tiny("fork", init_from=str(tmp_path / "nowhere"))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "recipe.toml").touch()
    with pytest.raises(UsageError, match="this run has no checkpoint yet"):
        train_tiny("fork", init_from=str(tmp_path / "new"))
    assert not (tmp_path / "fork" / "recipe.toml").exists()
    (checkpoints / "step-000003" / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match="damaged"):
        train_tiny("fork", init_from=str(checkpoints / "step-000003"))


def test_init_from_on_other_data_is_logged(
    train_tiny: Callable[..., Result], synthetic: Any, tmp_path: Path, caplog: Any
) -> None:
    train_tiny("first", max_steps=2)
    synthetic.fingerprint = "synthetic-2"
    train_tiny("fork", init_from=str(tmp_path / "first" / "checkpoints" / "step-000002"))
    assert "the checkpoint was trained on other data" in caplog.messages


@pytest.mark.threat(43)
def test_data_at_another_size_are_the_same(
    train_on: Callable[..., Result],
    make_recipe: Callable[..., Recipe],
    run_folder: Path,
    pictures: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also for a run that starts from a checkpoint of a smaller size."""
    start = {"init_from": str(run_folder / "checkpoints" / "step-000001"), "run": "larger"}
    spec = replace(make_recipe().model, image_size=12)
    train_on(pictures, **start, model=spec, train_image_sizes=(), max_steps=2)
    assert "the checkpoint was trained on other data" not in caplog.text
    paint(pictures, first=NUM_IMAGES)
    train_on(pictures, **start | {"run": "changed"}, model=spec, train_image_sizes=(), max_steps=2)
    assert "the checkpoint was trained on other data" in caplog.text


def test_a_fork_of_a_run_with_checkpoints_starts_from_no_other(
    train_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    """It would resume from its own checkpoint, and its card would name the other."""
    for name in ("first", "second"):
        train_tiny(name, max_steps=2)
    start = str(tmp_path / "first" / "checkpoints" / "step-000002")
    before = (tmp_path / "second" / "recipe.toml").read_bytes()
    with pytest.raises(UsageError, match=r"^\S+second: init_from: None -> .*step-000002, but this run has checkpoints"):
        train_tiny("second", init_from=start, fork=True)
    assert (tmp_path / "second" / "recipe.toml").read_bytes() == before
    train_tiny("third", init_from=start, max_steps=3)
    assert train_tiny("third", init_from=start, epochs=3, fork=True).steps == 6
    with pytest.raises(UsageError, match="choose another --run name"):
        train_tiny("third", epochs=4, fork=True)


@pytest.mark.parametrize("change", ["data", "batch_size", "nothing"])
def test_totals_of_an_epoch_that_is_not_this_runs_are_dropped(
    change: str, train_tiny: Callable[..., Result], synthetic: Any, tmp_path: Path
) -> None:
    """The other run is inside an epoch, 8 of 14 images; the recorded accuracy is a whole number of hits."""
    train_tiny("first", max_steps=3)
    if change == "data":
        synthetic.fingerprint = "synthetic-2"
    batch_size = 4 if change == "batch_size" else 8  # step 3 is then the fourth of the first epoch
    train_tiny("fork", init_from=str(tmp_path / "first/checkpoints/step-000003"), batch_size=batch_size, max_steps=4)
    first = read_metrics(tmp_path / "fork" / "metrics.jsonl")[0]
    num_images = {"data": 6, "batch_size": 2, "nothing": 14}[change]
    num_hits = first["train_accuracy"] * num_images
    assert num_hits == pytest.approx(round(num_hits), abs=1e-9)
    assert first["step"] == 4
    trained = state_of(tmp_path / "fork", 3)["epoch.totals"][2]
    assert int(trained) == {"data": 0, "batch_size": 0, "nothing": 8}[change]


def test_start_in_the_root_folder_and_of_an_unknown_user(train_tiny: Callable[..., Result]) -> None:
    for path in ("/step-000007", "~nouser/step-000007"):
        with pytest.raises(UsageError, match="not a checkpoint"):
            train_tiny("fork", init_from=path)


def test_init_from_a_checkpoint_outside_a_run(
    train_tiny: Callable[..., Result], make_recipe: Any, source: Any, tmp_path: Path
) -> None:
    train_tiny("first", max_steps=2)
    state, _ = checkpoint.load(tmp_path / "first" / "checkpoints" / "step-000002")
    recipe, folder = make_recipe(init_from="/step-000002"), RunFolder(tmp_path / "r")
    missing = folder.missing_digests(recipe, source, state, is_another_runs=True)
    assert missing == Path("/train_digests.u64")


def test_another_spelling_of_the_path_is_no_change(
    train_tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_tiny("first", max_steps=2)
    monkeypatch.chdir(tmp_path / "first")
    train_tiny("fork", init_from="checkpoints/step-000002", max_steps=3)
    (tmp_path / "link").symlink_to(tmp_path / "first")
    monkeypatch.chdir(tmp_path)
    assert train_tiny("fork", init_from="link/checkpoints/step-000002", resume=True).steps == 4


@pytest.mark.parametrize("change", [{"seed": 1}, {"data": {"seed": 1}}])
def test_the_two_seeds_decide_different_things(
    change: dict[str, Any], make_recipe: Callable[..., Recipe], train_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    """`seed` weights and dropout, `data.seed` order and augmentation; both are `seed` where the other is not set."""
    images: dict[str, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    cases = {"neither": {}, "changed": {"data": {"seed": 0}} | change, "explicit": {"data": {"seed": 0}}}
    for name, changes in cases.items():
        train_tiny(name, max_steps=1, **changes)
        weights[name] = load_model(tmp_path / name)[0].head.weight
        trainer = trainer_of(make_recipe(**changes))
        images[name] = trainer.loader.batch(0).x_BCHW
        weights[f"{name} untrained"] = trainer.model.head.weight
    assert torch.equal(weights["explicit"], weights["neither"])
    assert torch.equal(images["explicit"], images["neither"])
    varies_weights = "seed" in change
    assert torch.equal(images["changed"], images["neither"]) == varies_weights
    assert torch.equal(weights["changed untrained"], weights["neither untrained"]) != varies_weights
    assert not torch.equal(weights["changed"], weights["neither"])
    shown_command = command(read_run(tmp_path / "changed"))
    assert "recipe.toml" in shown_command  # no recipe is called tiny


def trainer_of(recipe: Recipe) -> Trainer:
    source = run.open_source("synthetic")
    split = source.split("train")
    fitted = run.fit_to_data(recipe, source, len(split))
    return run.new_trainer(fitted, source, split, run.choose("cpu", "fp32", num_threads=1))


def test_config_json_has_what_it_started_from(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    train_tiny(max_steps=1)
    assert json.loads((tmp_path / "r" / "model" / "config.json").read_bytes())["init_from"] is None
