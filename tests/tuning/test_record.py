"""search.json: written, read, refused if damaged; differences within noise are no gain."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.errors import ArtifactError
from pocket_resnet.tuning.record import (
    NOTHING_TO_COMPARE,
    Cost,
    FinalRecord,
    Rung,
    SearchRecord,
    TrialRecord,
    is_search,
    read_record,
    verdict_of,
    write_record,
)


def final(candidate: Any, seed: int, accuracy: float, nll: float = 0.3) -> FinalRecord:
    return FinalRecord(candidate, seed, accuracy, nll, Cost(steps=9, train_flops=10, seconds=1.0, seconds_total=2.0))


def finals(tuned: list[float], untuned: list[float]) -> list[FinalRecord]:
    return [
        *(final("tuned", seed, accuracy) for seed, accuracy in enumerate(tuned, 1)),
        *(final("untuned", seed, accuracy) for seed, accuracy in enumerate(untuned, 1)),
    ]


@pytest.fixture
def record() -> SearchRecord:
    trial = TrialRecord(
        0, "complete", {"optim.lr": 0.1, "train_image_sizes": [6, 8]}, [Rung(4, 8, 0.5, 0.8)], Cost(4, 10, 1.0, 3.0)
    )
    stopped = TrialRecord(1, "pruned", {"optim.lr": 9.0}, [], Cost(1, 5), error="not finite")
    runs = finals([0.9, 0.91, 0.92], [0.8, 0.81, 0.82])
    return SearchRecord(
        name="tiny", recipe='name = "tiny"\n', data="digits", space={"optim.lr": {"low": 0.1, "high": 1.0}},
        num_trials=2, trade=None, trials=[trial, stopped], importance={"optim.lr": 1.0}, best=0, front=[], finals=runs,
        verdict=verdict_of(runs), version="0.1.0",
    )  # fmt: skip


def test_written_and_read(record: SearchRecord, tmp_path: Path) -> None:
    assert not is_search(tmp_path)
    write_record(tmp_path, record)
    assert is_search(tmp_path)
    assert read_record(tmp_path) == record
    written = json.loads((tmp_path / "search.json").read_text())
    assert (written["trials_flops"], written["finals_flops"]) == (10 + 5, 6 * 10)
    assert written["seconds_total"] == 3 + 6 * 2
    assert record.mean_and_sd("tuned", "accuracy") == pytest.approx((0.91, 0.01))
    assert record.compared == ["untuned", "tuned"]


def test_recipes_to_train(record: SearchRecord) -> None:
    """The recommended recipe, or those of the front; none before the verdict."""
    assert record.recipe_names == ["best.toml"]
    noise = finals([0.8, 0.9, 1.0], [0.8, 0.9, 1.0])
    assert replace(record, verdict=verdict_of(noise)).recipe_names == ["untuned.toml"]
    assert replace(record, verdict=NOTHING_TO_COMPARE).recipe_names == ["untuned.toml"]
    assert replace(record, verdict=None).recipe_names == []
    assert replace(record, verdict=None, best=None, front=[1, 0]).recipe_names == ["front/0001.toml", "front/0000.toml"]


@pytest.mark.threat(85)
@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": 1}',
        b'{"format": "1"}',
    ],
)
def test_damage_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "search.json").write_bytes(damage)
    with pytest.raises(ArtifactError, match=r"search\.json: not a search's record"):
        read_record(tmp_path)


@pytest.mark.threat(85)
def test_wrong_values_and_newer_formats(record: SearchRecord, tmp_path: Path) -> None:
    write_record(tmp_path, record)
    path = tmp_path / "search.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"trials": [{"number": "<b>"}]}))
    with pytest.raises(ArtifactError, match="trials"):
        read_record(tmp_path)
    path.write_text(json.dumps(values | {"format": 2, "version": "9.9"}))
    with pytest.raises(ArtifactError, match=r"upgrade pocket-resnet to 9\.9"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("tuned", "untuned", "expected"),
    [
        ([0.90, 0.91, 0.92], [0.80, 0.81, 0.82], "tuned"),
        ([0.80, 0.81, 0.82], [0.90, 0.91, 0.92], "untuned"),
        ([0.90, 0.91, 0.92], [0.89, 0.905, 0.92], "untuned"),
        ([0.99, 0.99, 0.99], [0.99, 0.99, 0.99], "untuned"),
    ],
)
def test_noise_is_no_gain(tuned: list[float], untuned: list[float], expected: str) -> None:
    verdict = verdict_of(finals(tuned, untuned))
    assert verdict is not None
    assert verdict.recommended == expected
    assert verdict_of(finals(tuned, untuned)[1:]) is None


def test_training_longer_is_judged_too() -> None:
    runs = finals([0.90, 0.91, 0.92], [0.80, 0.81, 0.82])
    longer = [final("longer", seed, accuracy) for seed, accuracy in enumerate([0.95, 0.96, 0.97], 1)]
    verdict, unfinished = verdict_of(runs + longer), verdict_of(runs + longer[1:])
    assert verdict is not None
    assert unfinished is not None
    assert verdict.longer_difference == pytest.approx((-0.07267, -0.02733), abs=1e-5)
    assert verdict.recommended == "tuned"
    assert unfinished.longer_difference is None
