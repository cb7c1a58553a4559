"""Scatter plots of the documents: the accuracy axis, points and their key, and accuracy against cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from pocket_resnet.io.files import write_bytes
from pocket_resnet.plots.style import OURS, PUBLISHED, new_figure, png, style, style_axes
from tools.labels import Label, write_labels

ACCURACY_TICKS = (50, 60, 70, 80, 85, 90, 92, 94, 95, 96, 97, 98, 98.5, 99)
DURATIONS: dict[float, str] = {
    **{1: "1 s", 3: "3 s", 10: "10 s", 30: "30 s", 120: "2 min", 360: "6 min", 1_200: "20 min"},
    **{3_600: "1 h", 3 * 3_600: "3 h", 10 * 3_600: "10 h", 30 * 3_600: "30 h", 100 * 3_600: "100 h"},
}
PFLOP_TICKS = {10.0**power: f"{10.0**power:g}" for power in range(-5, 4)}


@dataclass(frozen=True)
class Cost:
    """An accuracy (in percent) and its cost: operations in 1e15 and, for our own runs, seconds of training."""

    name: str
    accuracy: float
    pflop: float
    seconds: float | None = None
    gpu: str = ""
    """Empty for a CPU."""


def save(drawn: Figure, target: Path) -> None:
    """Write the figure as PNG."""
    write_bytes(target, png(drawn))


def accuracy_height(percent: float) -> float:
    """The position of an accuracy on a vertical axis that is logarithmic in the error; 100% is drawn as 99.99%."""
    return -math.log10(max(100 - percent, 0.01))


def dress_accuracy_axis(axes: Axes, lowest: float, highest: float = 98.5) -> None:
    """Ticks in percent from below `lowest` to `highest`; errors of 8, 4 and 2 percent are equally far apart."""
    axes.set_ylim(accuracy_height(lowest), accuracy_height(highest))
    ticks = [tick for tick in ACCURACY_TICKS if lowest <= tick <= highest]
    axes.yaxis.set_major_locator(FixedLocator([accuracy_height(tick) for tick in ticks]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticklabels([f"{tick:g}%" for tick in ticks])


@style()
def draw_key(axes: Axes, *, published: bool = True, chosen_on_test: bool = False) -> None:
    """The key of filled circles, and of hollow ones and daggers if there are any, above the axes."""
    axes.plot([], [], "o", markersize=11, color=OURS, label="this package: validation images, last epoch")
    if published:
        label = "published: test images"
        axes.plot([], [], "o", markersize=8, markerfacecolor="white", markeredgecolor=PUBLISHED, label=label)
    if chosen_on_test:
        label = "best epoch chosen on the test images"
        axes.plot([], [], linestyle="", marker="$†$", markersize=9, color=PUBLISHED, label=label)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False, handletextpad=0.4, labelspacing=0.3)


@style()
def cost_figure(ours: Sequence[Cost], published: Sequence[Cost]) -> Figure:
    """Accuracy against training time (only ours) and against training operations."""
    drawn = new_figure(11, 5, layout="constrained")
    time_axes, work_axes = map(style_axes, drawn.subplots(1, 2, sharey=True))
    for axes, unit in ((time_axes, "seconds"), (work_axes, "pflop")):
        axes.set_xscale("log")
        for cost in published:
            draw_point(axes, getattr(cost, unit), cost.accuracy, hollow=True)
        for cost in ours:
            draw_point(axes, getattr(cost, unit), cost.accuracy)
    dress_accuracy_axis(time_axes, min(cost.accuracy for cost in [*ours, *published]) - 3)
    _dress_log_axis(time_axes, time_axes.xaxis, [cost.seconds for cost in ours if cost.seconds], DURATIONS)
    dress_pflop_axis(work_axes, [cost.pflop for cost in [*ours, *published]])
    time_axes.set_ylabel("accuracy on CIFAR-10")
    time_axes.set_xlabel("training time")
    draw_key(time_axes, published=bool(published), chosen_on_test=any("†" in cost.name for cost in published))
    for axes, unit in ((time_axes, "seconds"), (work_axes, "pflop")):
        named = {(cost.name, cost.gpu): cost for cost in reversed(ours)}  # several seeds of a recipe share one label
        labels = [_cost_label(cost, unit, OURS, "bold") for cost in reversed(named.values())]
        labels += [_cost_label(cost, unit, PUBLISHED, "normal") for cost in published]
        write_labels(axes, [label for label in labels if label.x is not None])
    return drawn


def _cost_label(cost: Cost, unit: str, color: str, weight: str) -> Label:
    text = f"{cost.name} ({cost.gpu})" if cost.gpu and unit == "seconds" else cost.name
    return Label(getattr(cost, unit), accuracy_height(cost.accuracy), text, color, weight)


def draw_point(axes: Axes, x: float | None, accuracy: float, *, hollow: bool = False) -> None:
    """A circle at an accuracy in percent, filled for our results, hollow for published ones; nothing if x is None."""
    if x is not None:
        face, edge = ("white", PUBLISHED) if hollow else (OURS, "white")
        style: dict[str, Any] = {"markersize": 8 if hollow else 11, "markeredgewidth": 1.5 if hollow else 1.0}
        axes.plot(x, accuracy_height(accuracy), "o", markerfacecolor=face, markeredgecolor=edge, **style)


def dress_pflop_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis of training operations with room for labels around these values."""
    axes.set_xscale("log")
    _dress_log_axis(axes, axes.xaxis, values, PFLOP_TICKS)
    axes.set_xlabel("training operations, PFLOP (forward and backward)")


def _dress_log_axis(axes: Axes, axis: Axis, values: Sequence[float], names: dict[float, str]) -> None:
    low, high = min(values) / 3, max(values) * 3  # room for labels
    axes.set_xlim(low, high)
    ticks = [tick for tick in names if low <= tick <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axes.set_xticklabels([names[tick] for tick in ticks])
