"""Draws every picture of README.md and docs/report.md from the CSV files.

    python -m tools.pictures [FOLDER]     # default: docs/pictures/

A picture whose table has no rows is not drawn, and an existing one is removed. Filled circles are our rows (CIFAR-10,
validation images, single view), hollow ones those of docs/pictures/published.csv. Axes of accuracy are logarithmic in
the error, so 96 to 98% is as long as 92 to 96%.
"""

import math
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from pocket_resnet.plots.style import COLORS, GRID, LIMIT, OURS, PUBLISHED, figure, stack, style
from tools import parser
from tools.labels import Label, write_labels
from tools.ladder import LADDER, ladder
from tools.results import ALL_ON, Calibration, Case, Rows, Setting, calibrations, is_single_view, read_rows, series
from tools.results import studies as studies_of
from tools.scatter import Cost, accuracy_height, cost_figure, draw_key, draw_point, dress_accuracy_axis, save

TARGET = Path(__file__).parents[1] / "docs" / "pictures"
BUDGET = 5_000_000
DAGGER = "†"
PARAMS_TICKS = (50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000)


def percentages(row: dict[str, str]) -> tuple[float, float]:
    """Mean and standard deviation of a row's accuracy, in percent; a single seed has no deviation."""
    return 100 * float(row["accuracy_mean"]), 100 * float(row["accuracy_sd"] or 0)


@style()
def hero(leaderboard: Rows, published: Rows) -> Figure | None:
    """Accuracy against parameters, with published networks; the dial's series as a line."""
    drawn, axes = figure(11.5, 6.5)
    for row in published:
        draw_point(axes, int(row["num_params"]), float(row["accuracy"]), hollow=True)
    dial = series(leaderboard)
    named = [row for row in leaderboard if row not in dial]
    draw_ours(axes, named)
    labels = our_labels(named, "{recipe} {accuracy:.1f}%")
    for epochs, rows in by_epochs(dial).items():
        heights = [accuracy_height(percentages(row)[0]) for row in rows]
        axes.plot([int(row["num_params"]) for row in rows], heights, "o-", color=OURS, markersize=5, linewidth=1.5)
        middle = len(rows) // 2
        labels.append(Label(int(rows[middle]["num_params"]), heights[middle], f"best, {epochs} epochs", OURS))
    dress_params_axis(axes, [int(row["num_params"]) for row in [*leaderboard, *published]], room=2.9)
    axes.axvline(BUDGET, color=LIMIT, linewidth=2, linestyle=(0, (5, 2)), zorder=1)
    axes.text(
        BUDGET * 1.03, 0.2, "budget: 5M", color=LIMIT, rotation=90, va="center", transform=axes.get_xaxis_transform()
    )
    accuracies = [percentages(row)[0] for row in leaderboard] + [float(row["accuracy"]) for row in published]
    dress_accuracy_axis(axes, min(accuracies) - 1.5)
    axes.set_ylabel("accuracy on CIFAR-10")
    draw_key(axes, chosen_on_test=True)
    write_labels(axes, [*labels, *published_labels(published)])
    return drawn


def by_epochs(rows: Rows) -> dict[int, Rows]:
    """The rows by number of epochs, fewest first."""
    return {
        epochs: [row for row in rows if int(row["epochs"]) == epochs]
        for epochs in sorted({int(row["epochs"]) for row in rows})
    }


def draw_ours(axes: Axes, rows: Rows) -> None:
    """Filled circles with error bars of one standard deviation."""
    for row in rows:
        x, (accuracy, spread) = int(row["num_params"]), percentages(row)
        low, high = accuracy_height(accuracy - spread), accuracy_height(accuracy + spread)
        axes.plot([x, x], [low, high], color=OURS, linewidth=2.5)
        draw_point(axes, x, accuracy)


def our_labels(rows: Rows, form: str) -> list[Label]:
    """One label per row, formatted from recipe and accuracy in percent."""
    return [
        Label(int(row["num_params"]), accuracy_height(accuracy), form.format(**row, accuracy=accuracy), OURS, "bold")
        for row in rows
        for accuracy in [percentages(row)[0]]
    ]


def published_labels(rows: Rows) -> list[Label]:
    """One label per row."""
    return [
        Label(int(row["num_params"]), accuracy_height(float(row["accuracy"])), marked(row), PUBLISHED) for row in rows
    ]


def marked(row: dict[str, str]) -> str:
    """A published network's short name, with a dagger if the best epoch was chosen on the test images."""
    return row["label"] + (f" {DAGGER}" if row["chosen_on_test"] == "yes" else "")


def dress_params_axis(axes: Axes, counts: Sequence[int], room: float = 1.35) -> None:
    """A logarithmic axis of parameters with room for labels, on the right up to `room` times the largest count."""
    low, high = min(counts) / 1.45, max(counts) * room
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [tick for tick in PARAMS_TICKS if low < tick < high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick // 1000}K" if tick < 1e6 else f"{tick // 10**6}M" for tick in ticks])
    axes.set_xlabel("parameters (weights and biases)")


@style()
def cost(leaderboard: Rows, published: Rows) -> Figure | None:
    """Accuracy of the named recipes against training time and operations; published networks if these are known."""
    dial = series(leaderboard)
    ours = [
        Cost(row["recipe"], percentages(row)[0], float(row["train_pflop"]), float(row["seconds_mean"]), gpu_of(row))
        for row in leaderboard
        if row not in dial
    ]
    known = [row for row in published if row["train_pflop"]]
    return cost_figure(ours, [Cost(marked(row), float(row["accuracy"]), float(row["train_pflop"])) for row in known])


def gpu_of(row: dict[str, str]) -> str:
    """The GPU of a training, `H200`, or `H200, CPU` if a CPU finished it; empty for a CPU's."""
    gpu, _, rest = row["machine"].removeprefix("NVIDIA ").partition(",")
    then_cpu = ", CPU" if rest.startswith(" then") else ""
    return f"{gpu}{then_cpu}" if row["machine"].startswith("NVIDIA") else ""


@style()
def dial_series(leaderboard: Rows) -> Figure | None:
    """Accuracy of the dial's networks against their parameters: one line per number of epochs."""
    rows = series(leaderboard)
    if len(rows) < 2:
        return None
    drawn, axes = figure(11, 4.8)
    for color, (epochs, same) in zip(cycle(COLORS), by_epochs(rows).items(), strict=False):
        heights = [accuracy_height(percentages(row)[0]) for row in same]
        label = f"{epochs} epochs"
        axes.plot([int(row["num_params"]) for row in same], heights, "o-", color=color, markersize=9, label=label)
    dress_params_axis(axes, [int(row["num_params"]) for row in rows])
    accuracies = [percentages(row)[0] for row in rows]
    dress_accuracy_axis(axes, min(accuracies) - 2, (max(accuracies) + 100) / 2)
    axes.set_ylabel("validation accuracy")
    axes.legend(frameon=False, loc="lower right")
    write_labels(axes, [Label(each.x, each.y, each.text, "black") for each in our_labels(rows, "{accuracy:.1f}%")])
    return drawn


@style()
def changes(studies: dict[Setting, list[Case]], when: str) -> Figure | None:
    """Bars of the change in accuracy compared with the case "nothing"; one dot per seed if there are several."""
    settings = {
        setting: [case for case in cases if case.name != ALL_ON and case.rank < math.inf]
        for setting, cases in studies.items()
    }
    settings = {setting: cases for setting, cases in settings.items() if any(case.differences for case in cases)}
    if not settings:
        return None
    drawn, panels = stack(11, [0.42 * len(cases) + 1.0 for cases in settings.values()])
    for axes, (setting, cases) in zip(panels, settings.items(), strict=True):
        axes.set_title(f"{setting}, {seeds_text([len(case.differences) for case in cases])}", loc="left", fontsize=12)
        draw_bars(axes, sorted(cases, key=lambda case: case.rank))
    panels[-1].set_xlabel(f"change of validation accuracy when {when}, percentage points, same seeds")
    return drawn


def seeds_text(counts: Sequence[int]) -> str:
    """`1 seed`, `2 seeds`, or `1 to 2 seeds` if cases differ; cases without seeds do not count."""
    fewest, most = min(filter(None, counts)), max(counts)
    return f"{most} seed{'s' if most > 1 else ''}" if fewest == most else f"{fewest} to {most} seeds"


def draw_bars(axes: Axes, cases: Sequence[Case]) -> None:
    """One horizontal bar per case from 0 to its mean difference, which is written at the end."""
    dress_rows(axes, [case.name for case in cases])
    axes.axvline(0, color="black", linewidth=1)
    for height, case in enumerate(cases):
        if not case.differences:
            axes.text(0, height, " training met NaN or infinity", va="center", color=LIMIT)
            continue
        is_loss = case.difference < 0
        axes.barh(height, case.difference, height=0.62, color=OURS if is_loss else LIMIT, alpha=0.85)
        if len(case.differences) > 1:
            axes.plot(case.differences, [height] * len(case.differences), "o", color="black", markersize=4)
        end = min(0, *case.differences, case.difference) if is_loss else max(0, *case.differences, case.difference)
        axes.annotate(
            f"{case.difference:+.1f}".replace("-", "−"), (end, height), (-6 if is_loss else 6, 0),
            textcoords="offset points", ha="right" if is_loss else "left", va="center",
        )  # fmt: skip
    axes.margins(x=0.1)


def dress_rows(axes: Axes, names: Sequence[str]) -> None:
    """One row per name, the first at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=GRID)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


@style()
def shapes(studies: dict[Setting, list[Case]]) -> Figure | None:
    """Accuracy of shapes with the same number of parameters, best first, with their multiply-adds."""
    settings = {setting: [case for case in cases if case.accuracies] for setting, cases in studies.items()}
    settings = {setting: cases for setting, cases in settings.items() if cases}
    if not settings:
        return None
    drawn, panels = stack(11, [0.33 * len(cases) + 1.0 for cases in settings.values()])
    for axes, (setting, cases) in zip(panels, settings.items(), strict=True):
        cases = sorted(cases, key=lambda case: -case.accuracy)
        axes.set_title(f"{setting}, {seeds_text([len(case.accuracies) for case in cases])}", loc="left", fontsize=12)
        axes.set_title("multiply-adds", loc="right", fontsize=12)
        dress_rows(axes, [case.name for case in cases])
        for height, case in enumerate(cases):
            color = LIMIT if case.name.startswith("pooled") else OURS
            axes.plot(case.accuracies, [height] * len(case.accuracies), "o", color=color, markersize=5, alpha=0.5)
            axes.plot(case.accuracy, height, "o", color=color, markersize=9)
            macs = f"{case.num_macs / 1e6:.1f}M"
            axes.text(1, height, macs, transform=axes.get_yaxis_transform(), ha="right", va="center")
    low, high = panels[-1].get_xlim()
    panels[-1].set_xlim(low, high + 0.14 * (high - low))  # room for the multiply-adds; all panels share the axis
    panels[-1].set_xlabel(
        "validation accuracy, %  (blue: staged networks; orange: a convolution and pooling before each stage)"
    )
    return drawn


@style()
def calibration(runs: list[Calibration]) -> Figure | None:
    """Accuracy against confidence, one line per run, and the share of images at each confidence."""
    if not runs:
        return None
    drawn, (axes, counts) = stack(8, (4.6, 1.6))
    axes.plot([0, 100], [0, 100], color=PUBLISHED, linestyle=(0, (4, 2)), label="perfect calibration")
    for color, each in zip(cycle(COLORS), runs, strict=False):
        x = [100 * confidence for _, confidence, _ in each.bins]
        label = f"{each.name}: error {100 * each.error:.1f} points"
        axes.plot(x, [100 * accuracy for *_, accuracy in each.bins], "o-", color=color, label=label)
        total = sum(count for count, *_ in each.bins)
        counts.plot(x, [100 * count / total for count, *_ in each.bins], "o-", color=color)
    axes.legend(frameon=False, loc="lower right", fontsize=11)
    axes.set_ylabel("accuracy (%)")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    counts.set_ylabel("images (%)")
    counts.set_xlabel("confidence: probability of the predicted class (%)")
    drawn.align_ylabels()
    return drawn


def main() -> None:
    """Draw all pictures into the folder."""
    options = parser(__doc__)
    options.add_argument("folder", type=Path, nargs="?", default=TARGET, help="folder of the pictures")
    folder = options.parse_args().folder
    leaderboard = [row for row in read_rows("leaderboard.csv") if is_single_view(row)]
    published = read_rows("published.csv", TARGET)
    pictures: dict[str, Callable[[], Figure | None]] = {
        "hero": lambda: hero(leaderboard, published),
        "cost": lambda: cost(leaderboard, published),
        "series": lambda: dial_series(leaderboard),
        "ladder": lambda: ladder([*leaderboard, *read_rows(LADDER.name)]),
        "ablation": lambda: changes(studies_of(read_rows("ablation.csv"), "switched_off"), "switched off"),
        "shapes": lambda: shapes(studies_of(read_rows("shapes.csv"), "shape")),
        "calibration": lambda: calibration(calibrations(read_rows("calibration.csv"))),
    }
    for name, draw in pictures.items():
        drawn, path = draw(), folder / f"{name}.png"
        if drawn is None:
            path.unlink(missing_ok=True)
        else:
            save(drawn, path)


if __name__ == "__main__":
    main()
