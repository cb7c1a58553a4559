"""What a run tells: metrics.jsonl for programs, a progress bar or plain lines for people."""

import contextlib
import errno
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pocket_resnet.files import explain_os_errors, write_text

BAR_EVERY_S = 0.2
PLAIN_LINE_EVERY_S = 30.0


class MetricsFile:
    """One JSON object a line, appended and flushed; a resumed run first drops what lies beyond its checkpoint."""

    def __init__(self, path: Path, step: int) -> None:
        """Keep the records up to optimizer step `step`, whatever a crash left behind them."""
        self.path = path
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        write_text(path, "".join(f"{line}\n" for line in kept))

    def append(self, record: dict[str, Any]) -> None:
        """Add one record; it needs a `step`."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with explain_os_errors(self.path, len(line)), self.path.open("a", encoding="utf-8") as file:
            file.write(line)


def read_metrics(path: Path) -> list[dict[str, Any]]:
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


class ProgressReport:
    """Epoch, images a second, loss, accuracy and time left: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, num_steps: int, first_step: int, num_epochs: int, *, speaks: bool = True) -> None:
        """`speaks`: False in all but one of several processes."""
        self.console, self.speaks = Console(stderr=True, quiet=not speaks), speaks
        self.num_steps, self.first_step, self.num_epochs = num_steps, first_step, num_epochs
        self.started_s = self.spoken_s = time.monotonic()
        self.num_images = 0
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.start()
            self.task = self.bar.add_task("starting", total=self.num_steps, completed=self.first_step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            with _closed_terminal_ignored():
                self.bar.stop()

    def stepped(self, num_images: int) -> bool:
        """Count one step done; returns whether it is time to tell of it."""
        self.num_images += num_images
        every_s = PLAIN_LINE_EVERY_S if self.bar is None else BAR_EVERY_S
        return time.monotonic() - self.spoken_s > every_s

    def tell(self, step: int, epoch: int, loss: float, accuracy: float) -> None:
        """Tell of the steps so far; `loss` and `accuracy` are the epoch's so far."""
        self.spoken_s = time.monotonic()
        elapsed_s = self.spoken_s - self.started_s
        rate = self.num_images / max(elapsed_s, 1e-9)
        text = f"epoch {epoch + 1}/{self.num_epochs}  {rate:,.0f} images/s  loss {loss:.3f}  accuracy {accuracy:.1%}"
        if self.bar is not None:
            with _closed_terminal_ignored():
                self.bar.update(self.task, completed=step, description=text)
        else:
            left_s = elapsed_s / max(1, step - self.first_step) * (self.num_steps - step)
            self.say(f"step {step}/{self.num_steps}  {text}  {duration(left_s)} left")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        with _closed_terminal_ignored():
            if self.bar is not None:
                self.bar.console.print(line, highlight=False, markup=False)
            elif self.speaks:
                print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _closed_terminal_ignored() -> Iterator[None]:
    """Inside, nothing fails because the terminal is gone: the SIGHUP that comes with it saves and ends the run."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def duration(seconds: float) -> str:
    """A length of time for people: `48 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
