"""metrics.jsonl and what is said while training."""

import json
import os
from pathlib import Path

import pytest

from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.training import metrics
from pocket_resnet.training.metrics import MetricsFile, Plan, ProgressReport, duration, read_metrics

PLAN = Plan(steps_per_epoch=10, last_step=100, validate_every=2)


def write(path: Path, *steps: int) -> MetricsFile:
    file = MetricsFile(path, 0, PLAN)
    for step in steps:
        file.append({"step": step, "loss": step / 7})
    return file


def test_records_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 10, 20)
    assert read_metrics(path) == [{"step": 10, "loss": 10 / 7}, {"step": 20, "loss": 20 / 7}]
    assert path.read_text().count("\n") == 2


def test_records_survive_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 1: a checkpoint is synced, and so is the record before it; else a resumed run would lack it for good."""
    synced: list[tuple[int, int]] = []  # inode and size
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor)[1::5]))
    file = MetricsFile(tmp_path / "metrics.jsonl", 0, PLAN)
    for step in (10, 20):
        synced.clear()
        file.append({"step": step})
        assert synced == [file.path.stat()[1::5]]


def test_what_lies_beyond_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    """Row 1: by step, and not by place; a half-written last line and lines that are no record go too."""
    path = tmp_path / "metrics.jsonl"
    write(path, 10, 20, 30)
    with path.open("a") as file:
        file.write('[1, 2]\n{"epoch": 4}\n\xff\x00\n{"step": 40, "lo')
    assert [record["step"] for record in read_metrics(path)] == [10, 20, 30]
    kept = path.read_text().splitlines()[:2]
    resumed = MetricsFile(path, 20, PLAN)
    assert path.read_text().splitlines() == kept
    resumed.append({"step": 30})
    assert [record["step"] for record in read_metrics(path)] == [10, 20, 30]
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("last_step", "records", "validations"),
    [(100, [10, 20, 30], [20]), (15, [10, 15], [15]), (10, [10], [10]), (20, [10, 20], [20])],
)
def test_plan(last_step: int, records: list[int], validations: list[int]) -> None:
    """The last step is always recorded and validated."""
    plan = Plan(10, last_step, 2)
    steps = range(1, min(last_step, 30) + 1)
    assert [step for step in steps if plan.records(step)] == records
    assert [step for step in records if plan.validates(step)] == validations
    assert [plan.epoch(step) for step in (1, 10, 11, 20, 21)] == [1, 1, 2, 2, 3]


def test_what_max_steps_left_there(tmp_path: Path) -> None:
    """Row 1: the record of a run that ended there stays while it ends there; one that goes on has none, or less."""
    path = tmp_path / "metrics.jsonl"
    ended = {"step": 35, "val_nll": 1.0}
    write(path, 10, 20, 30).append(ended)
    assert MetricsFile(path, 35, Plan(10, 35, 2)).kept[-1] == ended
    assert [record["step"] for record in MetricsFile(path, 35, PLAN).kept] == [10, 20, 30]
    file = MetricsFile(path, 30, PLAN)
    assert file.unchanged_step == 30
    file.append({"step": 40})
    assert file.append({"step": 50, "val_nll": 1.0}) == {"step": 50, "val_nll": 1.0}
    file = MetricsFile(path, 50, PLAN)
    assert (file.kept[-1], file.unchanged_step) == ({"step": 50}, 49)
    assert MetricsFile(path, 50, Plan(10, 50, 2)).append({"step": 50, "val_nll": 2.0}) == {"step": 50, "val_nll": 2.0}
    assert read_metrics(path)[-2:] == [{"step": 40}, {"step": 50, "val_nll": 2.0}]


def test_not_finite_is_not_json(tmp_path: Path) -> None:
    file = write(tmp_path / "metrics.jsonl", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        file.append({"step": 2, "loss": float("nan")})
    assert [json.loads(line)["step"] for line in file.path.read_text().splitlines()] == [1]


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    file = write(tmp_path / "metrics.jsonl", 1)
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(EnvironmentFault, match="cannot write"):
        file.append({"step": 2})


def test_plain_lines_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 11: intervals are told by a clock that nobody sets."""
    now_s = 100.0
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(metrics.time, "time", lambda: pytest.fail("the wall clock was asked"))
    with ProgressReport(num_steps=100, first_step=0, num_epochs=4) as report:
        for step in range(1, 11):
            now_s += 10
            if report.stepped(64):
                report.tell(step, epoch=0, loss=1.25, accuracy=0.5)
        report.say("[bold]as it is[/bold]")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines == [
        "step 4/100  epoch 1/4  6 images/s  loss 1.250  accuracy 50.0%  16 min 00 s left",
        "step 8/100  epoch 1/4  6 images/s  loss 1.250  accuracy 50.0%  15 min 20 s left",
        "[bold]as it is[/bold]",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (48.4, "48 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
