"""Charts of a search: its trials in order, the importance of keys, the best values, and the front of two goals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from pocket_resnet.plots.figures import SMALL, TINY, WIDTH_IN
from pocket_resnet.plots.style import (
    COLORS,
    GRID,
    LIMIT,
    OURS,
    PUBLISHED,
    figure,
    fit_text,
    new_figure,
    style,
    style_axes,
)

ROW_IN = 0.62
NUM_HIGHLIGHTED = 3


@dataclass(frozen=True)
class TrialPoint:
    """A trial in a chart: its last validation loss (nats), and whether it ran to the end."""

    number: int
    nll: float
    is_complete: bool


@dataclass(frozen=True)
class Column:
    """A searched key: the position of each trial's value from 0 to 1, and the text of its two ends."""

    key: str
    low: str
    high: str
    positions: tuple[float, ...]


@style()
def search_history(points: Sequence[TrialPoint]) -> Figure:
    """Loss of each trial in their order: complete ones filled, those stopped early hollow, the best so far as steps."""
    drawn, axes = figure(WIDTH_IN, 3.4)
    complete = [point for point in points if point.is_complete]
    stopped = [point for point in points if not point.is_complete]
    axes.plot([p.number for p in stopped], [p.nll for p in stopped], "o", mfc="white", color=PUBLISHED, markersize=5.5)
    axes.plot([p.number for p in complete], [p.nll for p in complete], "o", color=OURS, markersize=6.5)
    best = [min(each.nll for each in complete[: index + 1]) for index in range(len(complete))]
    if complete:
        until = [point.number for point in complete] + [max(point.number for point in points)]
        axes.step(until, [*best, best[-1]], where="post", color=LIMIT, linewidth=1.8)
    if min(point.nll for point in points) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("trial")
    axes.set_ylabel("validation loss (nats)")
    marks = [
        Line2D([], [], marker="o", linestyle="", color=OURS, markersize=6.5),
        Line2D([], [], marker="o", linestyle="", mfc="white", color=PUBLISHED, markersize=5.5),
        Line2D([], [], color=LIMIT, linewidth=1.8),
    ]
    drawn.legend(
        marks, ["to the end", "stopped early", "best"], loc="outside upper left", frameon=False, fontsize=SMALL, ncols=3
    )
    return drawn


@style()
def key_importance(importance: Mapping[str, float]) -> Figure:
    """A bar for each key: its share of the variation between trials, most important first."""
    ordered = sorted(importance.items(), key=lambda item: -item[1])
    drawn, axes = figure(WIDTH_IN, 1.0 + 0.36 * len(ordered))
    bars = axes.barh(range(len(ordered)), [100 * share for _, share in ordered], height=0.62, color=OURS)
    axes.bar_label(bars, [f"{share:.0%}" for _, share in ordered], padding=4, fontsize=TINY)
    axes.set_yticks(range(len(ordered)), [fit_text(key, 26) for key, _ in ordered], fontsize=SMALL)
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    axes.set_xlim(0, 115 * max(share for _, share in ordered))
    axes.set_xlabel("importance (%)")
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=GRID)
    axes.tick_params(axis="y", length=0)
    return drawn


@style()
def parallel_coordinates(columns: Sequence[Column], losses: Sequence[float]) -> Figure:
    """A line through its values for each trial, the best ones coloured; keys from top to bottom, the loss last."""
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0
    loss = Column("validation loss", f"{low:.3g}", f"{high:.3g}", tuple((value - low) / span for value in losses))
    rows = [*columns, loss]
    drawn = new_figure(WIDTH_IN, 0.5 + ROW_IN * len(rows), layout="constrained")
    axes = style_axes(drawn.add_subplot())
    heights = [-index for index in range(len(rows))]
    order = sorted(range(len(losses)), key=lambda trial: -losses[trial])  # the best are drawn last
    for rank, trial in enumerate(order):
        place = len(order) - 1 - rank
        is_best = place < NUM_HIGHLIGHTED
        color = COLORS[place] if is_best else PUBLISHED
        x = [row.positions[trial] for row in rows]
        axes.plot(x, heights, color=color, linewidth=2.4 if is_best else 0.9, alpha=1 if is_best else 0.35)
    for row, height in zip(rows, heights, strict=True):
        _draw_row(axes, row, height)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(heights[-1] - 0.45, 0.6)
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return drawn


def _draw_row(axes: Axes, row: Column, height: float) -> None:
    white = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8}
    axes.plot([0, 1], [height, height], color="black", linewidth=1)
    axes.text(0.5, height + 0.12, fit_text(row.key, 40), ha="center", va="bottom", fontsize=SMALL, bbox=white)
    axes.text(0, height - 0.1, fit_text(row.low, 18), ha="left", va="top", fontsize=TINY, bbox=white)
    axes.text(1, height - 0.1, fit_text(row.high, 18), ha="right", va="top", fontsize=TINY, bbox=white)


@style()
def cost_front(points: Sequence[tuple[float, float, bool]], axis: str) -> Figure:
    """Accuracy (%) against a cost on a log scale; the trials (cost, accuracy, on the front) of the front connected."""
    drawn, axes = figure(WIDTH_IN, 3.6)
    others = [(cost, 100 * accuracy) for cost, accuracy, on_front in points if not on_front]
    front = sorted((cost, 100 * accuracy) for cost, accuracy, on_front in points if on_front)
    axes.plot([x for x, _ in others], [y for _, y in others], "o", mfc="white", color=PUBLISHED, markersize=5.5)
    axes.plot([x for x, _ in front], [y for _, y in front], "o-", color=OURS, markersize=7, linewidth=1.6)
    axes.set_xscale("log")
    axes.tick_params(axis="x", which="both", labelsize=TINY)
    axes.set_xlabel(axis)
    axes.set_ylabel("validation accuracy (%)")
    marks = [
        Line2D([], [], marker="o", color=OURS, markersize=7, linewidth=1.6),
        Line2D([], [], marker="o", linestyle="", mfc="white", color=PUBLISHED, markersize=5.5),
    ]
    drawn.legend(
        marks, ["front", "beaten in both goals"], loc="outside upper left", frameon=False, fontsize=SMALL, ncols=2
    )
    return drawn
