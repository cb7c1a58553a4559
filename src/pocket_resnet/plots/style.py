"""The one style of every picture, and the axes that several share.

Colours are of Okabe and Ito's palette, which colour-blind readers can tell apart, and a grey.
"""

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from pocket_resnet.io.files import write_bytes
from pocket_resnet.plots.settings import style

OURS, PUBLISHED, LIMIT, GRID = "#0072B2", "#606060", "#D55E00", "#e4e4e4"
COLORS = (OURS, LIMIT, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # without yellow, too pale for lines
DPI = 160
ACCURACY_TICKS = (50, 60, 70, 80, 85, 90, 92, 94, 95, 96, 97, 98, 98.5, 99)
DURATIONS: dict[float, str] = {
    **{1: "1 s", 3: "3 s", 10: "10 s", 30: "30 s", 120: "2 min", 300: "5 min", 900: "15 min"},
    **{3_600: "1 h", 3 * 3_600: "3 h", 10 * 3_600: "10 h", 30 * 3_600: "30 h", 100 * 3_600: "100 h"},
}
PFLOP_TICKS = {10.0**power: f"{10.0**power:g}" for power in range(-5, 4)}
LABEL_PLACES = (  # offset in points, horizontal and vertical alignment; the first are preferred
    ((8, 0), "left", "center"),
    ((-8, 0), "right", "center"),
    ((0, 7), "center", "bottom"),
    ((0, -7), "center", "top"),
    ((5, 5), "left", "bottom"),
    ((-5, 5), "right", "bottom"),
    ((5, -5), "left", "top"),
    ((-5, -5), "right", "top"),
)
LABEL_RIM = np.array([-7, -3, 7, 3])  # pixels that a label keeps from others where it can
LABEL_PREFERENCE = 2  # square pixels that a place may cover more than the one before it
LABEL_STARTS, LABEL_ROUNDS = 40, 4


@dataclass(frozen=True)
class Label:
    """A name beside a point of some axes."""

    x: float
    y: float
    text: str
    color: str
    weight: str = "normal"


class Chart(Figure):
    """A figure that pyplot does not know of, so that it needs no closing, and that a notebook shows by itself."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return png(self), {"width": round(self.get_figwidth() * self.dpi)}


@dataclass(frozen=True)
class Cost:
    """What an accuracy (in percent) cost: seconds of training where they are ours, and operations in 1e15."""

    name: str
    accuracy: float
    pflop: float
    seconds: float | None = None


@style()
def figure(width_in: float, height_in: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure in the project's style, and its axes from left to right."""
    drawn = canvas(width_in, height_in, layout="constrained")
    axes = drawn.subplots(1, columns, squeeze=False, sharey=True)
    for each in axes[0]:
        _dress(each)
    return drawn, list(axes[0])


@style()
def stack(width_in: float, heights_in: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """An empty figure in the project's style with axes one below the other, which share the horizontal axis."""
    drawn = canvas(width_in, sum(heights_in), layout="constrained")
    axes = drawn.subplots(len(heights_in), height_ratios=list(heights_in), squeeze=False, sharex=True)
    for each in axes[:, 0]:
        _dress(each)
    return drawn, list(axes[:, 0])


@style()
def canvas(width_in: float, height_in: float, layout: Literal["constrained"] | None = None) -> Figure:
    """A figure without axes, in the project's style."""
    return Chart(figsize=(width_in, height_in), layout=layout)


def _dress(axes: Axes) -> None:
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


@style()
def png(drawn: Figure) -> bytes:
    """The figure as PNG, the same bytes from the same figure."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


@style()
def pixels(drawn: Figure) -> NDArray[np.uint8]:
    """The figure as RGB [H, W, 3]."""
    drawn.set_dpi(DPI)
    rendered: Any = FigureCanvasAgg(drawn)
    rendered.draw()
    pixels_HWC: NDArray[np.uint8] = np.asarray(rendered.buffer_rgba())[..., :3].copy()
    return pixels_HWC


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


@style()
def write_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write each label beside its point, so that they cover each other and what is drawn already as little as can be.

    To be called last, when limits and layout are settled. Axes of the arrays: L labels, P places, M marks, 4 the left,
    lower, right and upper end of a box in pixels.
    """
    drawn = axes.get_figure(root=True)
    assert isinstance(drawn, Figure)
    drawn.draw_without_rendering()
    marks_M4 = np.concatenate([np.zeros((1, 4)), *(_boxes(line, drawn.dpi) for line in axes.lines)])
    texts_M4 = np.array([text.get_window_extent().extents for text in axes.texts]).reshape(-1, 4)
    boxes_LP4 = np.array([[_extent(axes, label, place) for place in range(len(LABEL_PLACES))] for label in labels])
    points_L2: Any = axes.transData.transform([(label.x, label.y) for label in labels])
    own_LM: Any = ((marks_M4[:, :2] < points_L2[:, None]) & (marks_M4[:, 2:] > points_L2[:, None])).all(2)
    crowded_LP = 4 * (_shared(boxes_LP4[:, :, None] + LABEL_RIM, marks_M4) * ~own_LM[:, None]).sum(2)
    crowded_LP += _shared(boxes_LP4[:, :, None], texts_M4).sum(2)
    outside_LP = _shared(boxes_LP4, boxes_LP4) - _shared(boxes_LP4, axes.get_window_extent().extents)
    preferred_P = LABEL_PREFERENCE * np.arange(len(LABEL_PLACES))
    pairs_LPLP = _shared(boxes_LP4[:, :, None, None] + LABEL_RIM, boxes_LP4)
    for label, place in zip(labels, _arranged(crowded_LP + outside_LP + preferred_P, pairs_LPLP), strict=True):
        _write(axes, label, place)


def _arranged(costs_LP: Any, pairs_LPLP: Any) -> list[int]:
    """The place of each label for which the costs of places and of pairs of places are least, of many descents."""
    draws, rows = np.random.default_rng(0), np.arange(len(costs_LP))
    found: list[tuple[float, int, list[int]]] = []
    for start in range(LABEL_STARTS):
        chosen_L = draws.integers(costs_LP.shape[1], size=len(rows)) * (start > 0)
        for label in np.tile(rows, LABEL_ROUNDS):
            others_L = rows[rows != label]
            totals_P = costs_LP[label] + pairs_LPLP[label][:, others_L, chosen_L[others_L]].sum(1)
            chosen_L[label] = totals_P.argmin()
        shared_LL = pairs_LPLP[rows, chosen_L][:, rows, chosen_L]
        total = costs_LP[rows, chosen_L].sum() + (shared_LL.sum() - shared_LL.trace()) / 2
        found.append((float(total), start, chosen_L.tolist()))
    return min(found)[2]


def _write(axes: Axes, label: Label, place: int) -> Annotation:
    offset, horizontal, vertical = LABEL_PLACES[place]
    style: dict[str, Any] = {"ha": horizontal, "va": vertical, "color": label.color, "weight": label.weight}
    text = axes.annotate(label.text, (label.x, label.y), offset, textcoords="offset points", **style)
    text.set_in_layout(False)
    return text


def _extent(axes: Axes, label: Label, place: int) -> Any:
    text = _write(axes, label, place)
    box = text.get_window_extent()
    text.remove()
    return box.extents


def _boxes(line: Line2D, dpi: float) -> Any:
    """What a line covers, in pixels: a box around each point, and around points between them that are close enough."""
    points = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
    steps = np.linspace(0, 1, 100)[:, None]
    between = [start + steps * (end - start) for start, end in itertools.pairwise(points)]
    reach = line.get_markersize() / 2 * dpi / 72 if line.get_marker() != "None" else 3.0
    centres = np.concatenate([points, *between])
    return np.concatenate([centres - reach, centres + reach], axis=1)


def _shared(boxes_4: Any, others_4: Any) -> Any:
    """Square pixels that boxes have in common, broadcast over all but the last axis."""
    sides_2 = np.minimum(boxes_4[..., 2:], others_4[..., 2:]) - np.maximum(boxes_4[..., :2], others_4[..., :2])
    return sides_2.clip(min=0).prod(-1)


@style()
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


@style()
def cost_figure(ours: Sequence[Cost], published: Sequence[Cost]) -> Figure:
    """Accuracy against training time (ours alone: times are of one machine) and against training operations."""
    drawn, (time_axes, work_axes) = figure(11, 5, columns=2)
    for axes, unit in ((time_axes, "seconds"), (work_axes, "pflop")):
        axes.set_xscale("log")
        for cost in published:
            draw_point(axes, getattr(cost, unit), cost.accuracy, hollow=True)
        for cost in ours:
            draw_point(axes, getattr(cost, unit), cost.accuracy)
    dress_accuracy_axis(time_axes, min(cost.accuracy for cost in [*ours, *published]) - 3)
    _dress_log_axis(time_axes, time_axes.xaxis, [cost.seconds for cost in ours if cost.seconds], DURATIONS)
    _dress_log_axis(work_axes, work_axes.xaxis, [cost.pflop for cost in [*ours, *published]], PFLOP_TICKS)
    time_axes.set_ylabel("accuracy on CIFAR-10")
    time_axes.set_xlabel("training time")
    draw_key(time_axes, published=bool(published), chosen_on_test=any("†" in cost.name for cost in published))
    work_axes.set_xlabel("training operations, PFLOP (forward and backward)")
    for axes, unit in ((time_axes, "seconds"), (work_axes, "pflop")):
        named = {cost.name: cost for cost in reversed(ours)}  # several seeds of a recipe share one label
        labels = [_cost_label(cost, unit, OURS, "bold") for cost in reversed(named.values())]
        labels += [_cost_label(cost, unit, PUBLISHED, "normal") for cost in published]
        write_labels(axes, [label for label in labels if label.x is not None])
    return drawn


def _cost_label(cost: Cost, unit: str, color: str, weight: str) -> Label:
    return Label(getattr(cost, unit), accuracy_height(cost.accuracy), cost.name, color, weight)


def draw_point(axes: Axes, x: float | None, accuracy: float, *, hollow: bool = False) -> None:
    """A circle at an accuracy in percent, filled for a result of ours, hollow for a published one; x None: nothing."""
    if x is not None:
        face, edge = ("white", PUBLISHED) if hollow else (OURS, "white")
        style: dict[str, Any] = {"markersize": 8 if hollow else 11, "markeredgewidth": 1.5 if hollow else 1.0}
        axes.plot(x, accuracy_height(accuracy), "o", markerfacecolor=face, markeredgecolor=edge, **style)


def _dress_log_axis(axes: Axes, axis: Axis, values: Sequence[float], names: dict[float, str]) -> None:
    low, high = min(values) / 3, max(values) * 3  # room for labels
    axes.set_xlim(low, high)
    ticks = [tick for tick in names if low <= tick <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axes.set_xticklabels([names[tick] for tick in ticks])
