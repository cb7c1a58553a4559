"""The page about a search: verdict, trials, front; text of a record is escaped."""

from dataclasses import replace
from pathlib import Path

import pytest

from pocket_resnet.errors import ArtifactError
from pocket_resnet.reporting.report import write_report
from pocket_resnet.tuning.record import (
    NOTHING_TO_COMPARE,
    Cost,
    FinalRecord,
    Rung,
    SearchRecord,
    TrialRecord,
    verdict_of,
    write_record,
)

SPACE = {
    "optim.lr": {"low": 0.01, "high": 1.0, "log": True},
    "augment.crop_px": {"low": 0, "high": 4},
    "train_image_sizes": {"choices": [[], [24, 28, 32]]},
}


def trial(number: int, nll: float, *, is_complete: bool = True, trade: float | None = None) -> TrialRecord:
    values = {
        "optim.lr": 0.01 * 1.5**number,
        "augment.crop_px": number % 5,
        "train_image_sizes": [[], [24, 28, 32]][number % 2],
    }
    rungs = [Rung(29, 24, nll + 0.4, 0.7), Rung(264, 32, nll, 1 - nll / 4)][: 1 + is_complete]
    cost = Cost(rungs[-1].steps, 10**12, 5.0, 6.5, 100_000 + number, 10**6, "a CPU")
    return TrialRecord(number, "complete" if is_complete else "pruned", values, rungs, cost, trade)


def finals(gain: float) -> list[FinalRecord]:
    return [
        FinalRecord(
            candidate, seed, 0.8 + 0.01 * seed + (gain if candidate == "tuned" else 0), 0.4, Cost(264, 10**12, 9.0, 9.0)
        )
        for candidate in ("tuned", "untuned")
        for seed in (1, 2, 3)
    ]


@pytest.fixture
def record() -> SearchRecord:
    trials = [trial(number, 0.4 + 0.05 * (number % 4), is_complete=number % 3 == 0) for number in range(12)]
    return SearchRecord(
        name="fast-digits", recipe='name = "fast"\n', data="digits", space=SPACE, num_trials=12,
        trade=None, trials=trials, importance={"optim.lr": 0.7, "augment.crop_px": 0.3}, best=0, front=[],
        finals=finals(0.1), verdict=verdict_of(finals(0.1)), version="0.1.0",
    )  # fmt: skip


def page_of(record: SearchRecord, folder: Path) -> str:
    write_record(folder, record)
    (folder / "best.toml").write_text('# trial 0\nname = "x"\n')
    return write_report(folder).read_text(encoding="utf-8")


def test_a_gain(record: SearchRecord, tmp_path: Path) -> None:
    page = page_of(record, tmp_path)
    assert "more accurate beyond the noise" in page
    assert "92.00% ± 1.00" in page
    assert "+7.73 to +12.27 points" in " ".join(page.split())
    assert page.count("<tr>") == 1 + 8 + 1 + 12
    assert "# trial 0" in page
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"history.png", "importance.png", "parallel.png"}


def test_noise_recommends_the_untuned_recipe(record: SearchRecord, tmp_path: Path) -> None:
    page = page_of(replace(record, finals=finals(0.005), verdict=verdict_of(finals(0.005))), tmp_path)
    assert "Stay with the untuned recipe" in page
    assert "more accurate beyond the noise" not in page


def test_no_trial_beat_the_untuned_recipe(record: SearchRecord, tmp_path: Path) -> None:
    page = page_of(replace(record, finals=[], verdict=NOTHING_TO_COMPARE), tmp_path)
    assert "No trial beat the untuned recipe" in page
    assert "untuned.toml" in page
    assert "Tuned against untuned" not in page


def test_what_the_search_costs(record: SearchRecord, tmp_path: Path) -> None:
    """In total, in trainings of the untuned recipe, and compared with training that recipe longer."""
    longer = [FinalRecord("longer", seed, 0.7 + 0.01 * seed, 0.6, Cost(900, 10**13, 9.0, 9.0)) for seed in (1, 2, 3)]
    runs = [*finals(0.1), *longer]
    costly = replace(record, finals=runs, verdict=verdict_of(runs), training_flops=4 * 10**12, longer_epochs=30)
    page = " ".join(page_of(costly, tmp_path).split())
    assert "The trials cost 12 TFLOP, the final comparison 36 TFLOP" in page
    assert "so the trials cost 3.0 times that" in page
    assert "trained for 30 epochs" in page
    assert "+17.73 to +22.27 points" in page
    assert "longer, all" in page


def test_an_unfinished_search(record: SearchRecord, tmp_path: Path) -> None:
    """A trial that another worker still trains is not drawn as one that was stopped early."""
    running = replace(trial(0, 0.5, is_complete=False), outcome="running")
    waiting = replace(record, trials=[running], importance={}, best=None, finals=[], verdict=None)
    page = page_of(waiting, tmp_path)
    assert "not finished" in page
    assert "<figure" not in page


def test_a_front(record: SearchRecord, tmp_path: Path) -> None:
    trials = [trial(number, 0.5 - 0.01 * number, trade=123_456_789.0 + number) for number in range(5)]
    front = replace(record, trade="macs", trials=trials, front=[1, 4], best=None, finals=[], verdict=None)
    page = page_of(front, tmp_path)
    assert "front/0001.toml" in page
    assert "multiply-adds per image" in page
    assert "<td>123,456,793</td>" in page
    assert "final comparison" not in page
    assert (tmp_path / "plots/front.png").exists()


@pytest.mark.threat(85)
def test_names_are_escaped(record: SearchRecord, tmp_path: Path) -> None:
    odd = "</script><b onload=x>"
    hostile = replace(record.trials[0], values=record.trials[0].values | {"optim.lr": 0.1}, error=odd)
    page = page_of(replace(record, name=odd, data=odd, recipe=odd, trials=[hostile, *record.trials[1:]]), tmp_path)
    assert odd not in page
    assert "&lt;b onload=x&gt;" in page


def test_a_damaged_record(record: SearchRecord, tmp_path: Path) -> None:
    page_of(record, tmp_path)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"search\.json"):
        write_report(tmp_path)
