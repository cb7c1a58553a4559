"""Learning curves draw the records of one run, or the mean of several."""

import random
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from pocket_resnet import plots
from pocket_resnet.errors import UsageError
from pocket_resnet.plots.style import COLORS, png


def records(seed: int, epochs: int = 4) -> list[dict[str, Any]]:
    draws = random.Random(seed)
    keys = ("train_loss", "val_nll", "train_accuracy", "val_accuracy", "lr")
    records = [{"epoch": epoch + 1} | {key: draws.random() for key in keys} for epoch in range(epochs)]
    del records[0]["val_nll"], records[0]["val_accuracy"]  # not every epoch is validated
    return records


def points(axes: Axes) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


@pytest.mark.parametrize("wide", [False, True])
def test_one_run_s_curves_are_its_records(wide: bool) -> None:
    run = records(0)
    losses, accuracies, rates = plots.learning_curves({"a": [run]}, wide=wide).axes
    assert points(losses)[0] == ([1, 2, 3, 4], [record["train_loss"] for record in run])
    assert points(losses)[1] == ([2, 3, 4], [record["val_nll"] for record in run[1:]])
    assert points(accuracies)[1][1] == pytest.approx([100 * record["val_accuracy"] for record in run[1:]])
    assert points(rates) == [([1, 2, 3, 4], [record["lr"] for record in run])]
    assert not losses.collections


class Finished:
    """As a result of `train`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def records(self) -> list[dict[str, Any]]:
        return records(self.seed)


def test_results_are_drawn_as_their_records() -> None:
    expected = plots.learning_curves({"a": [records(0)], "b": [records(1), records(2)]})
    drawn = plots.learning_curves({"a": Finished(0), "b": [Finished(1), records(2)]})
    assert [points(axes) for axes in drawn.axes] == [points(axes) for axes in expected.axes]


@pytest.mark.parametrize("given", [records(0), [], "runs/a", ["runs/a"], [[{"step": 1}]], records(0)[0]])
def test_other_values_are_refused(given: Any) -> None:
    with pytest.raises(UsageError, match=r"for the label 'a'\n.*give a result of train, or a list of results"):
        plots.learning_curves({"b": [records(0)], "a": given})


def test_several_runs_are_a_mean_and_a_band() -> None:
    runs = [records(seed) for seed in range(3)]
    drawn = plots.learning_curves({"a": runs, "b": [records(7, epochs=2)]})
    losses = drawn.axes[0]
    values = np.array([[record["train_loss"] for record in run] for run in runs])
    assert points(losses)[0][1] == pytest.approx(values.mean(0))
    band = losses.collections[0].get_paths()[0].vertices
    for epoch, mean, spread in zip((1, 2, 3, 4), values.mean(0), values.std(0, ddof=1), strict=True):
        heights = band[band[:, 0] == epoch][:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((mean - spread, mean + spread))
    assert [line.get_color() for line in losses.lines] == [COLORS[0]] * 2 + [COLORS[1]] * 2
    assert [text.get_text() for text in drawn.legends[0].get_texts()][:2] == ["a", "b"]


@pytest.mark.filterwarnings("error")
def test_a_long_key_leaves_room_for_the_charts() -> None:
    heights = []
    for count in (1, 30):
        drawn = plots.learning_curves({f"run {number}": [records(number)] for number in range(count)}, wide=True)
        png(drawn)
        heights.append(drawn.axes[0].get_window_extent().height)
    assert heights[1] > 0.8 * heights[0]


@pytest.mark.parametrize(("sizes", "expected"), [([6, 6, 8, 8], [2.5]), ([6, 8, 8, 8], [])])
def test_changes_of_image_size_are_drawn_if_all_runs_share_them(sizes: list[int], expected: list[float]) -> None:
    runs = [
        [record | {"image_size": size} for record, size in zip(records(0), each, strict=True)]
        for each in ([6, 6, 8, 8], sizes)
    ]
    losses = plots.learning_curves({"a": [runs[0]], "b": [runs[1]]}).axes[0]
    assert [line.get_xdata()[0] for line in losses.lines if line.get_linestyle() == ":"] == expected
