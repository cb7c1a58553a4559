"""The records of a run: when there is one, and which a resumed run keeps."""

import json
from pathlib import Path

import pytest

from pocket_resnet.training.metrics import Plan, duration, history, read_metrics

PLAN = Plan(steps_per_epoch=10, last_step=100, validate_every=2)


def write(path: Path, *records: dict[str, float]) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


@pytest.mark.threat(1)
def test_records_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    """By step, not by position; incomplete lines and lines that are not records are dropped too."""
    path = tmp_path / "metrics.jsonl"
    assert history(path, 20, PLAN).records == []
    write(path, {"step": 10}, {"step": 20}, {"step": 30})
    with path.open("a") as file:
        file.write('[1, 2]\n{"epoch": 4}\n\xff\x00\n{"step": 40, "lo')
    assert [record["step"] for record in read_metrics(path)] == [10, 20, 30]
    kept = history(path, 20, PLAN)
    assert (kept.records, kept.unchanged_step) == ([{"step": 10}, {"step": 20}], 20)


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


@pytest.mark.threat(1)
def test_records_at_max_steps(tmp_path: Path) -> None:
    """The last record stays if the run still ends there; if it resumes, the record or its validation goes."""
    path = tmp_path / "metrics.jsonl"
    ended = {"step": 35, "val_nll": 1.0}
    write(path, {"step": 10}, {"step": 20}, {"step": 30}, ended)
    assert history(path, 35, Plan(10, 35, 2)).records[-1] == ended
    assert [record["step"] for record in history(path, 35, PLAN).records] == [10, 20, 30]
    assert history(path, 35, PLAN).unchanged_step == 34
    assert history(path, 30, PLAN).unchanged_step == 30
    write(path, {"step": 40}, {"step": 50, "val_nll": 1.0})
    kept = history(path, 50, PLAN)
    assert (kept.records[-1], kept.unchanged_step) == ({"step": 50}, 49)


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
