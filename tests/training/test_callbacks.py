"""Callbacks: the output of the built-in ones, when custom ones are called, and the files after an early stop."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pocket_resnet
from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.inference.evaluate import evaluate_model
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training import callbacks
from pocket_resnet.training.callbacks import Callback, MetricsFile, ProgressBar, RunState
from pocket_resnet.training.metrics import Plan, Record, read_metrics
from pocket_resnet.training.result import read_result
from pocket_resnet.training.run import Result, train
from pocket_resnet.training.saved_run import command, read_run
from pocket_resnet.training.trainer import EpochTotals

PAGE = (Path(__file__).parents[2] / "docs" / "callbacks.md").read_text(encoding="utf-8")


@pytest.fixture
def train_tiny(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> Callable[..., Result]:  # noqa: ARG001
    """train_tiny(Callback(), epochs=3): a run of two steps an epoch."""
    return lambda *own, name="r", resume=False, **changes: train(
        make_recipe(**changes), runs_dir=tmp_path, run=name, resume=resume, callbacks=own
    )


class Noting(Callback):
    """Records every call, and whether the built-in callbacks came before."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_start(self, run: RunState) -> None:
        self.calls.append(("start", run.step, len(run.records), (run.path / "metrics.jsonl").exists()))

    def on_epoch(self, run: RunState, record: Record) -> None:
        assert run.records[-1] == record == read_metrics(run.path / "metrics.jsonl")[-1]
        self.calls.append(("epoch", run.step, record["epoch"]))

    def on_checkpoint(self, run: RunState, path: Path) -> None:
        assert (path / "SHA256SUMS").exists()
        self.calls.append(("checkpoint", run.step, path.name))

    def on_end(self, run: RunState) -> None:
        self.calls.append(("end", run.step, run.result))


class Steps(Callback):
    """Records the batch sizes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def on_step(self, run: RunState, num_images: int) -> None:
        assert run.step == len(self.sizes) + 1
        self.sizes.append(num_images)


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_epoch(self, run: RunState, record: Record) -> None:
        if record["step"] >= self.step:
            run.stop()


def test_order_of_calls(train_tiny: Callable[..., Result]) -> None:
    noting, again = Noting(), Noting()
    train_tiny(noting, max_steps=2, checkpoint={"every_s": 1e9})
    result = train_tiny(again, resume=True, checkpoint={"every_s": 1e9})
    assert noting.calls[:3] == [("start", 0, 0, True), ("epoch", 2, 1), ("checkpoint", 2, "step-000002")]
    assert [call[0] for call in noting.calls[3:]] == ["end"]
    assert again.calls == [
        ("start", 2, 1, True),
        ("epoch", 4, 2),
        ("checkpoint", 4, "step-000004"),
        ("end", 4, result),
    ]


def test_each_step_is_reported(train_tiny: Callable[..., Result]) -> None:
    steps = Steps()
    result = train_tiny(steps, epochs=2)
    assert len(steps.sizes) == result.steps
    assert sum(steps.sizes) == result.images_seen


@pytest.mark.usefixtures("synthetic")
def test_callbacks_may_be_a_generator(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    steps = [Steps(), Steps()]
    train(make_recipe(), runs_dir=tmp_path, run="r", callbacks=(each for each in steps))
    assert [len(each.sizes) for each in steps] == [4, 4]


@pytest.mark.usefixtures("synthetic")
def test_without_progress_nothing_is_printed(
    make_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(make_recipe(), runs_dir=tmp_path, run="shown")
    assert "training images" in capsys.readouterr().err
    train(make_recipe(), runs_dir=tmp_path, run="silent", progress=False)
    assert capsys.readouterr() == ("", "")


def test_on_end_is_called_when_the_run_fails(train_tiny: Callable[..., Result]) -> None:
    """For callbacks that had started; the failure is raised unchanged."""

    class Failing(Callback):
        def on_epoch(self, run: RunState, record: Record) -> None:  # noqa: ARG002
            raise ZeroDivisionError

    noting = Noting()
    with pytest.raises(ZeroDivisionError):
        train_tiny(noting, Failing())
    assert [call[0] for call in noting.calls] == ["start", "checkpoint", "epoch", "end"]
    assert noting.calls[-1] == ("end", 2, None)
    assert train_tiny(noting, resume=True).steps == 4


@pytest.mark.parametrize("validate_every", [1, 2, 5])
def test_an_early_stop_leaves_what_max_steps_leaves(
    validate_every: int, train_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    """Record, validation, checkpoint and model are bit-equal; also the command that repeats it."""
    changes: Any = {"epochs": 5, "validate_every": validate_every, "checkpoint": {"every_s": 1e9}}
    result = train_tiny(StopAt(6), name="stopped", **changes)
    expected = train_tiny(name="short", max_steps=6, **changes)
    assert (result.steps, result.epochs, result.accuracy) == (6, 5, expected.accuracy)
    assert (result.images_seen, result.train_flops) == (expected.images_seen, expected.train_flops)
    stopped, short = tmp_path / "stopped", tmp_path / "short"
    records = [[record | {"seconds": 0} for record in read_metrics(run / "metrics.jsonl")] for run in (stopped, short)]
    assert records[0] == records[1]
    for file in ("model/model.safetensors", "checkpoints/step-000006/tensors.safetensors"):
        assert (stopped / file).read_bytes() == (short / file).read_bytes()
    assert read_result(stopped / "result.json") == result
    assert evaluate_model(stopped).accuracy == result.accuracy
    assert command(read_run(stopped)).endswith("stopped/recipe.toml --max-steps 6")


def test_a_run_that_was_stopped_early_is_resumed(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    """It ends as if it had never stopped."""
    changes: Any = {"epochs": 4, "validate_every": 3}
    train_tiny(name="whole", **changes)
    train_tiny(StopAt(4), **changes)
    assert train_tiny(StopAt(4), resume=True, **changes).steps == 6  # stopped again after the next epoch
    assert train_tiny(resume=True, **changes).steps == 8
    weights = [(tmp_path / run / "model/model.safetensors").read_bytes() for run in ("r", "whole")]
    assert weights[0] == weights[1]
    records = [
        [record | {"seconds": 0} for record in read_metrics(tmp_path / run / "metrics.jsonl")] for run in ("r", "whole")
    ]
    assert records[0] == records[1]


@pytest.mark.parametrize(("step", "is_early"), [(2, True), (4, False)])
def test_only_a_stop_with_steps_left_is_early(
    step: int, is_early: bool, train_tiny: Callable[..., Result], logged: pytest.LogCaptureFixture
) -> None:
    assert train_tiny(StopAt(step)).steps == step
    assert (f"stopped early, at step {step} of 4" in logged.messages) == is_early
    assert ("stopped early" in logged.text) == is_early


def test_class_of_the_package() -> None:
    assert pocket_resnet.Callback is Callback
    with pytest.raises(AttributeError, match="no attribute 'Callbacks'"):
        pocket_resnet.Callbacks  # noqa: B018


@pytest.mark.parametrize(("callback", "hint"), [(Callback, "write Callback()"), (object(), "derive its class")])
def test_a_class_or_other_object_is_refused(
    callback: Any, hint: str, train_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is not an instance of pocket_resnet") as raised:
        train_tiny(callback)
    assert hint in str(raised.value)
    with pytest.raises(UsageError, match=r"callbacks: Callback is one callback instead of a list\n  write \[Callback"):
        pocket_resnet.train("fast", data="digits", runs_dir=tmp_path, callbacks=Callback())  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("title", ["Stop on a plateau", "Write a CSV file"])
def test_examples_of_the_page(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each verbatim, on the digits, with a small network."""
    [code] = re.findall(rf"## {title}\n.*?```python\n(.*?)```", PAGE, re.DOTALL)
    whole = pocket_resnet.train
    small = {"model__widths": (4, 4, 4), "model__stem_width": 4, "model__batch_norm": False, "min_steps": 0}
    frozen = {"epochs": 8, "optim__lr": 0.0, "optim__muon_lr": 0.0, "hardware__num_threads": 1}  # gets no better
    results = []

    def quick(recipe: str, **arguments: Any) -> Result:
        results.append(whole(recipe, **small | arguments | frozen))
        return results[-1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pocket_resnet, "train", quick)
    exec(compile(code, "docs/callbacks.md", "exec"), {"__name__": "__main__"})
    [result] = results
    records = read_metrics(Path(result.model).parent / "metrics.jsonl")
    if "Stop" in title:
        losses = [record["val_nll"] for record in records]
        assert 4 <= len(records) < 8
        assert min(losses[-3:]) >= min(losses[:-3])
    else:
        rows = (Path(result.model).parent / "epochs.csv").read_text().splitlines()
        assert rows[0] == "epoch,train_loss,val_accuracy"
        assert rows[1:] == [f"{each['epoch']},{each['train_loss']},{each['val_accuracy']}" for each in records]


def state(path: Path, step: int, *records: Record) -> Any:
    return SimpleNamespace(path=path, step=step, records=[*records])


def metrics_file(path: Path, *steps: int) -> MetricsFile:
    file = MetricsFile(path)
    records = [{"step": step, "loss": step / 7} for step in steps]
    file.on_start(state(path, 0))
    for number, record in enumerate(records):
        file.on_epoch(state(path, record["step"], *records[: number + 1]), record)
    return file


def test_records_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = metrics_file(path, 10, 20)
    assert read_metrics(path) == [{"step": 10, "loss": 10 / 7}, {"step": 20, "loss": 20 / 7}]
    assert path.read_text().count("\n") == 2
    file.on_epoch(state(path, 20, {"step": 10}, {"step": 20, "val_nll": 2.0}), {"step": 20, "val_nll": 2.0})
    assert read_metrics(path) == [{"step": 10}, {"step": 20, "val_nll": 2.0}]


@pytest.mark.threat(1)
def test_records_survive_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is synced before its checkpoint; otherwise a resumed run would lack it."""
    synced: list[tuple[int, int]] = []  # inode and size
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor)[1::5]))
    file = metrics_file(tmp_path / "metrics.jsonl")
    for step in (10, 20):
        synced.clear()
        file.on_epoch(state(tmp_path, step), {"step": step})
        assert synced == [file.path.stat()[1::5]]


def test_not_finite_is_not_json(tmp_path: Path) -> None:
    file = metrics_file(tmp_path / "metrics.jsonl", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        file.on_epoch(state(tmp_path, 2), {"step": 2, "loss": float("nan")})
    assert [json.loads(line)["step"] for line in file.path.read_text().splitlines()] == [1]


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    file = metrics_file(tmp_path / "metrics.jsonl", 1)
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(EnvironmentFault, match="cannot write"):
        file.on_epoch(state(tmp_path, 2), {"step": 2})


@pytest.mark.threat(11)
def test_progress_lines_without_a_terminal(
    make_recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intervals are measured with a monotonic clock."""
    now_s = 100.0
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(callbacks.time, "time", lambda: pytest.fail("the wall clock was read"))
    trainer: Any = SimpleNamespace(epoch_totals=lambda: EpochTotals(loss=1.25, accuracy=0.5, num_images=1))
    bar, run = ProgressBar(), state(Path(), 0)
    run.plan, run.recipe, run.trainer = Plan(100, 100, 1), make_recipe(epochs=4), trainer
    for step in range(1, 11):
        now_s, run.step = now_s + 10, step
        bar.on_step(run, 64)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "step 4/100  epoch 1/4  6 images/s  loss 1.250  training accuracy 50.0%  16 min 00 s left",
        "step 8/100  epoch 1/4  6 images/s  loss 1.250  training accuracy 50.0%  15 min 20 s left",
    ]


def test_without_logging_setup_only_warnings_show(
    train_tiny: Callable[..., Result], logged: pytest.LogCaptureFixture
) -> None:
    """Notices are of level INFO: here the one on few images; the end at small images is a warning."""
    train_tiny(min_steps=5, train_image_sizes=(6,))
    levels = {record.getMessage().partition(":")[0]: record.levelname for record in logged.records}
    assert levels["14 images are few"] == "INFO"
    assert levels["the last steps trained at 6 pixels, evaluation uses 8"] == "WARNING"
