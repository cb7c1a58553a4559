"""Computes means over seeds, differences and calibration from results/*.csv, for tables and pictures."""

import csv
import math
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from pocket_resnet.recipe.schema import parse_count

RESULTS = Path(__file__).parents[1] / "results"
ALL_ON = "nothing"  # the case of a study in which nothing is switched off, or added

Rows = list[dict[str, str]]


def read_rows(name: str, folder: Path = RESULTS) -> Rows:
    """The rows of a CSV file by column name; none if there is no file yet."""
    path = folder / name
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Setting:
    """The settings that all cases of a study share."""

    data: str
    budget: str
    epochs: int

    @classmethod
    def of(cls, row: dict[str, str]) -> "Setting":
        """The setting of a study's row."""
        return cls(row["data"], row["budget"], int(row["epochs"]))

    @property
    def num_params(self) -> int:
        """The budget as a number."""
        return parse_count(self.budget)

    def __str__(self) -> str:
        size = f"{self.budget.upper()} parameters, {self.epochs} epoch{'s' if self.epochs > 1 else ''}"
        return size if self.data == "cifar10" else f"{size}, {self.data}"


@dataclass(frozen=True)
class Case:
    """One case of a study over its seeds; accuracies in percent, in the order of the seeds."""

    name: str
    accuracies: tuple[float, ...]
    differences: tuple[float, ...]
    """Accuracy minus that of the case "nothing", for the seeds that both have, in points; empty without that case."""
    num_failed: int
    """Number of trainings that reached NaN or infinity."""
    num_macs: int

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def difference(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.differences)

    @property
    def rank(self) -> float:
        """The difference for sorting: a case that only failed is before all others, one without a pair after them."""
        return self.difference if self.differences else math.inf if self.accuracies else -math.inf


def studies(rows: Rows, variable: str) -> dict[Setting, list[Case]]:
    """The cases of each setting, small budgets and short runs first; `variable` is the column in which they differ."""
    settings = sorted({Setting.of(row) for row in rows}, key=lambda each: (each.data, each.num_params, each.epochs))
    return {setting: _cases(setting, rows, variable) for setting in settings}


def _cases(setting: Setting, rows: Rows, variable: str) -> list[Case]:
    rows = [row for row in rows if Setting.of(row) == setting]
    all_on = {row["seed"]: 100 * float(row["accuracy"]) for row in rows if row[variable] == ALL_ON and row["accuracy"]}
    return [_case(name, [row for row in rows if row[variable] == name], all_on) for name in _names(rows, variable)]


def _names(rows: Rows, column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def _case(name: str, rows: Rows, all_on: dict[str, float]) -> Case:
    finished = [row for row in rows if row["accuracy"]]
    return Case(
        name=name,
        accuracies=tuple(100 * float(row["accuracy"]) for row in finished),
        differences=tuple(100 * float(r["accuracy"]) - all_on[r["seed"]] for r in finished if r["seed"] in all_on),
        num_failed=len(rows) - len(finished),
        num_macs=int(rows[0]["num_macs"]),
    )


@dataclass(frozen=True)
class Calibration:
    """Confidence and accuracy of one run by bin; shares are 0 to 1."""

    recipe: str
    label_smoothing: float
    seed: int
    bins: tuple[tuple[int, float, float], ...]
    """Images, mean confidence, accuracy."""

    @property
    def name(self) -> str:
        return f"{self.recipe}, label smoothing {self.label_smoothing:g}"

    @property
    def confidence(self) -> float:
        """Mean probability of the predicted class."""
        return self._mean([confidence for _, confidence, _ in self.bins])

    @property
    def accuracy(self) -> float:
        """Share of correctly classified images."""
        return self._mean([accuracy for *_, accuracy in self.bins])

    @property
    def error(self) -> float:
        """Expected calibration error: the mean difference of confidence and accuracy in a bin."""
        return self._mean([abs(confidence - accuracy) for _, confidence, accuracy in self.bins])

    def _mean(self, values: list[float]) -> float:
        counts = [count for count, *_ in self.bins]
        return sum(count * value for count, value in zip(counts, values, strict=True)) / sum(counts)


def calibrations(rows: Rows) -> list[Calibration]:
    """One per run, in the order of their first rows."""
    keys = ("recipe", "label_smoothing", "seed")
    bins_of: dict[tuple[str, ...], list[tuple[int, float, float]]] = {}
    for row in rows:
        values = int(row["num_images"]), float(row["confidence"]), float(row["accuracy"])
        bins_of.setdefault(tuple(row[key] for key in keys), []).append(values)
    return [Calibration(key[0], float(key[1]), int(key[2]), tuple(bins)) for key, bins in bins_of.items()]


def is_single_view(row: dict[str, str]) -> bool:
    """Whether a row of the leaderboard was measured on CIFAR-10's validation images with one view."""
    return (row["data"], row["split"], row["views"]) == ("cifar10", "val", "1")


def series(leaderboard: Rows) -> Rows:
    """The leaderboard's rows of the dial, by size: the recipe `best` with a budget."""
    rows = [row for row in leaderboard if row["recipe"] == "best" and budget(row) and is_single_view(row)]
    return sorted(rows, key=lambda row: int(row["num_params"]))


def budget(row: dict[str, str]) -> str:
    """The value of --budget in the row's command; empty if there is none."""
    match = re.search(r"--budget[ =](\S+)", row["command"])
    return match[1] if match else ""
