"""A run resumed, forked or trained in parts."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.errors import ArtifactError, Stopped, UsageError
from pocket_resnet.inference.evaluate import evaluate_model
from pocket_resnet.model.artifact import find_model, load_card
from pocket_resnet.recipe.toml import load_recipe
from pocket_resnet.training.metrics import read_metrics
from pocket_resnet.training.run import Result, train
from pocket_resnet.training.trainer import Trainer


def lines(folder: Path) -> list[dict[str, Any]]:
    """The run's metrics but for times."""
    return [record | {"seconds": 0} for record in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.threat(1)
def test_a_start_that_died_at_once_does_not_hide_the_run(
    make_recipe: Any, synthetic: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Any
) -> None:
    """Resuming continues the run with checkpoints, not the newer folder without."""
    train(make_recipe(max_steps=2), runs_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            train(make_recipe(), runs_dir=tmp_path)
    assert [path.name for path in (tmp_path / "tiny-synthetic-seed0-2").glob("*.toml")] == ["recipe.toml"]
    logged.clear()
    assert train(make_recipe(), runs_dir=tmp_path, resume=True).model == str(tmp_path / "tiny-synthetic-seed0/model")
    assert "resumed at step 2" in logged.messages
    assert "nothing to resume" not in logged.text
    assert synthetic.num_test_opened == 0


@pytest.mark.threat(8)
def test_checkpoint_of_another_network(train_tiny: Callable[..., Result], make_recipe: Any, tmp_path: Path) -> None:
    """A fork with another shape is refused; the error names what does not fit."""
    train_tiny(max_steps=1)
    recipe = make_recipe(model=replace(make_recipe().model, widths=(4, 12)))
    before = (tmp_path / "r" / "recipe.toml").read_bytes()
    with pytest.raises(ArtifactError, match="does not fit this network"):
        train(recipe, runs_dir=tmp_path, run="r", fork=True)
    assert (tmp_path / "r" / "recipe.toml").read_bytes() == before
    assert train_tiny(resume=True).steps == 4


@pytest.mark.threat(8)
def test_fork_of_a_finished_run(train_tiny: Callable[..., Result], make_recipe: Any, tmp_path: Path) -> None:
    """With more epochs it trains on; with none left it is refused, and nothing is written."""
    train_tiny()
    changed = make_recipe(label_smoothing=0.3)
    before = (tmp_path / "r" / "recipe.toml").read_bytes()
    with pytest.raises(UsageError, match="no steps are left to train, and the recipe has changed"):
        train(changed, runs_dir=tmp_path, run="r", fork=True)
    assert (tmp_path / "r" / "recipe.toml").read_bytes() == before
    longer = make_recipe(label_smoothing=0.3, epochs=3)
    assert train(longer, runs_dir=tmp_path, run="r", fork=True).steps == 6
    assert load_recipe(str(tmp_path / "r" / "recipe.toml")).label_smoothing == 0.3


@pytest.mark.threat(8)
def test_fork_may_switch_averages_on(train_tiny: Callable[..., Result], make_recipe: Any, tmp_path: Path) -> None:
    """Average and Lookahead begin with the weights of the checkpoint."""
    train_tiny(max_steps=2, ema={"decay": 0.0}, optim={"lookahead_steps": 0})
    recipe = make_recipe(ema={"decay": 0.9}, optim={"lookahead_steps": 2})
    assert train(recipe, runs_dir=tmp_path, run="r", fork=True).steps == 4


def test_a_result_of_fewer_steps_is_removed_when_the_run_resumes(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train_tiny(max_steps=2)
    monkeypatch.setattr(Trainer, "train_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train_tiny(resume=True)
    assert not (tmp_path / "r" / "result.json").exists()


def test_the_earlier_model_of_a_resumed_run_is_pointed_out(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    warning = f"{tmp_path / 'r'}: this run is not finished; its model is from before it was resumed"
    train_tiny(max_steps=2)
    find_model(tmp_path / "r")
    assert warning not in caplog.text
    monkeypatch.setattr(Trainer, "train_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train_tiny(resume=True)
    assert load_card(tmp_path / "r").num_params > 0
    assert caplog.messages.count(warning) == 1
    evaluate_model(tmp_path / "r")
    assert caplog.messages.count(warning) == 2


def test_a_fork_with_another_batch_size_begins_its_epoch_s_totals_anew(
    train_tiny: Callable[..., Result], make_recipe: Any, tmp_path: Path
) -> None:
    """14 images in steps of 7, then of 4: the first epoch's record is of steps 3 and 4, which train six images."""
    train_tiny(batch_size=7, max_steps=2)
    forked = make_recipe(batch_size=4, epochs=2)
    assert train(forked, runs_dir=tmp_path, run="r", fork=True).steps == 8
    records = lines(tmp_path / "r")
    assert [record["step"] for record in records] == [4, 8]
    assert (6 * records[0]["train_accuracy"]) % 1 == pytest.approx(0)


@pytest.mark.threat(1)
@pytest.mark.parametrize("validate_every", [1, 2, 3])
@pytest.mark.parametrize("stops", [(1, 6), (2, 6), (3, 6), (3, 4), (4, 5, 6), (2, 3, 6)])
def test_a_run_in_parts_has_the_records_of_a_whole_run(
    stops: tuple[int, ...], validate_every: int, train_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    """For any number of stops by `max_steps`, within an epoch or without a validation due."""
    changes: Any = {"epochs": 3, "validate_every": validate_every, "checkpoint": {"every_s": 1e9}}
    train_tiny("whole", max_steps=stops[-1], **changes)
    for max_steps in stops:
        train_tiny("parts", resume=True, max_steps=max_steps, **changes)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


@pytest.mark.threat(1)
@pytest.mark.parametrize("step", [2, 3])
def test_max_steps_at_the_step_of_a_signal(
    step: int, train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With no step left to train, the last record and its validation come from the checkpoint."""
    changes: Any = {"epochs": 3, "validate_every": 3}
    train_step = Trainer.train_step

    def signal_in(trainer: Trainer, *signals: Any) -> int:
        if trainer.step == step - 1:
            signal.raise_signal(signal.SIGTERM)
        return train_step(trainer, *signals)

    train_tiny("whole", max_steps=step, **changes)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", signal_in)
        with pytest.raises(Stopped, match=f"after saving step {step}"):
            train_tiny("parts", **changes)
    result = train_tiny("parts", resume=True, max_steps=step, **changes)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert lines(tmp_path / "parts")[-1]["val_accuracy"] == result.accuracy


@pytest.mark.threat(1)
def test_asked_for_fewer_steps_than_it_has(train_tiny: Callable[..., Result], tmp_path: Path, logged: Any) -> None:
    """Nothing is lost; a finished run is unchanged."""
    train_tiny(max_steps=3)
    before = lines(tmp_path / "r")
    assert train_tiny(resume=True, max_steps=2).steps == 3
    assert "this run is already finished" in logged.messages
    (tmp_path / "r" / "result.json").unlink()
    assert train_tiny(resume=True, max_steps=2).steps == 3
    assert "already at step 3, past --max-steps 2: nothing to train" in logged.messages
    assert lines(tmp_path / "r") == before
