"""The folders step-NNNNNN of a run's checkpoints: their order, and the data that the newest one names."""

import contextlib
import json
import re
from pathlib import Path

STATE_NAME = "state.json"


def newest_first(folder: Path) -> list[Path]:
    """The folder's checkpoints, highest step number first."""
    folders = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(folders, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The number in the folder's name."""
    return int(path.name.removeprefix("step-"))


def recorded_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the data in the newest checkpoint; None if there is none."""
    for path in newest_first(folder)[:1]:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            values = json.loads((path / STATE_NAME).read_text(encoding="utf-8"))
            fingerprint = values.get("data_fingerprint") if isinstance(values, dict) else None
            return fingerprint if isinstance(fingerprint, str) else None
    return None
