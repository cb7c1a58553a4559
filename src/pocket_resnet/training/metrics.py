"""What a run tells: metrics.jsonl for programs, a progress bar or plain lines for people."""

import contextlib
import errno
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pocket_resnet.io.files import append_line, write_text

BAR_EVERY_S = 0.2
PLAIN_LINE_EVERY_S = 30.0

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


class MetricsFile:
    """One JSON object a line, appended and synced, so that no checkpoint outlives its records.

    A resumed run first drops what lies beyond its checkpoint.
    """

    def __init__(self, path: Path, step: int, plan: Plan) -> None:
        """Keep the records of a run by the plan that stands at optimizer step `step`, whatever a crash left there.

        `unchanged_step`: up to which step the records are those that were there.
        """
        self.path = path
        before = read_metrics(path) if path.exists() else []
        self.kept = plan.corrected(before, step)
        changed = [record["step"] for record in before if record not in self.kept]
        self.unchanged_step = min([step, *(changed_step - 1 for changed_step in changed)])
        self._write(self.kept)

    def append(self, record: Record) -> Record:
        """Add one record, in place of one of the same step; it needs a `step`. Returns what of it is new."""
        known = self.kept[-1] if self.kept and self.kept[-1]["step"] == record["step"] else {}
        if known:
            self._write([*self.kept[:-1], record])
        else:
            append_line(self.path, _line(record))
        return {key: value for key, value in record.items() if key == "step" or key not in known}

    def _write(self, records: list[Record]) -> None:
        write_text(self.path, "".join(f"{_line(record)}\n" for record in records))


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False)


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
