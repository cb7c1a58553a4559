"""The records of a run, one per epoch, and their correction when a run resumes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocket_resnet.errors import ArtifactError

Record = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The steps after which a run of `last_step` steps writes a record, and those with a validation."""

    steps_per_epoch: int
    last_step: int
    validate_every: int

    def records(self, step: int) -> bool:
        """Whether an epoch or the run ends with that step (from 1)."""
        return step % self.steps_per_epoch == 0 or step == self.last_step

    def epoch(self, step: int) -> int:
        """The epoch of that step, both from 1."""
        return -(-step // self.steps_per_epoch)

    def validates(self, step: int) -> bool:
        """Whether the record after that step has a validation."""
        return self.epoch(step) % self.validate_every == 0 or step == self.last_step

    def corrected(self, records: list[Record], step: int) -> list[Record]:
        """The records that an uninterrupted run with this plan has at that step.

        An earlier process may have ended here: within an epoch, or after one that this plan does not validate.
        """
        kept = [record for record in records if record["step"] <= step]
        if kept and kept[-1]["step"] == step:
            if not self.records(step):
                del kept[-1]
            elif not self.validates(step):
                kept[-1] = {key: value for key, value in kept[-1].items() if not key.startswith("val_")}
        return kept


@dataclass(frozen=True)
class History:
    """The records of a run up to its current step, without records that a crash left beyond it."""

    records: list[Record]
    unchanged_step: int
    """Last step up to which metrics.jsonl already has these records unchanged."""


def history(path: Path, step: int, plan: Plan) -> History:
    """The records up to `step` of the metrics.jsonl at `path`, corrected for the plan; none without the file."""
    before = read_metrics(path) if path.exists() else []
    kept = plan.corrected(before, step)
    changed = [record["step"] for record in before if record not in kept]
    return History(kept, min([step, *(changed_step - 1 for changed_step in changed)]))


def read_metrics(path: Path) -> list[Record]:
    """The records of a metrics.jsonl, without a half-written last line."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [json.loads(line) for line in lines if _step_of(line) < _NEVER]


def read_records(path: Path) -> list[Record]:
    """Like `read_metrics`, but raises ArtifactError if the file cannot be read."""
    try:
        return read_metrics(path)
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", where=path) from error


_NEVER = 2**63


def _step_of(line: str) -> int:
    """The record's step, or _NEVER if the line is not a record."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return _NEVER


def duration(seconds: float) -> str:
    """The time in words: `48 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
