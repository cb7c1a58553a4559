"""The folders step-NNNNNN of a run's checkpoints: in order, and which data the newest one names."""

import contextlib
import json
import re
from pathlib import Path

STATE_NAME = "state.json"


def newest_first(folder: Path) -> list[Path]:
    """The folder's checkpoints, highest step first, by number and not by text."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The number in the folder's name."""
    return int(path.name.removeprefix("step-"))


def recorded_fingerprint(folder: Path) -> str | None:
    """The data that the newest checkpoint says it was trained on; None where there is none that says so."""
    for path in newest_first(folder)[:1]:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            values = json.loads((path / STATE_NAME).read_text(encoding="utf-8"))
            found = values.get("data_fingerprint") if isinstance(values, dict) else None
            return found if isinstance(found, str) else None
    return None
