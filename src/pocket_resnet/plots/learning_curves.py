"""Learning curves: loss, accuracy and learning rate against epochs."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pocket_resnet.errors import UsageError
from pocket_resnet.plots.figures import SMALL, WIDTH_IN
from pocket_resnet.plots.style import COLORS, LIMIT, PUBLISHED, fit_text, side_by_side, stack, style

WIDE_IN = 11.0
STACKED_IN, KEY_LINE_IN = (2.5, 2.5, 1.6), 0.22
MAX_EPOCHS_WITH_MARKERS = 25

Records = Sequence[dict[str, Any]]


class HasRecords(Protocol):
    """A run's result, as `train` returns it."""

    def records(self) -> Records: ...


Run = Records | HasRecords


@style()
def learning_curves(runs: Mapping[str, HasRecords | Sequence[Run]], *, wide: bool = False) -> Figure:
    """Loss (nats), accuracy (%) and learning rate against epochs: training dashed, validation solid.

    The charts are one below the other or, if `wide`, side by side. `runs` maps a label to a result of `train`, or to
    several of the same recipe; in a list, a run may also be given by its metrics.jsonl records. Several runs are drawn
    as their mean with a band of ± one sample standard deviation. Vertical lines mark where the images become larger, if
    that is the same for all runs. Raises UsageError for anything else, and for an empty list.

    Example:

        result = pocket_resnet.train("fast", data="digits")
        plots.learning_curves({"fast": result})
    """
    recorded = {label: _recorded(label, given) for label, given in runs.items()}
    drawn, charts = _empty_charts(len(runs), wide=wide)
    losses, _, rates = charts
    for index, curves in enumerate(recorded.values()):
        color = COLORS[index % len(COLORS)]
        _draw_curves(charts, curves, color, LIMIT if len(runs) == 1 else color)
    for epoch, size in _common_size_changes([records for curves in recorded.values() for records in curves]):
        for axes in charts:
            axes.axvline(epoch, color=PUBLISHED, linewidth=0.8, linestyle=":")
        place: Any = ("data", "axes fraction")
        text_style: dict[str, Any] = {"fontsize": SMALL, "va": "top", "color": PUBLISHED}
        losses.annotate(f"{size} px", (epoch, 1), (3, -2), place, "offset points", **text_style)
    for axes, name in zip(charts, ("loss (nats)", "accuracy (%)", "learning rate"), strict=True):
        axes.set_ylabel(name)
    rates.set_ylim(bottom=0)
    rates.yaxis.set_major_locator(MaxNLocator(3))
    for axes in charts if wide else [rates]:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    drawn.align_ylabels()
    _draw_curves_key(drawn, list(runs))
    return drawn


def _recorded(label: str, given: HasRecords | Sequence[Run]) -> list[Records]:
    """The records of each run. Raises UsageError unless there is a run, and each is a result or a list of records."""
    runs = list(given) if isinstance(given, Sequence) else [given]
    curves = [run if isinstance(run, Sequence) else run.records() for run in runs if _is_run(run)]
    if not runs or len(curves) < len(runs):
        what = "no runs" if not runs else "not a list of runs"
        hint = "give a result of train, or a list of results or of lists of records, such as [records]"
        raise UsageError(f"{what} for the label {label!r}", where="learning_curves", hint=hint)
    return curves


def _is_run(run: Any) -> bool:
    is_list = isinstance(run, Sequence) and all(isinstance(record, Mapping) and "epoch" in record for record in run)
    return is_list or hasattr(run, "records")


def _empty_charts(num_runs: int, *, wide: bool) -> tuple[Figure, list[Axes]]:
    """A figure with room for the key, which has a line for one run, and two more than runs for several; three axes."""
    more_in = KEY_LINE_IN * (num_runs + 1 if num_runs > 1 else 0)
    if wide:
        return side_by_side(WIDE_IN, 3.6 + more_in, 3)
    return stack(WIDTH_IN, [height_in * (1 + more_in / sum(STACKED_IN)) for height_in in STACKED_IN])


def _common_size_changes(curves: Sequence[Records]) -> list[tuple[float, int]]:
    """The changes of image size if all runs have the same; otherwise none."""
    changes = [_size_changes(records) for records in curves]
    return changes[0] if changes and all(each == changes[0] for each in changes) else []


def _size_changes(records: Records) -> list[tuple[float, int]]:
    """(epoch, pixels) where the size of the training images changes; earlier versions did not record it."""
    pairs = pairwise(record for record in records if "image_size" in record)
    return [
        ((left["epoch"] + right["epoch"]) / 2, right["image_size"])
        for left, right in pairs
        if left["image_size"] != right["image_size"]
    ]


def _draw_curves(charts: Sequence[Axes], curves: Sequence[Records], color: str, val_color: str) -> None:
    losses, accuracies, rates = charts
    train = {"color": color, "linestyle": (0, (4, 2)), "linewidth": 1.4}
    val = {"color": val_color, "linewidth": 2.2}
    _draw_curve(losses, curves, "train_loss", train)
    _draw_curve(losses, curves, "val_nll", val)
    _draw_curve(accuracies, curves, "train_accuracy", train, scale=100)
    _draw_curve(accuracies, curves, "val_accuracy", val, scale=100)
    _draw_curve(rates, curves, "lr", train | {"linestyle": "-", "linewidth": 1.8})


def _draw_curve(axes: Axes, curves: Sequence[Records], key: str, style: dict[str, Any], scale: float = 1) -> None:
    """The mean of the runs, at the epochs where all of them recorded the key."""
    by_epoch = [{record["epoch"]: scale * record[key] for record in records if key in record} for records in curves]
    epochs = sorted(set(by_epoch[0]).intersection(*by_epoch[1:]))
    values = [[run[epoch] for run in by_epoch] for epoch in epochs]
    mean = np.array([statistics.fmean(each) for each in values])
    marker = "o" if len(epochs) <= MAX_EPOCHS_WITH_MARKERS else None
    axes.plot(epochs, mean, marker=marker, markersize=4, clip_on=False, **style)
    if len(curves) > 1:
        spread = np.array([statistics.stdev(each) for each in values])
        axes.fill_between(epochs, mean - spread, mean + spread, color=style["color"], alpha=0.18, linewidth=0)


def _draw_curves_key(drawn: Figure, names: Sequence[str]) -> None:
    lines = [Line2D([], [], color=COLORS[index % len(COLORS)], linewidth=2.2) for index in range(len(names))]
    labels = [fit_text(name, 46) for name in names]
    if len(names) == 1:
        lines, labels = [], []
    color, val_color = (COLORS[0], LIMIT) if len(names) == 1 else (PUBLISHED, PUBLISHED)
    lines += [
        Line2D([], [], color=val_color, linewidth=2.2),
        Line2D([], [], color=color, linestyle=(0, (4, 2)), linewidth=1.4),
    ]
    labels += ["validation", "training, on augmented images"]
    drawn.legend(
        lines, labels, loc="outside upper left", frameon=False, fontsize=SMALL, ncols=2 if len(names) == 1 else 1
    )
