"""Sizes, the runs on the front, and the power law through them."""

import pytest

from tools import ladder, table
from tools.results import read_rows
from tools.table import read_leaderboard


def run(num_params: int, pflop: float, error: float) -> dict[str, str]:
    """A row of the leaderboard; the error is in percent."""
    [first, *_] = read_rows("leaderboard.csv")
    accuracy = str(1 - error / 100)
    return first | {"num_params": str(num_params), "train_pflop": str(pflop), "accuracy_mean": accuracy}


RUNS = [run(2_000_000, 1.0, 5.0), run(90_000, 0.01, 20.0), run(1_999_999, 4.0, 6.0), run(270_000, 100.0, 1.25)]


def test_sizes() -> None:
    """A run belongs to the smallest size that holds its parameters; cheap runs come first; other views do not count."""
    two_views = run(90_000, 1.0, 4.0) | {"views": "2"}
    larger = run(5_000_001, 1.0, 4.0)
    rungs = ladder.rungs([*RUNS, two_views, larger])
    assert rungs == {"100K": [RUNS[1]], "270K": [RUNS[3]], "2M": [RUNS[0], RUNS[2]]}


def test_the_power_law_fits_the_runs_on_the_front() -> None:
    """A fourth of the error for a hundred times the operations is an exponent of log 4 / log 100."""
    best = ladder.frontier(RUNS)
    assert best == [RUNS[1], RUNS[0], RUNS[3]]
    law = ladder.fit(best)
    assert (law.at_1_pflop, law.exponent) == (pytest.approx(5.0), pytest.approx(0.30103, abs=1e-5))
    assert law.error(100.0) == pytest.approx(1.25)


def test_picture_and_table() -> None:
    drawn = ladder.ladder(RUNS)
    assert drawn is not None
    [legend] = [axes.get_legend() for axes in drawn.axes]
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:3] == ["100K", "270K", "2M"]
    assert texts[3] == "error 5.0% at 1 PFLOP,\nexponent -0.30"
    lines = table.ladder_table(RUNS)
    assert "| 2M | `fast --data cifar10` | 1,999,999 | 3 | 4 | 94.00%" in lines
    assert "error = 5.0% x PFLOP<sup>-0.30</sup>" in lines
    assert ladder.ladder([]) is None
    of_the_dial = {"recipe": "best", "command": "pocket-resnet train best --epochs 3"}
    assert ladder.ladder([row | of_the_dial for row in RUNS])  # which have no labels
    assert ladder.ladder([row | {"recipe": "changed"} for row in RUNS]) is None


def test_the_ladders_rows_keep_the_leaderboards_rules() -> None:
    assert read_leaderboard(ladder.LADDER)
