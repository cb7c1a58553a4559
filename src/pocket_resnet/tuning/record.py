"""search.json: everything that a search has found, so that a report needs neither its storage nor Optuna."""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from pocket_resnet.errors import ArtifactError
from pocket_resnet.inference.statistics import welch_interval
from pocket_resnet.io.files import json_bytes, write_bytes
from pocket_resnet.tuning.settings import CANDIDATES

RECORD_NAME = "search.json"
FORMAT = 1
MAX_RECORD_BYTES = 64 * 1024 * 1024

Outcome = Literal["complete", "pruned", "running", "waiting"]


@dataclass(frozen=True)
class Rung:
    """The state of a trial when it was judged."""

    steps: int
    image_size: int
    nll: float
    accuracy: float


@dataclass(frozen=True)
class Cost:
    """What a run has cost so far; for a diverged run, which did not report its end, only the known part."""

    steps: int = 0
    train_flops: int = 0
    seconds: float = 0.0
    seconds_total: float = 0.0
    num_params: int | None = None
    num_macs: int | None = None
    machine: str | None = None


@dataclass(frozen=True)
class TrialRecord:
    """One trial; `values` are the recipe's, by dotted key."""

    number: int
    outcome: Outcome
    values: dict[str, Any]
    rungs: list[Rung]
    cost: Cost
    trade: float | None = None
    """The second goal, if there is one: milliseconds, multiply-adds, bytes or parameters."""
    error: str | None = None


@dataclass(frozen=True)
class FinalRecord:
    """One run of the final comparison."""

    candidate: Literal["tuned", "untuned"]
    seed: int
    accuracy: float
    nll: float
    cost: Cost


@dataclass(frozen=True)
class Verdict:
    """The tuned recipe compared with the untuned one: 95% Welch intervals of the differences of means, tuned - untuned.

    `recommended` is tuned only if the accuracy's interval lies above 0.
    """

    accuracy_difference: tuple[float, float]
    nll_difference: tuple[float, float]
    recommended: Literal["tuned", "untuned"]


@dataclass(frozen=True)
class SearchRecord:
    """A search, finished or not."""

    name: str
    recipe: str
    """The untuned recipe, as TOML."""
    data: str
    space: dict[str, Any]
    num_trials: int
    trade: str | None
    trials: list[TrialRecord]
    importance: dict[str, float]
    """Each key's share of the variation between trials; empty with fewer than four complete trials."""
    best: int | None
    """Number of the winner."""
    front: list[int]
    """Numbers of the trials that no other beats in both goals, cheapest first."""
    finals: list[FinalRecord]
    verdict: Verdict | None
    format: int = FORMAT
    version: str = field(default="")

    @property
    def train_flops(self) -> int:
        """Operations of all trials and of the final comparison."""
        return sum(cost.train_flops for cost in self._costs())

    @property
    def seconds_total(self) -> float:
        """Seconds of all trials and of the final comparison, added up over parallel workers."""
        return sum(cost.seconds_total for cost in self._costs())

    def _costs(self) -> list[Cost]:
        return [trial.cost for trial in self.trials] + [run.cost for run in self.finals]

    def trial(self, number: int) -> TrialRecord:
        """The trial of that number."""
        return next(each for each in self.trials if each.number == number)

    def measured(self, candidate: str, what: Literal["accuracy", "nll"]) -> list[float]:
        """The values of a candidate in the final comparison, one per seed."""
        return [getattr(each, what) for each in self.finals if each.candidate == candidate]

    def mean_and_sd(self, candidate: str, what: Literal["accuracy", "nll"]) -> tuple[float, float]:
        """Over the seeds; the sample standard deviation."""
        values = self.measured(candidate, what)
        return statistics.fmean(values), statistics.stdev(values)


def judged(finals: list[FinalRecord], num_expected: int) -> Verdict | None:
    """The verdict; None until every run of the final comparison is finished."""
    if len(finals) < num_expected:
        return None

    def difference(what: str) -> tuple[float, float]:
        tuned, untuned = ([getattr(each, what) for each in finals if each.candidate == name] for name in CANDIDATES)
        return welch_interval(tuned, untuned)

    accuracy = difference("accuracy")
    return Verdict(accuracy, difference("nll"), "tuned" if accuracy[0] > 0 else "untuned")


def is_search(folder: Path) -> bool:
    """Whether a search has been recorded in the folder."""
    return (folder / RECORD_NAME).is_file()


def write_record(folder: Path, record: SearchRecord) -> None:
    """Write search.json."""
    write_bytes(folder / RECORD_NAME, json_bytes(asdict(record)))


def read_record(folder: Path) -> SearchRecord:
    """Read search.json. Raises ArtifactError if it is damaged or newer than this program."""
    path, hint = folder / RECORD_NAME, "run the search again with --resume: it writes the file anew"
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise ArtifactError(f"over {MAX_RECORD_BYTES:,} bytes: not a search's record", where=path)
        values = json.loads(path.read_bytes())
        if isinstance(values, dict) and isinstance(values.get("format"), int) and values["format"] > FORMAT:
            what = f"format {values['format']}, newer than this program's {FORMAT}"
            raise ArtifactError(what, where=path, hint=f"upgrade to PocketResNet {values.get('version')} or later")
        return TypeAdapter(SearchRecord).validate_python(values)
    except (OSError, ValueError, RecursionError) as error:
        what = str(error.errors(include_url=False)[0]["loc"]) if isinstance(error, ValidationError) else str(error)
        raise ArtifactError(f"not a search's record: {what}", where=path, hint=hint) from error
