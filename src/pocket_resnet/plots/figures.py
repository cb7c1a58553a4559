"""Charts. Each function returns a figure of its arguments.

Figures are five inches wide with text of about 10 points, so they are readable on a phone and at half their size.
"""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator, StrMethodFormatter

from pocket_resnet.inference.evaluation import Evaluation
from pocket_resnet.inference.statistics import NUM_CALIBRATION_BINS, calibration_bins, wilson_interval
from pocket_resnet.plots.style import COLORS, GRID, LIMIT, OURS, PUBLISHED, figure, fit_text, stack, style

WIDTH_IN = 5.0
SMALL, TINY = 10.5, 9.0  # points
MAX_CLASSES_WITH_COUNTS = 12
MAX_CLASSES_WITH_NAMES = 30
MAX_CLASSES_DRAWN = 200
MAX_BARS = 30


@style()
def confusion_matrix(evaluation: Evaluation) -> Figure:
    """Confusion matrix with true classes as rows: correct predictions in blue, mistakes in orange.

    Darker cells have a larger share of their row; cells without images are white. With few classes, the cells show
    counts. The report omits the matrix of more than MAX_CLASSES_DRAWN classes, whose cells are too small to see.

    Example:

        evaluation = pocket_resnet.evaluate("runs/latest")
        plots.confusion_matrix(evaluation)
    """
    counts_KK = np.array(evaluation.confusion)
    num_classes = len(counts_KK)
    share_KK = counts_KK / counts_KK.sum(1, keepdims=True).clip(min=1)
    hits_KK = np.eye(num_classes, dtype=bool)
    mistakes_KK = np.where(hits_KK, 0, share_KK) / max(1e-9, np.where(hits_KK, 0, share_KK).max())
    strength_KK = np.where(hits_KK, 0.15 + 0.75 * share_KK, 0.85 * mistakes_KK)
    strength_KK1 = np.where(counts_KK, strength_KK, 0)[..., None]
    ink_KK3 = np.where(hits_KK[..., None], _rgb(OURS), _rgb(LIMIT))
    drawn, axes = figure(WIDTH_IN, WIDTH_IN)
    axes.imshow(1 - strength_KK1 * (1 - ink_KK3), interpolation="nearest")
    axes.grid(visible=False)
    if num_classes <= MAX_CLASSES_WITH_COUNTS:
        for (true, predicted), count in np.ndenumerate(counts_KK):
            color = "white" if strength_KK1[true, predicted, 0] > 0.55 else "black"
            axes.text(
                predicted, true, str(count) if count else "", ha="center", va="center", color=color, fontsize=TINY
            )
    _lay_cells(axes, [fit_text(result.name) for result in evaluation.per_class])
    return drawn


def _lay_cells(axes: Axes, names: Sequence[str]) -> None:
    """Names of the classes and lines between the cells, if there is room, and the axes' labels."""
    num_classes = len(names)
    if num_classes <= MAX_CLASSES_WITH_NAMES:
        size = SMALL if num_classes <= MAX_CLASSES_WITH_COUNTS else TINY - 1
        is_short = max(map(len, names)) <= 2
        axes.set_xticks(range(num_classes), names, rotation=0 if is_short else 90, fontsize=size)
        axes.set_yticks(range(num_classes), names, fontsize=size)
        axes.set_xticks(np.arange(1, num_classes) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, num_classes) - 0.5, minor=True)
        axes.grid(which="minor", axis="both", color=GRID, linewidth=0.6)
    axes.tick_params(which="both", length=0)
    number = "" if num_classes <= MAX_CLASSES_WITH_NAMES else " (number)"
    axes.set_xlabel(f"predicted class{number}")
    axes.set_ylabel(f"true class{number}")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _rgb(color: str) -> Any:
    return np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255


@style()
def confused_pairs(evaluation: Evaluation, count: int = 10) -> Figure:
    """The most frequent mistakes: a bar with the number of images for each pair of true and predicted class.

    Example:

        evaluation = pocket_resnet.evaluate("runs/latest")
        plots.confused_pairs(evaluation)
    """
    pairs = evaluation.confusions(count)
    drawn, axes = figure(WIDTH_IN, 1.0 + 0.31 * max(1, len(pairs)))
    names = [f"{fit_text(pair.true)} → {fit_text(pair.predicted)}" for pair in pairs]
    bars = axes.barh(range(len(pairs)), [pair.num_images for pair in pairs], height=0.62, color=LIMIT)
    axes.bar_label(bars, [f"{pair.num_images:,} ({pair.share:.1%})" for pair in pairs], padding=4, fontsize=TINY)
    axes.set_yticks(range(len(pairs)), names, fontsize=SMALL)
    axes.set_ylim(max(1, len(pairs)) - 0.4, -0.6)
    axes.set_xlim(0, 1.3 * max([1, *(pair.num_images for pair in pairs)]))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    _lay_rows(axes)
    drawn.supxlabel("images (share of the true class)")
    return drawn


@style()
def class_accuracies(evaluation: Evaluation) -> Figure:
    """Accuracy of each class with its 95% interval, most accurate first; at most the MAX_BARS least accurate.

    Example:

        evaluation = pocket_resnet.evaluate("runs/latest")
        plots.class_accuracies(evaluation)
    """
    known = [(each.name, each.accuracy or 0.0, each.interval) for each in evaluation.per_class if each.interval]
    known.sort(key=lambda row: -row[1])
    return _dots(
        known[-MAX_BARS:],
        evaluation.accuracy,
        f"all classes\n{evaluation.accuracy:.1%}",
        "class accuracy (%), with 95% interval",
    )


@style()
def run_accuracies(rows: Sequence[tuple[str, float, tuple[float, float]]]) -> Figure:
    """Accuracy of each run with its 95% interval, in the given order, with a line at the accuracy of the first."""
    return _dots(rows, rows[0][1], "", "validation accuracy (%), with 95% interval", most=24)


def _dots(
    rows: Sequence[tuple[str, float, tuple[float, float]]], line: float, label: str, axis: str, most: int = 14
) -> Figure:
    drawn, axes = figure(WIDTH_IN, 1.1 + 0.31 * len(rows))
    axes.axvline(100 * line, color=PUBLISHED, linewidth=1.2, linestyle=(0, (4, 2)))
    if label:
        axes.annotate(
            label, (100 * line, 1), (4, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", va="bottom", color=PUBLISHED, fontsize=SMALL,
        )  # fmt: skip
    for height, (_, accuracy, (low, high)) in enumerate(reversed(rows)):
        axes.plot([100 * low, 100 * high], [height, height], color=OURS, linewidth=2.2, alpha=0.45)
        axes.plot(100 * accuracy, height, "o", color=OURS, markersize=7)
        axes.annotate(
            f"{accuracy:.1%}", (100 * high, height), (5, 0), textcoords="offset points", va="center", fontsize=TINY,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [fit_text(name, most) for name, *_ in reversed(rows)], fontsize=SMALL)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    low = 100 * min(line, *(interval[0] for *_, interval in rows))
    high = 100 * max(line, *(interval[1] for *_, interval in rows))
    room = max(1.0, high - low)
    axes.set_xlim(low - 0.05 * room, high + 0.14 * room)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    _lay_rows(axes)
    drawn.supxlabel(axis)
    return drawn


def _lay_rows(axes: Axes) -> None:
    """Vertical grid lines only, since rows have no values."""
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=GRID)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


@style()
def reliability_diagram(evaluation: Evaluation) -> Figure:
    """Accuracy against confidence with 95% intervals and the diagonal; below, the share of images in each bin.

    Example:

        evaluation = pocket_resnet.evaluate("runs/latest")
        plots.reliability_diagram(evaluation)
    """
    bins = calibration_bins(evaluation.confidence_N, evaluation.hit_N)
    drawn, (axes, counts) = stack(WIDTH_IN, (3.9, 1.4))
    axes.plot([0, 100], [0, 100], color=PUBLISHED, linestyle=(0, (4, 2)), linewidth=1.2, label="perfect calibration")
    x = [100 * each.confidence for each in bins]
    y = [100 * each.accuracy for each in bins]
    intervals = [wilson_interval(round(each.accuracy * each.num_images), each.num_images) for each in bins]
    for at, (low, high) in zip(x, intervals, strict=True):
        axes.plot([at, at], [100 * low, 100 * high], color=OURS, linewidth=2.2, alpha=0.45)
    axes.plot(x, y, "o-", color=OURS, markersize=6, linewidth=1.4, label="accuracy, with 95% interval")
    axes.set_title(f"expected calibration error {100 * evaluation.ece:.1f} points", loc="left", fontsize=12)
    axes.legend(frameon=False, fontsize=SMALL, loc="lower right", borderaxespad=0.2)
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(-2, 102)
    axes.set_xlim(-2, 102)
    width = 100 / NUM_CALIBRATION_BINS
    centres = [width * (min(NUM_CALIBRATION_BINS, int(each / width) + 1) - 0.5) for each in x]
    counts.bar(centres, [100 * each.num_images / evaluation.num_images for each in bins], width=0.9 * width, color=OURS)
    counts.set_ylabel("images (%)")
    counts.set_xlabel("confidence: probability of the predicted class (%)", fontsize=11)
    drawn.align_ylabels()
    return drawn


class _MinorLabels(LogFormatter):
    """Plain numbers at the minor ticks of a logarithmic axis, where there is room for them."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


@style()
def accuracy_latency(points: Sequence[tuple[str, str, float, float]]) -> Figure:
    """Accuracy (%) against latency (ms, logarithmic): one point for each model and runtime, one colour per runtime.

    A point is (model, runtime, seconds, accuracy from 0 to 1).

    Example:

        points = [("pocket-5m", "torch fp32", 0.0281, 0.9752), ("pocket-1m", "torch fp32", 0.0105, 0.9480)]
        plots.accuracy_latency(points)
    """
    drawn, axes = figure(WIDTH_IN, 3.6)
    runtimes = list(dict.fromkeys(runtime for _, runtime, _, _ in points))
    for runtime, color in zip(runtimes, cycle(COLORS), strict=False):
        chosen = [(1e3 * seconds, 100 * accuracy) for _, each, seconds, accuracy in points if each == runtime]
        axes.plot(*zip(*chosen, strict=True), "o", markersize=8, color=color, label=runtime)
    for model in dict.fromkeys(name for name, _, _, _ in points):
        left, accuracy = min((seconds, accuracy) for name, _, seconds, accuracy in points if name == model)
        place = (1e3 * left, 100 * accuracy)
        axes.annotate(fit_text(model), place, (0, 8), textcoords="offset points", fontsize=SMALL, ha="left")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(_MinorLabels(minor_thresholds=(1, 0.4)))
    axes.margins(x=0.12, y=0.2)
    axes.set_xlabel("latency of one image (ms)")
    axes.set_ylabel("accuracy (%)")
    drawn.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=TINY)
    return drawn
