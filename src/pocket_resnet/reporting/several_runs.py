"""What the page that compares runs shows: templates/runs.html.jinja puts it into words."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from pocket_resnet.inference.statistics import PairedDifference, paired_difference
from pocket_resnet.plots import figures
from pocket_resnet.plots.style import png
from pocket_resnet.recipe.toml import differences, to_toml
from pocket_resnet.reporting.page import Picture
from pocket_resnet.training.saved_run import FinishedRun, same_images, without_seed

SEEDS = ("seed: ", "data.seed: ")


@dataclass(frozen=True)
class Compared:
    """A run beside the first: difference in points of accuracy, and McNemar's test on the images that both saw."""

    name: str
    run: FinishedRun
    recipe: str
    points: float
    pair: PairedDifference | None
    """None of the first run itself, and of runs that were measured on other images."""


@dataclass(frozen=True)
class Group:
    """Runs of one recipe, which differ in nothing but seed and hardware."""

    label: str
    runs: list[FinishedRun]
    changes: list[str]
    """What the recipe has otherwise than the first group's, seeds left out."""

    @property
    def accuracy(self) -> float:
        """Mean over the runs."""
        return statistics.fmean(run.evaluation.accuracy for run in self.runs)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation of the accuracy, where there are several runs."""
        return statistics.stdev(run.evaluation.accuracy for run in self.runs) if len(self.runs) > 1 else None


@dataclass(frozen=True)
class RunsPage:
    """Several runs; `pictures` has the figures by the name of their file, in the order of the page."""

    rows: list[Compared]
    groups: list[Group]
    pictures: dict[str, Picture]

    @property
    def title(self) -> str:
        """How many there are."""
        return f"{len(self.rows)} runs compared"


def runs_page(runs: Sequence[FinishedRun]) -> RunsPage:
    """All that the page shows; without learning curves where no run recorded an epoch."""
    rows = [_compared(name, run, runs[0]) for name, run in zip(_names(runs), runs, strict=True)]
    groups = _grouped(rows)
    accuracies = [(row.name, row.run.evaluation.accuracy, row.run.evaluation.interval) for row in rows]
    drawn = {"accuracies": figures.run_accuracies(accuracies), "learning": _curves(groups)}
    pictures = {name: Picture(png(figure)) for name, figure in drawn.items() if figure is not None}
    return RunsPage(rows, groups, pictures)


def _names(runs: Sequence[FinishedRun]) -> list[str]:
    """The runs' folders, or where two have the same name their paths."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _compared(name: str, run: FinishedRun, first: FinishedRun) -> Compared:
    points = 100 * (run.evaluation.accuracy - first.evaluation.accuracy)
    is_comparable = run is not first and same_images(first, run)
    pair = paired_difference(run.hit_N, first.hit_N) if is_comparable else None
    return Compared(name, run, to_toml(run.recipe), points, pair)


def _grouped(rows: Sequence[Compared]) -> list[Group]:
    """Runs of one recipe together, in the order of their first ones."""
    found: list[list[Compared]] = []
    for row in rows:
        same = [group for group in found if without_seed(group[0].run.recipe) == without_seed(row.run.recipe)]
        if same:
            same[0].append(row)
        else:
            found.append([row])
    return [_group(group, rows[0].run) for group in found]


def _group(rows: list[Compared], first: FinishedRun) -> Group:
    label = rows[0].name + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")
    changes = differences(first.recipe, rows[0].run.recipe)
    return Group(label, [row.run for row in rows], [each for each in changes if not each.startswith(SEEDS)])


def _curves(groups: Sequence[Group]) -> Figure | None:
    recorded = {group.label: [run.metrics for run in group.runs if run.metrics] for group in groups}
    curves = {label: records for label, records in recorded.items() if records}
    return figures.learning_curves(curves) if curves else None
