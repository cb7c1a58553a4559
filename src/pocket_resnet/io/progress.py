"""Progress on standard error: a bar if that is a terminal, and lines, which a bar leaves above itself.

Nothing is raised if the terminal or pipe was closed or a disk is full: no work ends because nobody can read about it.
"""

import contextlib
import sys
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


def print_line(text: str) -> None:
    """Print a line on standard error, looked up now: while a bar is drawn, rich replaces it to print above the bar."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Bar:
    """A progress bar, drawn between `start` and `stop` or inside a `with` block; nothing if not in a terminal."""

    def __init__(
        self, text: str, total: int | None = None, *, columns: Sequence[ProgressColumn] = (), transient: bool = True
    ) -> None:
        """The default columns: bar, count, text and time left. At the end, the bar is removed if it is `transient`."""
        console = _Console(stderr=True)
        self.is_drawn = console.is_terminal
        default = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
        self._progress = Progress(
            *(columns or default), console=console, transient=transient, disable=not self.is_drawn
        )
        self._task = self._progress.add_task(text, total=total)

    def start(self) -> None:
        """Draw the bar from now on."""
        with contextlib.suppress(OSError):
            self._progress.start()

    def stop(self) -> None:
        """Draw it no longer."""
        with contextlib.suppress(OSError):
            self._progress.stop()

    def update(self, done: int | None = None, total: int | None = None, text: str | None = None) -> None:
        """Change what it shows; None leaves a value as it is."""
        with contextlib.suppress(OSError):
            self._progress.update(self._task, completed=done, total=total, description=text)

    def advance(self, count: int) -> None:
        """Add to what is done."""
        with contextlib.suppress(OSError):
            self._progress.advance(self._task, count)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Console(Console):
    """rich's console, but silent once its reader has gone, where rich would end the program."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
