"""search.json: the whole result of a search, so that a report needs neither its storage nor Optuna."""

import json
import statistics
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from pocket_resnet.errors import ArtifactError
from pocket_resnet.inference.statistics import welch_interval
from pocket_resnet.io.files import json_bytes, write_bytes
from pocket_resnet.model.artifact import refuse_newer_format
from pocket_resnet.tuning.settings import NUM_SEEDS, Candidate, Trade

RECORD_NAME, BEST_NAME, UNTUNED_NAME = "search.json", "best.toml", "untuned.toml"
FORMAT = 1
MAX_RECORD_BYTES = 64 * 1024 * 1024

Measure = Literal["accuracy", "nll"]
TrialOutcome = Literal["complete", "pruned", "running", "waiting"]

TRADE_UNITS: Final[dict[Trade, str]] = {
    "latency": "milliseconds per image",
    "macs": "multiply-adds per image",
    "bytes": "bytes of fp32 weights",
    "params": "parameters",
}


@dataclass(frozen=True)
class Rung:
    """The state of a trial at a rung, where it is compared with others."""

    steps: int
    image_size: int
    nll: float
    accuracy: float


@dataclass(frozen=True)
class Cost:
    """The cost of a run so far; for a diverged run, which did not report its end, only the known part."""

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
    outcome: TrialOutcome
    values: dict[str, Any]
    rungs: list[Rung]
    cost: Cost
    trade: float | None = None
    """The second goal, if there is one: milliseconds, multiply-adds, bytes or parameters."""
    error: str | None = None

    @property
    def trade_text(self) -> str:
        """The second goal's value: all digits of a count, four digits below 1,000, as of milliseconds."""
        value = self.trade or 0.0
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


@dataclass(frozen=True)
class FinalRecord:
    """One run of the final comparison."""

    candidate: Candidate
    seed: int
    accuracy: float
    nll: float
    cost: Cost


@dataclass(frozen=True)
class Verdict:
    """The tuned recipe compared with the untuned one: 95% Welch intervals of the differences of means, tuned - untuned.

    `recommended` is tuned only if the accuracy's interval is above 0. The intervals are None if no trial beat the
    untuned recipe, or a run of either diverged, so there was nothing to compare.
    """

    accuracy_difference: tuple[float, float] | None
    nll_difference: tuple[float, float] | None
    recommended: Literal["tuned", "untuned"]
    longer_difference: tuple[float, float] | None = None
    """In accuracy, tuned - longer; None if the untuned recipe was not trained longer."""
    diverged: Candidate | None = None
    """The candidate with a run that was not finite; the tuned one if both have."""


NOTHING_TO_COMPARE: Final = Verdict(None, None, "untuned")


@dataclass(frozen=True)
class SearchRecord:
    """A search, finished or not."""

    name: str
    recipe: str
    """The untuned recipe, as TOML."""
    data: str
    space: dict[str, Any]
    num_trials: int
    trade: Trade | None
    trials: list[TrialRecord]
    importance: dict[str, float]
    """Each key's share of the variation between trials; empty with fewer than four complete trials."""
    best: int | None
    """Number of the winner."""
    front: list[int]
    """Numbers of the trials that no other beats in both goals, cheapest first."""
    finals: list[FinalRecord]
    verdict: Verdict | None
    training_flops: int | None = None
    """Operations of one training with the untuned recipe."""
    longer_epochs: int | None = None
    """Epochs of the candidate `longer`, which cost about as much as all trials and one training with the winner."""
    format: int = FORMAT
    version: str = field(default="")

    @property
    def trade_unit(self) -> str | None:
        """The unit of the second goal, if there is one."""
        return None if self.trade is None else TRADE_UNITS[self.trade]

    @property
    def trials_flops(self) -> int:
        """Operations of all trials."""
        return sum(trial.cost.train_flops for trial in self.trials)

    @property
    def finals_flops(self) -> int:
        """Operations of the final comparison."""
        return sum(run.cost.train_flops for run in self.finals)

    @property
    def seconds_total(self) -> float:
        """Seconds of all trials and of the final comparison, added up over parallel workers."""
        costs = [trial.cost for trial in self.trials] + [run.cost for run in self.finals]
        return sum(cost.seconds_total for cost in costs)

    @property
    def recipe_names(self) -> list[str]:
        """Files of the recipes to train: the recommended one, or those of the front, cheapest first."""
        if self.verdict is not None:
            return [BEST_NAME if self.verdict.recommended == "tuned" else UNTUNED_NAME]
        return [front_name(number) for number in self.front]

    def to_json(self) -> dict[str, Any]:
        """The content of search.json."""
        sums = {name: getattr(self, name) for name in ("trials_flops", "finals_flops", "seconds_total")}
        return asdict(self) | sums

    def trial(self, number: int) -> TrialRecord:
        """The trial of that number."""
        return next(each for each in self.trials if each.number == number)

    @property
    def compared(self) -> list[Candidate]:
        """The candidates that have been trained with every seed of the final comparison."""
        names: tuple[Candidate, ...] = ("untuned", "tuned", "longer")
        return [name for name in names if len(measured(self.finals, name, "accuracy")) == NUM_SEEDS]

    def mean_and_sd(self, candidate: Candidate, what: Measure) -> tuple[float, float]:
        """Mean and sample standard deviation over the seeds."""
        values = measured(self.finals, candidate, what)
        return statistics.fmean(values), statistics.stdev(values)


def front_name(number: int) -> str:
    """The file with the recipe of this trial on the front."""
    return f"front/{number:04d}.toml"


def measured(finals: list[FinalRecord], candidate: Candidate, what: Measure) -> list[float]:
    """The values of a candidate in the final comparison, one per seed."""
    return [getattr(each, what) for each in finals if each.candidate == candidate]


def verdict_of(finals: list[FinalRecord], diverged: Collection[Candidate] = ()) -> Verdict | None:
    """The verdict; None until the tuned and the untuned recipe have been trained with every seed, or one diverged."""
    if "tuned" in diverged:
        return Verdict(None, None, "untuned", diverged="tuned")
    if "untuned" in diverged:
        return Verdict(None, None, "tuned", diverged="untuned")

    def difference(other: Candidate, what: Measure) -> tuple[float, float] | None:
        values = [measured(finals, name, what) for name in ("tuned", other)]
        return welch_interval(*values) if {len(each) for each in values} == {NUM_SEEDS} else None

    accuracy = difference("untuned", "accuracy")
    if accuracy is None:
        return None
    return Verdict(
        accuracy_difference=accuracy,
        nll_difference=difference("untuned", "nll"),
        recommended="tuned" if accuracy[0] > 0 else "untuned",
        longer_difference=difference("longer", "accuracy"),
    )


def is_search(folder: Path) -> bool:
    """Whether a search has been recorded in the folder."""
    return (folder / RECORD_NAME).is_file()


def write_record(folder: Path, record: SearchRecord) -> None:
    """Write search.json."""
    write_bytes(folder / RECORD_NAME, json_bytes(record.to_json()))


def read_record(folder: Path) -> SearchRecord:
    """Read search.json. Raises ArtifactError if it is damaged or newer than this program."""
    path, hint = folder / RECORD_NAME, "run the search again with --resume: it writes the file anew"
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise ArtifactError(f"over {MAX_RECORD_BYTES:,} bytes: not a search's record", where=path)
        values = json.loads(path.read_bytes())
        refuse_newer_format(values, "search", FORMAT, path)
        return TypeAdapter(SearchRecord).validate_python(values)
    except (OSError, ValueError, RecursionError) as error:
        what = str(error.errors(include_url=False)[0]["loc"]) if isinstance(error, ValidationError) else str(error)
        raise ArtifactError(f"not a search's record: {what}", where=path, hint=hint) from error
