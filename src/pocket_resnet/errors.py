"""User-facing errors: what happened, where, and how to fix it.

The class decides the exit code. Only cli/main.py prints these and exits.
"""

import copyreg
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

MAX_LISTED: Final = 20


class PocketError(Exception):
    """A user-facing error: `where: what`, and on a second line how to fix it."""

    exit_code = 1
    usual_hint: ClassVar[str | None] = None
    """The default hint."""

    def __init__(self, what: str, *, where: str | Path | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint or self.usual_hint
        first_line = what if where is None else f"{where}: {what}"
        super().__init__(first_line if self.hint is None else f"{first_line}\n  {self.hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Let errors cross process borders without calling `__init__`, whose arguments differ between subclasses."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UsageError(PocketError):
    """Invalid usage: a flag, recipe or argument."""

    exit_code = 2


class DataError(PocketError):
    """Training or test data that is missing, damaged or contradictory."""

    exit_code = 3


class ArtifactError(PocketError):
    """A checkpoint or model directory that is damaged or has another format."""

    exit_code = 4
    usual_hint = "use an intact copy, or train again"


class EnvironmentFault(PocketError):
    """An environment problem: disk full, no permission, network down, folder in use."""

    exit_code = 5


class NonFiniteError(PocketError):
    """Training produced NaN or infinity and stopped before using it."""

    exit_code = 1
    usual_hint = "try a lower learning rate or --optim.clip-norm 1"


class Stopped(PocketError):
    """A signal ended the run after its state was saved; the exit code is 128 + the signal's number."""

    def __init__(self, signal_number: int, what: str, *, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.exit_code = 128 + signal_number


def listed(items: Sequence[str], separator: str) -> str:
    """The first MAX_LISTED items, and how many more there are."""
    more = [f"… and {len(items) - MAX_LISTED} more"] if len(items) > MAX_LISTED else []
    return separator.join([*items[:MAX_LISTED], *more])


def counted(number: int, noun: str) -> str:
    """`1 step`, `1,200 steps`, `3 classes`."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean ...?` with the nearest known word, or nothing if none is close."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean `{near[0]}`?" if near else ""
