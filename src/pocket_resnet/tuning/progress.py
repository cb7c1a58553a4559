"""A search's progress: in a terminal a bar over the trials with the best so far, elsewhere one line per trial."""

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pocket_resnet.tuning.record import SearchRecord, TrialRecord


class SearchProgress:
    """Shows a record whenever it has changed."""

    def __init__(self, bar: Progress | None) -> None:
        self.bar = bar
        self.tasks = [] if bar is None else [bar.add_task("trials", total=None)]
        self.reported: set[tuple[str, int]] = set()

    def show(self, record: SearchRecord) -> None:
        """Print trials and runs that ended since the last call, and move the bar."""
        for trial in record.trials:
            if trial.outcome in ("complete", "pruned") and ("trial", trial.number) not in self.reported:
                self.reported.add(("trial", trial.number))
                self._print(_line(trial, record))
        for run in record.finals:
            if (run.candidate, run.seed) not in self.reported:
                self.reported.add((run.candidate, run.seed))
                self._print(f"final: {run.candidate}, seed {run.seed}  validation {run.accuracy:.2%}")
        if self.bar is not None:
            ended = sum(trial.outcome in ("complete", "pruned") for trial in record.trials)
            best = "" if record.best is None else f"best: trial {record.best}, {_score(record.trial(record.best))}"
            if ended >= record.num_trials and best:
                best = f"final comparison: {len(record.finals)} runs, {best}"
            self.bar.update(self.tasks[0], completed=ended, total=record.num_trials, description=best or "trials")

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that was closed
            if self.bar is not None:
                self.bar.console.print(line, highlight=False, markup=False)
            else:
                print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def search_progress() -> Iterator[SearchProgress]:
    """Show the bar inside the block, if standard error is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield SearchProgress(None)
        return
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        yield SearchProgress(bar)


def _score(trial: TrialRecord) -> str:
    last = trial.rungs[-1]
    return f"loss {last.nll:.4f}, accuracy {last.accuracy:.2%}"


def _line(trial: TrialRecord, record: SearchRecord) -> str:
    head = f"trial {trial.number} ({len([each for each in record.trials if each.outcome != 'running'])} of "
    head += f"{record.num_trials})  "
    if trial.error is not None:
        return f"{head}stopped: {trial.error}"
    what = "complete" if trial.outcome == "complete" else f"behind at step {trial.rungs[-1].steps}"
    best = "" if record.best is None else f"  best: trial {record.best}"
    return f"{head}{what}  {_score(trial)}{best}"
