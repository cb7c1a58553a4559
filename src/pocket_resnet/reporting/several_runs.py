"""The figures and facts of the comparison of several runs; templates/runs.html.jinja has the words."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from pocket_resnet.inference.statistics import PairedDifference, paired_difference
from pocket_resnet.plots import figures
from pocket_resnet.plots.learning_curves import learning_curves
from pocket_resnet.plots.style import png
from pocket_resnet.recipe.toml import differences, to_toml
from pocket_resnet.reporting.page import Picture
from pocket_resnet.training.saved_run import FinishedRun, same_images, without_seed

SEEDS = ("seed: ", "data.seed: ")


@dataclass(frozen=True)
class Compared:
    """A run compared with the first: difference in percentage points, and McNemar's test on the same images."""

    name: str
    run: FinishedRun
    recipe: str
    points: float
    pair: PairedDifference | None
    """None for the first run itself, and for runs that were measured on other images."""


@dataclass(frozen=True)
class Group:
    """Runs of one recipe and length, which differ only in seed and hardware."""

    label: str
    runs: list[FinishedRun]
    changes: list[str]
    """The recipe's differences from that of the first group, without seeds."""

    @property
    def accuracy(self) -> float:
        """Mean over the runs."""
        return statistics.fmean(run.evaluation.accuracy for run in self.runs)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation of the accuracy; None for a single run."""
        return statistics.stdev(run.evaluation.accuracy for run in self.runs) if len(self.runs) > 1 else None


@dataclass(frozen=True)
class RunsPage:
    """The comparison of several runs; `pictures` maps file names to figures, in the order of the page."""

    rows: list[Compared]
    groups: list[Group]
    pictures: dict[str, Picture]

    @property
    def title(self) -> str:
        """The number of runs."""
        return f"{len(self.rows)} runs compared"


def runs_page(runs: Sequence[FinishedRun]) -> RunsPage:
    """The content of the page. There are no learning curves if no run recorded an epoch."""
    rows = [_compared(name, run, runs[0]) for name, run in zip(_names(runs), runs, strict=True)]
    groups = _grouped(rows)
    accuracies = [(row.name, row.run.evaluation.accuracy, row.run.evaluation.interval) for row in rows]
    drawn = {"accuracies": figures.run_accuracies(accuracies), "learning": _curves(groups)}
    pictures = {name: Picture(png(figure)) for name, figure in drawn.items() if figure is not None}
    return RunsPage(rows, groups, pictures)


def _names(runs: Sequence[FinishedRun]) -> list[str]:
    """The names of the runs' folders, or their paths if two have the same name."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _compared(name: str, run: FinishedRun, first: FinishedRun) -> Compared:
    points = 100 * (run.evaluation.accuracy - first.evaluation.accuracy)
    is_comparable = run is not first and same_images(first, run)
    pair = paired_difference(run.evaluation.hit_N, first.evaluation.hit_N) if is_comparable else None
    return Compared(name, run, to_toml(run.recipe), points, pair)


def _grouped(rows: Sequence[Compared]) -> list[Group]:
    """Runs grouped by recipe and by the epochs trained, in the order of the first run of each group."""
    groups: list[list[Compared]] = []
    for row in rows:
        same = [group for group in groups if _repeats(group[0].run, row.run)]
        if same:
            same[0].append(row)
        else:
            groups.append([row])
    return [_group(group, rows[0].run) for group in groups]


def _repeats(one: FinishedRun, other: FinishedRun) -> bool:
    """Whether two runs differ only in seed and hardware. A callback may have ended one of them early."""
    return without_seed(one.recipe) == without_seed(other.recipe) and one.epochs_done == other.epochs_done


def _group(rows: list[Compared], first: FinishedRun) -> Group:
    label = rows[0].name + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")
    changes = differences(first.recipe, rows[0].run.recipe)
    if (run := rows[0].run).epochs_done is not None and run.epochs_done < run.result.epochs:
        changes.append(f"ended after {run.epochs}")
    return Group(label, [row.run for row in rows], [each for each in changes if not each.startswith(SEEDS)])


def _curves(groups: Sequence[Group]) -> Figure | None:
    recorded = {group.label: [run.metrics for run in group.runs if run.metrics] for group in groups}
    curves = {label: records for label, records in recorded.items() if records}
    return learning_curves(curves, wide=True) if curves else None
