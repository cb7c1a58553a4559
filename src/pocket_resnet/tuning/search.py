"""A search from its start to its result: settings, workers, progress, files."""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import TrialState

from pocket_resnet.device import num_cores
from pocket_resnet.errors import Stopped, UsageError
from pocket_resnet.io.files import remove_temporaries
from pocket_resnet.io.locks import lock_folder
from pocket_resnet.model.counts import num_params
from pocket_resnet.recipe.toml import override
from pocket_resnet.training.prepare import fit_to_data
from pocket_resnet.training.signals import catch_signals
from pocket_resnet.tuning import studies
from pocket_resnet.tuning.finals import FinalComparison, open_comparisons, trials_flops, winner_of
from pocket_resnet.tuning.progress import SearchProgress
from pocket_resnet.tuning.record import SearchRecord, TrialRecord, Verdict, is_search
from pocket_resnet.tuning.settings import Request, Settings, Trade
from pocket_resnet.tuning.space import load_space
from pocket_resnet.tuning.storage import JOURNAL_NAME, open_storage, quiet_optuna, repair_journal
from pocket_resnet.tuning.summary import search_record, with_latencies_side_by_side, write_results
from pocket_resnet.tuning.trials import TrialContext, context_of, open_data
from pocket_resnet.tuning.workers import Workers

_log = logging.getLogger(__name__)

STORAGE_VARIABLE = "POCKET_RESNET_STORAGE"
WATCH_S = 1.0


@dataclass(frozen=True)
class SearchResult:
    """A finished search: its folder and its record, the content of search.json."""

    folder: Path
    record: SearchRecord

    @property
    def recipes(self) -> list[Path]:
        """Recipes for `train`: the recommended one, or those of the front, cheapest first; empty if no trial ended."""
        return [self.folder / name for name in self.record.recipe_names]

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the lowest validation loss; None with two goals."""
        return None if self.record.best is None else self.record.trial(self.record.best)

    @property
    def front(self) -> list[TrialRecord]:
        """The trials that no other beats in both goals, cheapest first; empty with one goal."""
        return [self.record.trial(number) for number in self.record.front]

    @property
    def verdict(self) -> Verdict | None:
        """The winner compared with the untuned recipe; None with two goals."""
        return self.record.verdict


def search(request: Request) -> SearchResult:
    """Start or resume a search, and return its result.

    Raises UsageError for settings that are invalid or have changed since the search began, DataError for missing data,
    EnvironmentFault if the disk or the server fails, and Stopped after a signal, once the runs are saved.
    """
    request = replace(request, storage=request.storage or os.environ.get(STORAGE_VARIABLE) or None)
    _refuse(request)
    with quiet_optuna():
        settings, context = prepare(request)
        with _locked(settings):
            return SearchResult(settings.folder, _Search(settings, context).run())


def _refuse(request: Request) -> None:
    for flag, value in (("trials", request.num_trials), ("workers", request.num_workers), ("hours", request.hours)):
        if value is not None and not value > 0:
            raise UsageError(f"--{flag} {value} is not above 0", hint=f"give --{flag} 1 or more")
    if request.trade not in (None, *(names := get_args(Trade))):
        raise UsageError(f"--trade {request.trade!r} is unknown", hint=f"choose one of {', '.join(names)}")
    if request.trade == "latency" and (request.num_workers > 1 or request.storage is not None):
        what = "--trade latency needs the machine to itself"
        raise UsageError(what, hint="omit --workers and --storage, or trade macs, which are the same everywhere")
    if request.equal_cost and (request.trade is not None or request.recipe.max_steps is not None):
        what = "--equal-cost trains the untuned recipe for more epochs, which --trade and --max-steps rule out"
        raise UsageError(what, hint="omit --equal-cost or the other flag")
    if request.recipe.data.train_on != "train":
        what = "data.train_on trainval leaves no validation images, which choose among the trials"
        raise UsageError(what, hint="omit it; train the best recipe on all images afterwards")


def prepare(request: Request) -> tuple[Settings, TrialContext]:
    """The settings, completed from the recipe and the data: folder, budget, space, threads of each worker."""
    recipe = request.recipe
    source = open_data(recipe, request.data_dir)
    untuned = fit_to_data(recipe, source, len(source.split("train")), quiet=True)
    changes: dict[str, object] = {"data.name": source.name}
    if recipe.budget is None:  # no trial may be larger than the untuned network
        changes["budget"] = num_params(untuned.model)
    if not recipe.hardware.num_threads:
        changes["hardware.num_threads"] = max(1, num_cores() // request.num_workers)
    folder = request.folder or Path("searches") / f"{recipe.name}-{Path(source.name).name}"
    settings = Settings(request, folder, override(recipe, changes), load_space(request.space, untuned))
    if request.trade is not None:
        settings = replace(settings, space=settings.space.with_budgets_up_to(settings.budget))
    return settings, context_of(settings, source)


@contextlib.contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    """Lock the folder against other searches inside the block; machines that share a server may share it."""
    folder, resume = settings.folder, settings.request.resume
    if settings.request.storage is not None:
        yield
        return
    exists = is_search(folder) or (folder / JOURNAL_NAME).exists()
    if exists and not resume:
        raise UsageError(
            "this search already exists",
            where=folder,
            hint="add --resume (in Python: resume=True), or choose another --dir",
        )
    with lock_folder(folder, hint="wait for it, or choose another --dir") as notice:
        if resume and not exists:
            _log.warning(f"nothing to resume in {folder}: starting a new search")
        if notice:
            _log.warning(notice)
        remove_temporaries(folder)
        repair_journal(settings)
        yield


def first_trial(context: TrialContext) -> dict[str, Any]:
    """The parameters of a trial with the untuned recipe's values, as far as the space contains them."""
    settings, untuned = context.settings, context.untuned
    budget = {} if settings.request.trade is None else {"budget": settings.budget}
    return settings.space.params(untuned) | budget


class _Search:
    """A search whose folder this process may write."""

    def __init__(self, settings: Settings, context: TrialContext) -> None:
        self.settings, self.context = settings, context
        self.storage: BaseStorage = open_storage(settings)
        self.study = studies.open_study(settings, self.storage, context.source, first_trial(context))
        self.comparisons: dict[tuple[int | None, int], list[FinalComparison]] = {}  # by winner and cost of the trials
        self.started_s = time.monotonic()
        self.written: SearchRecord | None = None

    def run(self) -> SearchRecord:
        """Watch the workers until all trials are trained and the winner has been compared with the untuned recipe."""
        if self.settings.request.storage is None:  # no other machine: the workers of these trials were killed
            self._requeue_running()
        _log.info(f"searching {', '.join(self.settings.space.dimensions)}")
        progress = SearchProgress()
        with catch_signals() as caught, progress.bar:
            if not self._is_finished():
                self._watch(Workers(self.settings), caught, progress)
            record = self._write(progress)
        if caught:
            raise self._stopped(caught[0], record)
        if self.settings.request.trade == "latency":
            record = with_latencies_side_by_side(record, self.context)
            write_results(record, self.context)
        return record

    def _watch(self, workers: Workers, caught: list[int], progress: SearchProgress) -> None:
        """Write and show the workers' progress until they are done or a signal arrives."""
        try:
            while workers.running and not caught:
                time.sleep(WATCH_S)
                workers.check(*self._studies())
                self._end_in_time()
                self._write(progress)
        finally:
            workers.stop()

    def _is_finished(self) -> bool:
        return all(studies.is_complete(study) for study in self._studies())

    def _requeue_running(self) -> None:
        for study in self._studies():
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                studies.requeue(study, trial)

    def _studies(self) -> list[Study]:
        """The search's study, and those of the final comparison if it has begun."""
        return [self.study, *(comparison.study for comparison in self._comparisons() or ())]

    def _comparisons(self) -> list[FinalComparison] | None:
        """The comparisons that follow the trials; None until those have ended. More trials may change them."""
        if not studies.is_complete(self.study):
            return None
        winner = winner_of(self.study)
        ended = None if winner is None else studies.number_of(winner), trials_flops(self.study)
        if ended not in self.comparisons:
            self.comparisons[ended] = open_comparisons(self.context, self.storage, self.study)
        return self.comparisons[ended]

    def _end_in_time(self) -> None:
        """After --hours, start no more trials."""
        hours = self.settings.request.hours
        if hours is None or time.monotonic() - self.started_s < 3600 * hours:
            return
        started = studies.numbered(self.study, TrialState.RUNNING, TrialState.PRUNED, TrialState.COMPLETE)
        num_started = 1 + max(map(studies.number_of, started), default=-1)
        if num_started < self.study.user_attrs["num_trials"]:
            _log.info(f"{hours:g} hours have passed: no new trial begins after these {num_started}")
            self.study.set_user_attr("num_trials", num_started)

    def _write(self, progress: SearchProgress) -> SearchRecord:
        """Write and show the record if it has changed."""
        record = search_record(self.context, self.study, self._comparisons())
        if record != self.written:
            write_results(record, self.context)
            progress.show(record)
            self.written = record
        return record

    def _stopped(self, number: int, record: SearchRecord) -> Stopped:
        ended = sum(trial.outcome in ("complete", "pruned") for trial in record.trials)
        what = f"stopped by {signal.Signals(number).name} after {ended} of {record.num_trials} trials"
        again = "run the same command again" + ("" if self.settings.request.storage else " with --resume")
        return Stopped(number, what, hint=f"to continue, {again}")
