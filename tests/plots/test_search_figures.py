"""Charts of a search show the given values, also for a single trial or odd names."""

import pytest

from pocket_resnet.plots.search_figures import (
    Column,
    TrialPoint,
    cost_front,
    key_importance,
    parallel_coordinates,
    search_history,
)
from pocket_resnet.plots.style import LIMIT, OURS, png

POINTS = [TrialPoint(0, 0.9, True), TrialPoint(1, 1.4, False), TrialPoint(2, 0.5, True), TrialPoint(3, 0.7, True)]


def test_history_has_every_trial_and_the_best_so_far() -> None:
    stopped, complete, best = search_history(POINTS).axes[0].lines
    assert [tuple(point) for point in stopped.get_xydata()] == [(1, 1.4)]
    assert [tuple(point) for point in complete.get_xydata()] == [(0, 0.9), (2, 0.5), (3, 0.7)]
    assert list(best.get_ydata()) == [0.9, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("points", [POINTS[:1], POINTS[1:2], [TrialPoint(0, 0.0, True)]])
def test_history_of_one_trial(points: list[TrialPoint]) -> None:
    drawn = search_history(points)
    assert png(drawn).startswith(b"\x89PNG")
    assert all(tick == int(tick) for tick in drawn.axes[0].get_xticks())


def test_importance_is_sorted() -> None:
    axes = key_importance({"optim.lr": 0.2, "model.num_blocks": 0.5, "$x_{odd": 0.3}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [50, 30, 20]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["model.num_blocks", r"\$x_{odd", "optim.lr"]


def test_the_best_trial_is_drawn_last_and_in_colour() -> None:
    columns = [
        Column("optim.lr (log)", "0.02", "1", (0.0, 0.5, 1.0)),
        Column("augment.flip", "a", "b", (1.0, 0.0, 1.0)),
    ]
    figure = parallel_coordinates(columns, [0.9, 0.3, 0.6])
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert list(lines[-1].get_xdata()) == [0.5, 0.0, 0.0]
    assert lines[-1].get_color() == OURS
    assert [line.get_xdata()[-1] for line in lines] == pytest.approx([1, 0.5, 0])
    assert png(parallel_coordinates(columns, [0.5, 0.5, 0.5])).startswith(b"\x89PNG")


def test_front_is_connected_by_cost() -> None:
    figure = cost_front([(1e6, 0.9, True), (1e5, 0.8, True), (1e6, 0.7, False)], "parameters")
    others, front = figure.axes[0].lines
    assert [tuple(point) for point in others.get_xydata()] == [(1e6, 70)]
    assert [tuple(point) for point in front.get_xydata()] == [(1e5, 80), (1e6, 90)]
    assert front.get_color() == OURS != LIMIT
    assert figure.axes[0].get_xlabel() == "parameters"
