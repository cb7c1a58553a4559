"""A whole run: its files, result and messages."""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.inference.evaluate import evaluate_model
from pocket_resnet.model.artifact import load_model
from pocket_resnet.model.counts import num_macs, num_params
from pocket_resnet.model.resnet import whitening_filters
from pocket_resnet.model.step_folders import newest_first
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import load_recipe
from pocket_resnet.training import checkpoint, run
from pocket_resnet.training.callbacks import Callback, RunState
from pocket_resnet.training.distributed import Processes
from pocket_resnet.training.metrics import read_metrics
from pocket_resnet.training.run import Result, train
from pocket_resnet.training.trainer import Trainer


def test_files_of_a_run(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    result = train_tiny()
    folder = tmp_path / "r"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    checkpoints = {
        f"checkpoints/step-00000{n}/{f}" for n in (3, 4) for f in ("SHA256SUMS", "state.json", "tensors.safetensors")
    }
    model = {f"model/{name}" for name in ("README.md", "SHA256SUMS", "config.json", "model.safetensors")}
    assert files >= checkpoints | model | {"recipe.toml", "metrics.jsonl", "result.json"}
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(asdict(result)))
    assert (tmp_path / "latest").resolve() == folder


def test_result(train_tiny: Callable[..., Result], make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    result, spec = train_tiny(), make_recipe().model
    assert (result.num_params, result.num_macs) == (num_params(spec), num_macs(spec))
    assert (result.epochs, result.steps, result.images_seen) == (2, 4, 28)
    assert (result.seed, result.recipe, result.data) == (0, "tiny", "synthetic")
    assert 0 < result.seconds <= result.seconds_total
    assert result.images_per_s == pytest.approx(28 / result.seconds, rel=0.05)
    evaluation = evaluate_model(tmp_path / "r")
    assert (result.accuracy, result.interval) == (evaluation.accuracy, evaluation.interval)
    card = load_model(tmp_path / "r")[1]
    assert (card.accuracy, card.num_images, card.split) == (evaluation.accuracy, 6, "val")
    assert card.class_names == ("red", "green", "blue")


def test_metrics(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    result = train_tiny()
    first, last = read_metrics(tmp_path / "r" / "metrics.jsonl")
    assert (first["step"], first["epoch"], last["step"], last["epoch"]) == (2, 1, 4, 2)
    assert last["val_accuracy"] == result.accuracy
    assert 0 < first["seconds"] <= last["seconds"]
    assert first["lr"] > last["lr"] > 0
    assert 0.5 < first["train_loss"] < 5


@pytest.mark.usefixtures("synthetic")
def test_validation_is_in_the_trainings_precision_and_at_the_end_in_fp32(make_recipe: Any, tmp_path: Path) -> None:
    """Also where a callback ends the run at a step that was not planned to be the last."""

    class Seen(Callback):
        def __init__(self, last_epoch: int) -> None:
            self.last_epoch, self.precisions = last_epoch, list[str]()

        def on_epoch(self, state: RunState, record: Mapping[str, Any]) -> None:
            assert state.evaluation is not None
            self.precisions.append(state.evaluation.precision)
            if record["epoch"] == self.last_epoch:
                state.stop()

        def on_end(self, state: RunState) -> None:
            assert state.evaluation is not None
            self.at_the_end = state.evaluation.precision

    recipe = make_recipe(epochs=3, hardware={"precision": "bf16"})
    for last_epoch, precisions in ((3, ["bf16", "bf16", "fp32"]), (2, ["bf16", "bf16"])):
        seen = Seen(last_epoch)
        result = train(recipe, runs_dir=tmp_path, run=f"to-{last_epoch}", callbacks=[seen])
        assert (seen.precisions, result.steps) == (precisions, 2 * last_epoch)
        assert seen.at_the_end == "fp32"


def test_it_learns(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    result = train_tiny(
        epochs=40, optim={"name": "sgd", "lr": 0.1}, augment={"mixup": 0.0}, checkpoint={"every_s": 1e9}
    )
    assert result.accuracy == 1.0
    losses = [record["train_loss"] for record in read_metrics(tmp_path / "r" / "metrics.jsonl")]
    assert losses[-1] < 0.7 * losses[0]


def test_recipe_written_is_the_resolved_one(
    train_tiny: Callable[..., Result], make_recipe: Any, tmp_path: Path
) -> None:
    train_tiny(budget="2K", min_steps=6)
    written = load_recipe(str(tmp_path / "r" / "recipe.toml"))
    assert written.epochs == 3
    assert num_params(written.model) > num_params(make_recipe().model)
    result = train(written, runs_dir=tmp_path, run="r", resume=True)
    assert result.steps == 6


def test_saved_weights_are_the_average(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    train_tiny()
    newest = checkpoint.load_newest(tmp_path / "r" / "checkpoints")
    assert newest is not None
    _, tensors = newest
    assert torch.equal(load_model(tmp_path / "r")[0].head.weight, tensors["ema.head.weight"])
    assert not torch.equal(tensors["ema.head.weight"], tensors["model.head.weight"])


def test_normalisation_and_whitening_come_from_training_images(
    train_tiny: Callable[..., Result], make_recipe: Callable[..., Recipe], source: Any, tmp_path: Path
) -> None:
    spec = replace(make_recipe().model, stem="whitening", stem_kernel_size=2)
    train_tiny("a", model=spec)
    model, _ = load_model(tmp_path / "a")
    x_NCHW = source.split("train").images_NCHW / 255
    assert torch.allclose(model.normalize.mean.flatten(), x_NCHW.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model.normalize.std.flatten(), x_NCHW.std((0, 2, 3), correction=0), atol=1e-5)
    expected = whitening_filters(model.normalize(x_NCHW), 2)
    assert torch.allclose(model.stem.conv.weight, expected, atol=1e-3)
    train_tiny("b", augment={"normalize": False})
    assert torch.equal(load_model(tmp_path / "b")[0].normalize.mean, torch.zeros(3, 1, 1))


def test_the_card_states_training_on_all_images(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    result = train_tiny(data={"train_on": "trainval"})
    assert result.images_seen == 40
    assert "trained on these images" in (tmp_path / "r" / "model" / "README.md").read_text()


def test_stopping_early_keeps_the_schedule(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    train_tiny("whole")
    train_tiny("parts", max_steps=2)
    result = train_tiny("parts", resume=True)
    assert result.steps == 4
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_more_steps_than_there_are(train_tiny: Callable[..., Result]) -> None:
    assert train_tiny(max_steps=100).steps == 4


def test_smallest_budget_is_kept(train_tiny: Callable[..., Result]) -> None:
    assert train_tiny(budget="400").num_params <= 400


@pytest.mark.threat(16, 17)
def test_budget_below_the_smallest_network_is_refused(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    """Before any folder is made."""
    with pytest.raises(UsageError, match="budget: no network of this shape has as few as 5 parameters; the smallest"):
        train_tiny(budget="5")
    assert not (tmp_path / "r").exists()


@pytest.mark.threat(17)
def test_a_count_over_budget_is_refused(train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """The built network is counted, in case the dial is wrong."""
    monkeypatch.setattr("pocket_resnet.recipe.dial.fill_budget", lambda spec, _: spec)
    with pytest.raises(UsageError, match="the network has 1,391 parameters, over the budget of 1,000"):
        train_tiny(budget="1K")
    with pytest.raises(UsageError, match=r"max_bytes: the network has 1,391 parameters, .*\n  give 5564 or more"):
        train_tiny(max_bytes="4KB")


@pytest.mark.usefixtures("synthetic")
def test_finished_is_found_from_another_folder(
    make_recipe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    train(make_recipe(), runs_dir=Path("runs"), run="r")
    monkeypatch.chdir("elsewhere")
    monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("trained again"))
    result = train(make_recipe(), runs_dir=tmp_path / "runs", run="r", resume=True)
    assert result.model == str(tmp_path / "runs" / "r" / "model")


def test_out_of_memory_saves_no_half_finished_step(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = Trainer.train_step

    def fail_later(trainer: Trainer, *signals: Any) -> int:
        if trainer.step == 3:
            raise torch.OutOfMemoryError
        return step(trainer, *signals)

    monkeypatch.setattr(Trainer, "train_step", fail_later)
    train_tiny(checkpoint={"every_s": 1e9}, max_steps=2)
    with pytest.raises(
        EnvironmentFault, match=r"out of memory\n.*the last good checkpoint is .*step-000002; resume with"
    ):
        train_tiny(resume=True, checkpoint={"every_s": 1e9})
    assert [path.name for path in newest_first(tmp_path / "r" / "checkpoints")] == ["step-000002"]


def test_few_validation_images_are_named(
    train_tiny: Callable[..., Result], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "6 validation images can only give a rough estimate of the accuracy"
    train_tiny("few", max_steps=1)
    assert line in capsys.readouterr().err.splitlines()
    monkeypatch.setattr("pocket_resnet.training.callbacks.MIN_VAL_IMAGES", 6)
    train_tiny("enough", max_steps=1)
    assert line not in capsys.readouterr().err


def test_resuming_a_missing_run(train_tiny: Callable[..., Result], caplog: pytest.LogCaptureFixture) -> None:
    train_tiny("typo", resume=True)
    assert "nothing to resume in" in caplog.text


def test_resuming_without_a_name_and_without_a_run(
    make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for expected in (True, False):
        caplog.clear()
        with caplog.at_level("INFO"):
            train(make_recipe(max_steps=1), runs_dir=tmp_path, resume=True)
        noted = [record.levelname for record in caplog.records if "nothing to resume in" in record.getMessage()]
        assert noted == ["INFO"] * expected
    assert synthetic.num_test_opened == 0


def test_a_fork_may_begin_to_train_the_hardest(
    train_tiny: Callable[..., Result], make_recipe: Any, tmp_path: Path, caplog: Any
) -> None:
    train_tiny(max_steps=2, augment={"mixup": 0.0})
    recipe = make_recipe(hard_fraction=0.8, epochs=4, augment={"mixup": 0.0})
    assert train(recipe, runs_dir=tmp_path, run="r", fork=True).steps == 8
    assert "bit-exact" not in caplog.text


def test_older_checkpoint_without_visits(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    changes: Any = {"hard_fraction": 0.6, "augment": {"mixup": 0.0}}
    tensors = Trainer.tensors
    with monkeypatch.context() as earlier:
        earlier.setattr(Trainer, "tensors", lambda t: {k: v for k, v in tensors(t).items() if "visits" not in k})
        train_tiny(max_steps=1, **changes)
    assert train_tiny(resume=True, **changes).steps == 2
    assert "did not count how often images were trained" in caplog.text


def test_every_s_sets_the_checkpoint_interval(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda f, s, t: (steps.append(s.step), save(f, s, t))[1])
    train_tiny("often")
    assert steps == [1, 2, 3, 4]
    steps.clear()
    train_tiny("rarely", checkpoint={"every_s": 1e9})
    assert steps == [4]


@pytest.mark.threat(11)
def test_clock_set_back(train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock is never read."""
    monkeypatch.setattr("time.time", lambda: pytest.fail("the wall clock was read"))
    assert train_tiny().seconds > 0


def test_more_processes_than_images_in_a_step_are_refused(
    train_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """14 images in steps of 8 and 6."""

    class Seven(Processes):
        def on_writer(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return work(*args, **kwargs)

    monkeypatch.setattr(run, "process_group", lambda _: contextlib.nullcontext(Seven(0, 7)))
    with pytest.raises(
        UsageError, match="a step of 6 images is too small for 7 processes\n  start at most 6 processes, or"
    ):
        train_tiny()
    assert not (tmp_path / "r").exists()
