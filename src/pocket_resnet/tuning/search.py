"""A search from its start to its result: settings, workers, progress, files."""

import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import TrialState

from pocket_resnet.device import num_cores
from pocket_resnet.errors import Stopped, UsageError
from pocket_resnet.io.files import remove_temporaries
from pocket_resnet.io.locks import lock_folder
from pocket_resnet.model.counts import num_params
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import override
from pocket_resnet.training.signals import catch_signals
from pocket_resnet.tuning import studies
from pocket_resnet.tuning.progress import SearchProgress, search_progress
from pocket_resnet.tuning.record import SearchRecord, is_search
from pocket_resnet.tuning.settings import Settings, Trade
from pocket_resnet.tuning.space import load_space
from pocket_resnet.tuning.storage import JOURNAL_NAME, mend_journal, open_storage, quiet_optuna
from pocket_resnet.tuning.summary import summarise, with_latencies_side_by_side, write_results
from pocket_resnet.tuning.trials import Laboratory, open_laboratory
from pocket_resnet.tuning.workers import Workers, winner_of

_log = logging.getLogger(__name__)

WATCH_S = 1.0


@dataclass(frozen=True)
class Request:
    """What a user asks for; `folder` None is searches/RECIPE-DATA."""

    recipe: Recipe
    num_trials: int = 40
    hours: float | None = None
    num_workers: int = 1
    trade: Trade | None = None
    space: Path | None = None
    storage: str | None = None
    folder: Path | None = None
    data_dir: Path | None = None
    resume: bool = False


def search(request: Request) -> tuple[SearchRecord, Path]:
    """Start or resume a search, and return its record (the content of search.json) and its folder.

    Raises UsageError for settings that are invalid or differ from those the search began with, DataError for missing
    data, EnvironmentFault if the disk or the server fails, and Stopped after a signal, once the runs are saved.
    """
    _refuse(request)
    with quiet_optuna():
        settings, laboratory = prepare(request)
        with _owned(settings, resume=request.resume):
            return _Search(settings, laboratory).run(), settings.folder


def _refuse(request: Request) -> None:
    for flag, value in (("trials", request.num_trials), ("workers", request.num_workers), ("hours", request.hours)):
        if value is not None and not value > 0:
            raise UsageError(f"--{flag} {value} is not above 0", hint=f"give --{flag} 1 or more")
    if request.trade == "latency" and (request.num_workers > 1 or request.storage is not None):
        what = "--trade latency needs the machine to itself"
        raise UsageError(what, hint="omit --workers and --storage, or trade macs, which are the same everywhere")
    if request.recipe.data.train_on != "train":
        what = "data.train_on trainval leaves no validation images, which choose among the trials"
        raise UsageError(what, hint="omit it; train the best recipe on all images afterwards")


def prepare(request: Request) -> tuple[Settings, Laboratory]:
    """The settings, completed from the recipe and the data: folder, budget, space, threads of each worker."""
    recipe = request.recipe
    laboratory = open_laboratory(Settings(Path(), recipe, load_space(None, recipe), 0, data_dir=request.data_dir))
    source = laboratory.source
    folder = request.folder or Path("searches") / f"{recipe.name}-{Path(source.name).name}"
    num_untuned = num_params(laboratory.fitted({}).model)
    changes: dict[str, object] = {"data.name": source.name}
    if recipe.budget is None:  # no trial may be larger than the untuned network
        changes["budget"] = num_untuned
    if not recipe.hardware.num_threads:
        changes["hardware.num_threads"] = max(1, num_cores() // request.num_workers)
    recipe = override(recipe, changes)
    space = load_space(request.space, recipe)
    settings = Settings(
        folder=folder,
        recipe=recipe,
        space=space if request.trade is None else space.with_budgets_up_to(num_untuned),
        num_trials=request.num_trials,
        trade=request.trade,
        hours=request.hours,
        num_workers=request.num_workers,
        data_dir=request.data_dir,
        storage=request.storage,
    )
    return settings, replace(laboratory, settings=settings)


@contextlib.contextmanager
def _owned(settings: Settings, *, resume: bool) -> Iterator[None]:
    """Lock the folder against other searches inside the block; machines that share a server may share it."""
    folder = settings.folder
    if settings.storage is not None:
        yield
        return
    exists = is_search(folder) or (folder / JOURNAL_NAME).exists()
    if exists and not resume:
        raise UsageError("this search already exists", where=folder, hint="add --resume, or choose another --dir")
    with lock_folder(folder, hint="wait for it, or choose another --dir") as notice:
        if resume and not exists:
            _log.warning(f"nothing to resume in {folder}: starting a new search")
        if notice:
            _log.warning(notice)
        remove_temporaries(folder)
        mend_journal(settings)
        yield


class _Search:
    """A search whose folder this process may write."""

    def __init__(self, settings: Settings, laboratory: Laboratory) -> None:
        self.settings, self.laboratory = settings, laboratory
        self.storage: BaseStorage = open_storage(settings)
        self.study = studies.open_study(settings, self.storage, laboratory.source.fingerprint)
        self.finals: dict[int, Study] = {}  # by winner
        self.started_s = time.monotonic()
        self.written: SearchRecord | None = None

    def run(self) -> SearchRecord:
        """Watch the workers until all trials are trained and the winner has been compared with the untuned recipe."""
        if self.settings.storage is None:  # no other machine: whoever trained these has been killed
            self._requeue_running()
        _log.info(f"searching {', '.join(self.settings.space.dimensions)}")
        with catch_signals() as caught, search_progress() as progress:
            if not self._is_finished():
                self._watch(Workers(self.settings), caught, progress)
            record = self._write(progress)
        if caught:
            raise self._stopped(caught[0], record)
        if self.settings.trade == "latency":
            record = with_latencies_side_by_side(record, self.laboratory)
            write_results(self.settings, record, self.laboratory)
        return record

    def _watch(self, workers: Workers, caught: list[int], progress: SearchProgress) -> None:
        """Write and show what the workers do until they are done or a signal arrives."""
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
        """The search's study, and that of the final comparison if it has begun."""
        winner = winner_of(self.study) if self.settings.trade is None else None
        if winner is None or not studies.is_complete(self.study):
            return [self.study]
        number = studies.number_of(winner)
        if number not in self.finals:
            self.finals[number] = studies.finals_study(self.settings, self.storage, number)
        return [self.study, self.finals[number]]

    def _end_in_time(self) -> None:
        """After --hours, start no more trials."""
        hours = self.settings.hours
        if hours is None or time.monotonic() - self.started_s < 3600 * hours:
            return
        begun = studies.numbered(self.study, TrialState.RUNNING, TrialState.PRUNED, TrialState.COMPLETE)
        num_begun = 1 + max(map(studies.number_of, begun), default=-1)
        if num_begun < self.study.user_attrs["num_trials"]:
            _log.info(f"{hours:g} hours have passed: no new trial begins after these {num_begun}")
            self.study.set_user_attr("num_trials", num_begun)

    def _write(self, progress: SearchProgress) -> SearchRecord:
        """Write and show what is new."""
        own_studies = self._studies()
        finals = own_studies[1] if len(own_studies) > 1 else None
        record = summarise(self.settings, self.study, finals, self.laboratory.source.public_name)
        if record != self.written:
            write_results(self.settings, record, self.laboratory)
            progress.show(record)
            self.written = record
        return record

    def _stopped(self, number: int, record: SearchRecord) -> Stopped:
        ended = sum(trial.outcome in ("complete", "pruned") for trial in record.trials)
        what = f"stopped by {signal.Signals(number).name} after {ended} of {record.num_trials} trials"
        again = "run the same command again" + ("" if self.settings.storage else " with --resume")
        return Stopped(number, what, hint=f"to go on, {again}")
