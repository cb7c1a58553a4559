"""The records of a run, one an epoch, and what becomes of those in metrics.jsonl when it is resumed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """After which steps a run of `last_step` steps writes a record, and which of its records have a validation."""

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
        """Whether the record after that step, which is written, has a validation."""
        return self.epoch(step) % self.validate_every == 0 or step == self.last_step

    def corrected(self, records: list[Record], step: int) -> list[Record]:
        """Those that an uninterrupted run by this plan has when it stands at that step.

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
    """The records of a run that stands at some step, whatever a crash left beyond it."""

    records: list[Record]
    unchanged_step: int
    """Up to which step they are those that were there."""


def history(path: Path, step: int, plan: Plan) -> History:
    """What the metrics.jsonl at `path`, if there is one, has of a run by the plan that stands at that step."""
    before = read_metrics(path) if path.exists() else []
    kept = plan.corrected(before, step)
    changed = [record["step"] for record in before if record not in kept]
    return History(kept, min([step, *(changed_step - 1 for changed_step in changed)]))


def read_metrics(path: Path) -> list[Record]:
    """The records of a metrics.jsonl, a half-written last line left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [json.loads(line) for line in lines if _step_of(line) < _NEVER]


_NEVER = 2**63


def _step_of(line: str) -> int:
    """The record's step; a line that is no record lies beyond every step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return _NEVER


def duration(seconds: float) -> str:
    """A length of time for people: `48 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
