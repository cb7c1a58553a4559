"""A search's progress: in a terminal a bar over the trials with the best so far, and one line per trial."""

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from pocket_resnet.io.progress import Bar, print_line
from pocket_resnet.tuning.record import SearchRecord, TrialRecord


class SearchProgress:
    """Shows a record whenever it has changed, on the bar, which the caller starts, and in lines."""

    def __init__(self) -> None:
        columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        self.bar = Bar("trials", columns=columns)
        self.reported: set[tuple[str, int]] = set()

    def show(self, record: SearchRecord) -> None:
        """Print trials and runs that ended since the last call, and move the bar."""
        for trial in record.trials:
            if trial.outcome in ("complete", "pruned") and ("trial", trial.number) not in self.reported:
                self.reported.add(("trial", trial.number))
                print_line(_line(trial, record))
        for run in record.finals:
            if (run.candidate, run.seed) not in self.reported:
                self.reported.add((run.candidate, run.seed))
                print_line(f"final: {run.candidate}, seed {run.seed}  validation {run.accuracy:.2%}")
        ended = sum(trial.outcome in ("complete", "pruned") for trial in record.trials)
        best = "" if record.best is None else f"best: trial {record.best}, {_score(record.trial(record.best))}"
        if ended >= record.num_trials and best:
            best = f"final comparison: {len(record.finals)} runs, {best}"
        self.bar.update(ended, record.num_trials, best or "trials")


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
