"""Scatter plots: the scale of accuracy, and that they draw the given points."""

from pathlib import Path

import pytest
from PIL import Image

from pocket_resnet.plots.style import figure
from tools.scatter import ACCURACY_TICKS, Cost, accuracy_height, cost_figure, draw_key, save


def test_halving_the_error_is_the_same_step_everywhere() -> None:
    steps = [accuracy_height(high) - accuracy_height(low) for low, high in ((84, 92), (92, 96), (96, 98))]
    assert steps == pytest.approx([steps[0]] * 3)


def test_higher_accuracy_stands_higher() -> None:
    heights = [accuracy_height(tick) for tick in (*ACCURACY_TICKS, 100)]
    assert heights == sorted(set(heights))


def test_cost_picture_holds_every_point_where_it_belongs() -> None:
    ours = [Cost("fast", 86.7, 0.01, 34), Cost("fast", 86.1, 0.01, 36), Cost("cpu94", 93.2, 0.2, 440, "H200")]
    drawn = cost_figure(ours, [Cost("airbench94", 94.0, 0.29)])
    time_axes, work_axes = drawn.axes
    points = [
        {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if len(line.get_xdata())}
        for axes in (time_axes, work_axes)
    ]
    assert points[0] == {(cost.seconds, accuracy_height(cost.accuracy)) for cost in ours}
    assert points[1] == {(cost.pflop, accuracy_height(cost.accuracy)) for cost in ours} | {
        (0.29, accuracy_height(94.0))
    }
    assert [text.get_text() for text in time_axes.texts] == ["fast", "cpu94 (H200)"]
    assert [text.get_text() for text in work_axes.texts] == ["fast", "cpu94", "airbench94"]
    for axes in (time_axes, work_axes):
        low, high = axes.get_xlim()
        assert all(low <= x <= high for x, _ in points[axes is work_axes])


def test_picture_is_written_the_same_twice(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(cost_figure([Cost("fast", 86.7, 0.01, 34)], []), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").size[0] > 1000


def test_dagger_of_the_key_is_a_dagger() -> None:
    """A marker in dollars is drawn as a formula, although names are not."""
    _, axes = figure(4, 3)
    draw_key(axes, chosen_on_test=True)
    outline = axes.lines[-1]._marker.get_path().get_extents()
    assert outline.width < outline.height
