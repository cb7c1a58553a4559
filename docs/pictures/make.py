"""Draw hero.png, accuracy on CIFAR-10 against parameters, and cost.png, against training time and operations.

    python docs/pictures/make.py [FOLDER]

Filled circles are rows of results/leaderboard.csv (CIFAR-10, validation, single view), hollow ones are those of
published.csv. The vertical axis is logarithmic in the error, so that 96 to 98% is as far as 92 to 96%.
"""

import csv
import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from pocket_resnet.plots import (
    LIMIT,
    OURS,
    PUBLISHED,
    Cost,
    accuracy_height,
    draw_cost,
    draw_key,
    dress_accuracy_axis,
    figure,
    save,
    write_label,
)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUDGET = 5_000_000
DAGGER = "†"
PARAMS_TICKS = (100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by column name."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def draw_published(axes: Axes, rows: list[dict[str, str]]) -> list[float]:
    """Hollow circles with short labels; returns their accuracies."""
    for row in rows:
        x, y = int(row["num_params"]), accuracy_height(float(row["accuracy"]))
        axes.plot(x, y, "o", markersize=8, markerfacecolor="white", markeredgecolor=PUBLISHED, markeredgewidth=1.5)
        mark = f" {DAGGER}" if row["chosen_on_test"] == "yes" else ""
        if row["label"]:
            write_label(axes, x, y, row["label"] + mark, row["label_at"], PUBLISHED, weight="normal")
    return [float(row["accuracy"]) for row in rows]


def draw_ours(axes: Axes, rows: list[dict[str, str]]) -> list[float]:
    """Filled circles with error bars of one standard deviation; returns their accuracies."""
    for row in rows:
        x, accuracy, spread = int(row["num_params"]), *percentages(row)
        low, high = accuracy_height(accuracy - spread), accuracy_height(accuracy + spread)
        axes.plot([x, x], [low, high], color=OURS, linewidth=2.5)
        axes.plot(x, accuracy_height(accuracy), "o", markersize=11, color=OURS, markeredgecolor="white")
        side = "left" if x > BUDGET / 3 else "right"
        write_label(axes, x, accuracy_height(accuracy), f"{row['recipe']} {accuracy:.1f}%", side, OURS, weight="bold")
    return [percentages(row)[0] for row in rows]


def percentages(row: dict[str, str]) -> tuple[float, float]:
    """Mean and standard deviation of a row's accuracy, in percent; a single seed has no deviation."""
    return 100 * float(row["accuracy_mean"]), 100 * float(row["accuracy_sd"] or 0)


def dress(axes: Axes, accuracies: list[float]) -> None:
    """Scales, ticks, the budget's line and the key."""
    axes.set_xscale("log")
    axes.set_xlim(75_000, 6_600_000)
    dress_accuracy_axis(axes, min(*accuracies, 94) - 1.5)
    axes.xaxis.set_major_locator(FixedLocator(PARAMS_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick // 1000}K" if tick < 1e6 else f"{tick // 10**6}M" for tick in PARAMS_TICKS])
    axes.axvline(BUDGET, color=LIMIT, linewidth=2, linestyle=(0, (5, 2)))
    axes.text(
        BUDGET * 1.03, 0.2, "budget: 5M", color=LIMIT, rotation=90, va="center", transform=axes.get_xaxis_transform()
    )
    axes.set_xlabel("parameters (weights and biases)")
    axes.set_ylabel("accuracy on CIFAR-10")


def draw_hero(ours: list[dict[str, str]], published: list[dict[str, str]], target: Path) -> None:
    """Accuracy against parameters."""
    drawn, (axes,) = figure(11.5, 6.5)
    accuracies = draw_published(axes, published) + draw_ours(axes, ours)
    dress(axes, accuracies)
    draw_key(axes, chosen_on_test=True)
    save(drawn, target)


def costs(rows: list[dict[str, str]]) -> list[Cost]:
    """What the leaderboard's rows cost, in time of the machine that they name."""
    return [
        Cost(row["recipe"], percentages(row)[0], float(row["train_pflop"]), float(row["seconds_mean"])) for row in rows
    ]


def published_costs(rows: list[dict[str, str]]) -> list[Cost]:
    """The published networks whose training operations are known."""
    return [Cost(row["label"], float(row["accuracy"]), float(row["train_pflop"])) for row in rows if row["train_pflop"]]


def main() -> None:
    """Draw both pictures into the folder given, or beside this file."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    leaderboard, published = read_rows(ROOT / "results" / "leaderboard.csv"), read_rows(HERE / "published.csv")
    ours = [row for row in leaderboard if (row["data"], row["split"], row["views"]) == ("cifar10", "val", "1")]
    draw_hero(ours, published, folder / "hero.png")
    draw_cost(costs(ours), published_costs(published), folder / "cost.png")


if __name__ == "__main__":
    main()
