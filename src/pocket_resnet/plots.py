"""The one style of every picture, and the axes that several share.

Colours are of Okabe and Ito's palette, which colour-blind readers can tell apart, and a grey.
"""

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from pocket_resnet.files import write_bytes

OURS, PUBLISHED, LIMIT, GRID = "#0072B2", "#606060", "#D55E00", "#e4e4e4"
COLORS = (OURS, LIMIT, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # without yellow, too pale for lines
DPI = 160
ACCURACY_TICKS = (50, 60, 70, 80, 85, 90, 92, 94, 95, 96, 97, 98, 98.5, 99)
DURATIONS: dict[float, str] = {
    **{1: "1 s", 3: "3 s", 10: "10 s", 30: "30 s", 60: "1 min", 180: "3 min", 600: "10 min", 1_800: "30 min"},
    **{3_600: "1 h", 3 * 3_600: "3 h", 10 * 3_600: "10 h"},
}
PFLOP_TICKS = {10.0**power: f"{10.0**power:g}" for power in range(-5, 4)}
LABEL_PLACES = {  # name -> offset in points, horizontal and vertical alignment
    "right": ((8, 0), "left", "center"),
    "left": ((-8, 0), "right", "center"),
    "above": ((0, 6), "center", "bottom"),
    "below-left": ((-2, -6), "right", "top"),
    "below-right": ((2, -6), "left", "top"),
}


@dataclass(frozen=True)
class Cost:
    """What an accuracy (in percent) cost: seconds of training where they are ours, and operations in 1e15."""

    name: str
    accuracy: float
    pflop: float
    seconds: float | None = None


def figure(width_in: float, height_in: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure in the project's style, and its axes from left to right."""
    _set_style()
    drawn, axes = plt.subplots(
        1, columns, figsize=(width_in, height_in), layout="constrained", squeeze=False, sharey=True
    )
    for each in axes[0]:
        _dress(each)
    return drawn, list(axes[0])


def stack(width_in: float, heights_in: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """An empty figure in the project's style with axes one below the other, which share the horizontal axis."""
    _set_style()
    drawn, axes = plt.subplots(
        len(heights_in),
        1,
        figsize=(width_in, sum(heights_in)),
        height_ratios=list(heights_in),
        layout="constrained",
        squeeze=False,
        sharex=True,
    )
    for each in axes[:, 0]:
        _dress(each)
    return drawn, list(axes[:, 0])


def canvas(width_in: float, height_in: float) -> Figure:
    """A figure without axes, in the project's style."""
    _set_style()
    return plt.figure(figsize=(width_in, height_in))


def _set_style() -> None:
    mpl.rcParams.update({"font.size": 12, "font.family": "DejaVu Sans"})


def _dress(axes: Axes) -> None:
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def png(drawn: Figure) -> bytes:
    """The figure as PNG, the same bytes from the same figure; it is closed."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a class name in another script
        drawn.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    plt.close(drawn)
    return buffer.getvalue()


def save(drawn: Figure, target: Path) -> None:
    """Write the figure as PNG."""
    write_bytes(target, png(drawn))


def shown(text: str, most: int = 14) -> str:
    """Text of unknown origin for a picture: one line, at most so many characters, nothing unprintable, no formula."""
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return (line if len(line) <= most else line[: most - 1] + "…").replace("$", r"\$")


def accuracy_height(percent: float) -> float:
    """Where an accuracy stands on a vertical axis that is logarithmic in the error."""
    return -math.log10(100 - percent)


def dress_accuracy_axis(axes: Axes, lowest: float, highest: float = 98.5) -> None:
    """Ticks in percent from below `lowest` to `highest`; errors of 8, 4 and 2 percent stand equally far apart."""
    axes.set_ylim(accuracy_height(lowest), accuracy_height(highest))
    ticks = [tick for tick in ACCURACY_TICKS if lowest <= tick <= highest]
    axes.yaxis.set_major_locator(FixedLocator([accuracy_height(tick) for tick in ticks]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticklabels([f"{tick:g}%" for tick in ticks])


def write_label(axes: Axes, x: float, y: float, text: str, place: str, color: str, weight: str) -> None:
    """Text beside a point; `place` is one of LABEL_PLACES."""
    offset, horizontal, vertical = LABEL_PLACES[place]
    axes.annotate(
        text, (x, y), offset, textcoords="offset points", ha=horizontal, va=vertical, color=color, weight=weight
    )


def draw_key(axes: Axes, *, published: bool = True, chosen_on_test: bool = False) -> None:
    """What filled circles mean, and hollow ones and a dagger where there are some; above the axes."""
    axes.plot([], [], "o", markersize=11, color=OURS, label="this package: validation images, last epoch")
    if published:
        label = "published: test images"
        axes.plot([], [], "o", markersize=8, markerfacecolor="white", markeredgecolor=PUBLISHED, label=label)
    if chosen_on_test:
        label = "best epoch chosen on the test images"
        axes.plot([], [], linestyle="", marker="$†$", markersize=9, color=PUBLISHED, label=label)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False, handletextpad=0.4, labelspacing=0.3)


def draw_cost(ours: Sequence[Cost], published: Sequence[Cost], target: Path) -> None:
    """Accuracy against training time (ours alone: times are of one machine) and against training operations."""
    drawn, (time_axes, work_axes) = figure(11, 5, columns=2)
    for axes, unit in ((time_axes, "seconds"), (work_axes, "pflop")):
        axes.set_xscale("log")
        for cost in published:
            _draw_cost(axes, cost, unit, PUBLISHED, hollow=True, place="left")
        for number, cost in enumerate(ours):  # several seeds of a recipe share one label
            place = "" if cost.name in {earlier.name for earlier in ours[:number]} else "below-right"
            _draw_cost(axes, cost, unit, OURS, hollow=False, place=place)
    dress_accuracy_axis(time_axes, min(cost.accuracy for cost in [*ours, *published]) - 3)
    _dress_log_axis(time_axes, time_axes.xaxis, [cost.seconds for cost in ours if cost.seconds], DURATIONS)
    _dress_log_axis(work_axes, work_axes.xaxis, [cost.pflop for cost in [*ours, *published]], PFLOP_TICKS)
    time_axes.set_ylabel("accuracy on CIFAR-10")
    time_axes.set_xlabel("training time")
    draw_key(time_axes, published=bool(published))
    work_axes.set_xlabel("training operations, PFLOP (forward and backward)")
    save(drawn, target)


def _draw_cost(axes: Axes, cost: Cost, unit: str, color: str, *, hollow: bool, place: str) -> None:
    x, y = getattr(cost, unit), accuracy_height(cost.accuracy)
    if x is None:
        return
    face, edge = ("white", color) if hollow else (color, "white")
    axes.plot(x, y, "o", markersize=8 if hollow else 10, markerfacecolor=face, markeredgecolor=edge)
    if place:
        write_label(axes, x, y, cost.name, place, color, "normal" if hollow else "bold")


def _dress_log_axis(axes: Axes, axis: Axis, values: Sequence[float], names: dict[float, str]) -> None:
    low, high = min(values) / 3, max(values) * 3  # room for labels
    axes.set_xlim(low, high)
    ticks = [tick for tick in names if low <= tick <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axes.set_xticklabels([names[tick] for tick in ticks])
