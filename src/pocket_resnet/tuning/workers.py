"""The processes that train trials, and how the search starts, watches and ends them."""

import contextlib
import functools
import io
import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import optuna
from optuna.study import Study
from optuna.trial import Trial, TrialState

from pocket_resnet.device import keep_freed_memory
from pocket_resnet.errors import EnvironmentFault, PocketError
from pocket_resnet.io.processes import hidden_main
from pocket_resnet.training.signals import second_signal_exits
from pocket_resnet.tuning import studies
from pocket_resnet.tuning.finals import open_comparisons
from pocket_resnet.tuning.settings import Settings
from pocket_resnet.tuning.storage import JOURNAL_NAME, open_storage, quiet_optuna
from pocket_resnet.tuning.studies import Surplus
from pocket_resnet.tuning.trials import open_context, run_trial

POLL_S = 0.3
UNCLAIMED_S = 60.0  # if a running trial has no worker's name after this long, the worker that took it is dead
STOP_S = 60.0  # for saving a checkpoint
# A terminal sends these to all processes; the search passes them on as SIGTERM.
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)


class Worker:
    """Takes trials until none is left, then runs of the final comparison."""

    def __init__(self, settings: Settings, index: int) -> None:
        self.settings, self.index = settings, index
        self.storage = open_storage(settings)
        self.context = open_context(settings)
        self.name = f"{platform.node()}/{os.getpid()}"
        self.unclaimed: dict[int, float] = {}  # trials without a worker's name, and when they were first seen

    def work(self) -> None:
        """Train until the search is complete."""
        study = studies.load_study(self.settings.name, self.storage)
        self._take_all(study, functools.partial(run_trial, context=self.context))
        for comparison in open_comparisons(self.context, self.storage, study):
            self._take_all(comparison.study, functools.partial(comparison.run, context=self.context))

    def _take_all(self, study: Study, run: Callable[[Trial], tuple[float, ...]]) -> None:
        """Take trials of the study; at the end, wait for those of other workers, which may still die."""

        def objective(trial: Trial) -> tuple[float, ...]:
            studies.refuse_surplus(trial)
            trial.set_user_attr("worker", self.name)
            try:
                return run(trial)
            except PocketError:  # a signal, or a fault such as a full disk: a resumed search trains it again
                studies.put_back(study, trial)
                raise

        while True:
            optuna.storages.fail_stale_trials(study)
            if studies.may_begin(study):
                study.sampler = studies.seeded_sampler(self.settings, study, self.index)
                _optimize(study, objective)
            elif studies.is_complete(study):
                return
            else:
                self._give_up_unclaimed(study)
                time.sleep(POLL_S)

    def _give_up_unclaimed(self, study: Study) -> None:
        now_s = time.monotonic()
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        nameless = [each for each in running if "worker" not in each.user_attrs]
        self.unclaimed = {each.number: self.unclaimed.get(each.number, now_s) for each in nameless}
        for each in nameless:
            if now_s - self.unclaimed[each.number] > UNCLAIMED_S:
                studies.requeue(study, each)


def _optimize(study: Study, objective: Callable[[Trial], tuple[float, ...]]) -> None:
    """Take and train one trial."""
    try:
        study.optimize(objective, n_trials=1, catch=(Surplus,))
    except UnboundLocalError as error:  # a bug in Optuna 5.0 if its storage fails when a trial ends
        if isinstance(error.__context__, PocketError):
            raise error.__context__ from None
        raise


@second_signal_exits()
def run_worker(settings: Settings, index: int, errors: Connection) -> None:
    """The body of a worker's process; a user-facing error goes to the search through `errors`."""
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    try:
        with quiet_optuna(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            Worker(settings, index).work()
    except PocketError as error:
        errors.send(error)
        sys.exit(error.exit_code)
    except OSError as error:  # from the journal
        where = settings.folder / JOURNAL_NAME
        hint = "free some space and run the command again with --resume"
        errors.send(EnvironmentFault(f"cannot write: {error.strerror or error}", where=where, hint=hint))
        sys.exit(EnvironmentFault.exit_code)


def _end_with_parent() -> None:
    """Exit at once if the search is killed: no old worker may be running when it is resumed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(EnvironmentFault.exit_code)


class Workers:
    """The worker processes of a search on this machine."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.num_killed = 0
        self.running: dict[int, tuple[SpawnProcess, Connection]] = {}
        for index in range(settings.request.num_workers):
            self._start(index)

    def _start(self, index: int) -> None:
        context = multiprocessing.get_context(
            "spawn"
        )  # a forked child would hang if its parent has used torch's threads
        errors, theirs = context.Pipe(duplex=False)
        process = context.Process(target=run_worker, args=(self.settings, index, theirs), daemon=True)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)  # until the child ignores them
        try:
            with hidden_main():
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        self.running[index] = process, errors

    def check(self, *with_trials: Study) -> None:
        """Remove workers that are done; replace killed ones and requeue their trials. Raises a worker's error."""
        for index, (process, errors) in list(self.running.items()):
            if process.is_alive():
                continue
            del self.running[index]
            if errors.poll() and (error := _received(errors)):
                raise error
            if process.exitcode:
                self.num_killed += 1
                self._give_up_trials(process, with_trials)
                if process.exitcode > 0:
                    raise RuntimeError(f"worker {index} ended with code {process.exitcode}; its traceback is above")
                self._start(index)

    def _give_up_trials(self, process: SpawnProcess, with_trials: tuple[Study, ...]) -> None:
        name = f"{platform.node()}/{process.pid}"
        for study in with_trials:
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if trial.user_attrs.get("worker") == name:
                    studies.requeue(study, trial)

    def stop(self) -> None:
        """Make every worker save its run and exit; kill any that does not, or that is left when a signal ends this."""
        deadline_s = time.monotonic() + STOP_S
        try:
            for process, _ in self.running.values():
                process.terminate()
            for process, _ in self.running.values():
                process.join(max(0.0, deadline_s - time.monotonic()))
        finally:
            for process, _ in self.running.values():
                process.kill()
                process.join()
            self.running.clear()


def _received(errors: Connection) -> PocketError | None:
    """The error that a worker ended with; None if it sent none."""
    with contextlib.suppress(EOFError):
        error: PocketError = errors.recv()
        return error
    return None
