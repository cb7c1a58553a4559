"""Plots error against training PFLOP by size of the network, with a power law through the best runs.

`make plots` draws the picture and writes the table in docs/report.md. The rows come from results/leaderboard.csv and,
for runs that we do not recommend as recipes, from results/ladder.csv.
"""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from pocket_resnet.plots.style import COLORS, PUBLISHED, figure, style
from pocket_resnet.recipe.schema import parse_count
from tools.labels import Label, write_labels
from tools.results import RESULTS, Rows, is_single_view
from tools.scatter import accuracy_height, dress_accuracy_axis, dress_pflop_axis

LADDER = RESULTS / "ladder.csv"
SIZES = {name: parse_count(name) for name in ("50K", "100K", "270K", "500K", "1M", "2M", "5M")}


@dataclass(frozen=True)
class PowerLaw:
    """error in percent = at_1_pflop * PFLOP ** -exponent."""

    at_1_pflop: float
    exponent: float

    def error(self, pflop: float) -> float:
        """The error in percent."""
        return self.at_1_pflop * math.exp(-self.exponent * math.log(pflop))


def rungs(rows: Rows) -> dict[str, Rows]:
    """The single-view rows by size, cheap runs first; a row belongs to the smallest size that it fits."""
    by_size: dict[str, Rows] = {size: [] for size in SIZES}
    for row in sorted(filter(is_single_view, rows), key=lambda row: float(row["train_pflop"])):
        size = next((size for size, most in SIZES.items() if int(row["num_params"]) <= most), None)
        if size is not None:
            by_size[size].append(row)
    return {size: rows for size, rows in by_size.items() if rows}


def frontier(rows: Rows) -> Rows:
    """The runs that no cheaper run beats, cheapest first."""
    best: Rows = []
    for row in sorted(filter(is_single_view, rows), key=lambda row: float(row["train_pflop"])):
        if not best or float(row["accuracy_mean"]) > float(best[-1]["accuracy_mean"]):
            best.append(row)
    return best


def fit(rows: Rows) -> PowerLaw:
    """The power law through at least two runs, by least squares of the logarithms."""
    x = [math.log(float(row["train_pflop"])) for row in rows]
    y = [math.log(error(row)) for row in rows]
    slope, intercept = np.polyfit(x, y, 1)
    return PowerLaw(math.exp(intercept), -float(slope))


def of_recipes(rows: Rows) -> Rows:
    """The runs of recipes, without those of changed recipes, whose command has another recipe's name."""
    return [row for row in rows if row["command"].split()[2] == row["recipe"]]


def points(rows: Rows) -> tuple[list[float], list[float]]:
    """Operations and heights of the runs."""
    return [float(row["train_pflop"]) for row in rows], [accuracy_height(100 - error(row)) for row in rows]


def error(row: dict[str, str]) -> float:
    """The error in percent."""
    return 100 * (1 - float(row["accuracy_mean"]))


@style()
def ladder(rows: Rows) -> Figure | None:
    """Accuracy against training operations: one line per size, and the power law through the best runs of all sizes.

    A size's line omits runs that a cheaper one of that size beats, and the power law those that any cheaper one beats.
    The dial's runs have no labels. Runs of changed recipes are left out, the table has them.
    """
    rows = list(filter(is_single_view, of_recipes(rows)))
    by_size = rungs(rows)
    if not by_size:
        return None
    drawn, axes = figure(11, 6)
    labels = []
    for color, (size, of_size) in zip(COLORS, by_size.items(), strict=False):
        x, y = points(of_size)
        axes.plot(x, y, "o", color=color, markersize=8)
        axes.plot(*points(frontier(of_size)), "o-", color=color, markersize=8, label=size)
        labels += [
            Label(x[number], y[number], f"{row['recipe']} {100 - error(row):.1f}%", color, "bold")
            for number, row in enumerate(of_size)
            if row["recipe"] != "best"
        ]
    every = [float(row["train_pflop"]) for of_size in by_size.values() for row in of_size]
    law = fit(frontier(rows))
    ends = min(every), max(every)
    heights = [accuracy_height(100 - law.error(pflop)) for pflop in ends]
    axes.plot(
        ends,
        heights,
        color=PUBLISHED,
        linestyle=(0, (4, 2)),
        label=f"error {law.at_1_pflop:.1f}% at 1 PFLOP,\nexponent {-law.exponent:.2f}",
    )
    dress_pflop_axis(axes, every)
    dress_accuracy_axis(axes, 100 - 1.2 * max(map(error, rows)), (100 - min(map(error, rows)) + 100) / 2)
    axes.set_ylabel("validation accuracy, single view")
    axes.legend(frameon=False, loc="lower right", title="parameters, at most", fontsize=10, title_fontsize=10)
    write_labels(axes, labels)
    return drawn
