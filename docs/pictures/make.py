"""Draw hero.png: accuracy on CIFAR-10 against the number of parameters.

    python docs/pictures/make.py

Filled circles are rows of results/leaderboard.csv (CIFAR-10, validation, single view), hollow ones are those of
published.csv. The vertical axis is logarithmic in the error, so that 96 to 98% is as far as 92 to 96%.
"""

import csv
import math
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUDGET = 5_000_000
OURS, PUBLISHED, LIMIT = "#0072B2", "#606060", "#D55E00"  # of Okabe and Ito's colour-blind-safe palette, and a grey
DAGGER = "†"
ACCURACY_TICKS = (80, 85, 90, 92, 94, 95, 96, 97, 98, 98.5)
PARAMS_TICKS = (100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000)
LABEL_PLACES = {  # name -> offset in points, horizontal and vertical alignment
    "right": ((7, 0), "left", "center"),
    "left": ((-7, 0), "right", "center"),
    "above": ((0, 6), "center", "bottom"),
    "below-left": ((-2, -6), "right", "top"),
    "below-right": ((2, -6), "left", "top"),
}


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by column name."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def height(accuracy: float) -> float:
    """Where an accuracy in percent stands on the vertical axis: minus the logarithm of the error."""
    return -math.log10(100 - accuracy)


def draw_published(axes: Axes, rows: list[dict[str, str]]) -> list[float]:
    """Hollow circles with short labels; returns their accuracies."""
    for row in rows:
        x, y = int(row["num_params"]), height(float(row["accuracy"]))
        axes.plot(x, y, "o", markersize=8, markerfacecolor="white", markeredgecolor=PUBLISHED, markeredgewidth=1.5)
        mark = f" {DAGGER}" if row["chosen_on_test"] == "yes" else ""
        if row["label"]:
            write_label(axes, x, y, row["label"] + mark, row["label_at"], PUBLISHED, weight="normal")
    return [float(row["accuracy"]) for row in rows]


def draw_ours(axes: Axes, rows: list[dict[str, str]]) -> list[float]:
    """Filled circles with error bars of one standard deviation; returns their accuracies."""
    for row in rows:
        x, accuracy, spread = int(row["num_params"]), *percentages(row)
        low, high = height(accuracy - spread), height(accuracy + spread)
        axes.plot([x, x], [low, high], color=OURS, linewidth=2.5)
        axes.plot(x, height(accuracy), "o", markersize=11, color=OURS, markeredgecolor="white")
        side = "left" if x > BUDGET / 3 else "right"
        write_label(axes, x, height(accuracy), f"{row['recipe']} {accuracy:.1f}%", side, OURS, weight="bold")
    return [percentages(row)[0] for row in rows]


def percentages(row: dict[str, str]) -> tuple[float, float]:
    """Mean and standard deviation of a row's accuracy, in percent; a single seed has no deviation."""
    return 100 * float(row["accuracy_mean"]), 100 * float(row["accuracy_sd"] or 0)


def write_label(axes: Axes, x: float, y: float, text: str, place: str, color: str, weight: str) -> None:
    """Text beside a point."""
    offset, horizontal, vertical = LABEL_PLACES[place]
    axes.annotate(
        text, (x, y), offset, textcoords="offset points", ha=horizontal, va=vertical, color=color, weight=weight
    )


def dress(axes: Axes, accuracies: list[float]) -> None:
    """Scales, ticks, the budget's line and the key."""
    axes.set_xscale("log")
    axes.set_xlim(200_000, 6_600_000)
    ticks = [tick for tick in ACCURACY_TICKS if tick >= min(accuracies) - 2]
    axes.set_ylim(height(min(*accuracies, 94) - 1.5), height(98.5))
    axes.yaxis.set_major_locator(FixedLocator([height(tick) for tick in ticks]))
    axes.set_yticklabels([f"{tick:g}%" for tick in ticks])
    axes.xaxis.set_major_locator(FixedLocator(PARAMS_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick // 1000}K" if tick < 1e6 else f"{tick // 10**6}M" for tick in PARAMS_TICKS])
    axes.axvline(BUDGET, color=LIMIT, linewidth=2, linestyle=(0, (5, 2)))
    axes.text(
        BUDGET * 1.03, 0.2, "budget: 5M", color=LIMIT, rotation=90, va="center", transform=axes.get_xaxis_transform()
    )
    axes.grid(axis="y", color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.set_xlabel("parameters (weights and biases)")
    axes.set_ylabel("accuracy on CIFAR-10")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_key(axes: Axes, has_ours: bool) -> None:
    """What filled, hollow and † mean."""
    ours, published = "this package: validation images, last epoch, mean ± sd", "published: test images"
    if has_ours:
        axes.plot([], [], "o", markersize=11, color=OURS, label=ours)
    axes.plot([], [], "o", markersize=8, markerfacecolor="white", markeredgecolor=PUBLISHED, label=published)
    axes.plot(
        [], [], linestyle="", marker="$†$", markersize=9, color=PUBLISHED, label="best epoch chosen on the test images"
    )
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=1, frameon=False, handletextpad=0.4, labelspacing=0.3
    )


def main() -> None:
    """Draw the picture to the path given, or to hero.png beside this file."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "hero.png"
    leaderboard = read_rows(ROOT / "results" / "leaderboard.csv")
    ours = [row for row in leaderboard if (row["data"], row["split"], row["views"]) == ("cifar10", "val", "1")]
    mpl.rcParams.update({"font.size": 12, "font.family": "DejaVu Sans"})
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    accuracies = draw_published(axes, read_rows(HERE / "published.csv")) + draw_ours(axes, ours)
    dress(axes, accuracies)
    draw_key(axes, bool(ours))
    figure.savefig(target, dpi=160, metadata={"Software": None})


if __name__ == "__main__":
    main()
