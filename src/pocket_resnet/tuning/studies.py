"""A search in its storage: a queue of numbered trials, the settings, and trials whose worker has died."""

import math
import time
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from pocket_resnet.data.source import Source
from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.recipe.toml import differences, override, parse_recipe, to_toml
from pocket_resnet.seeds import derive
from pocket_resnet.tuning.settings import Settings
from pocket_resnet.tuning.storage import MAX_RETRIES, retry_callback

ALIVE = (TrialState.RUNNING, TrialState.WAITING, TrialState.PRUNED, TrialState.COMPLETE)
SETTINGS_WAIT_S, POLL_S = 30.0, 0.2  # maximum time for another machine to describe a study that it has just created


class Surplus(Exception):
    """A trial that is not in the queue: another worker took the last one a moment earlier."""


def open_study(settings: Settings, storage: BaseStorage, source: Source, first: dict[str, Any]) -> Study:
    """The search's study, created with the parameters `first` for its first trial, or checked against the settings.

    Raises UsageError naming the settings that differ from those the study was created with.
    """
    requested = {
        "recipe": to_toml(settings.recipe),
        "space": settings.space.to_json(),
        "trade": settings.request.trade,
        "data": source.fingerprint,
    }
    directions = [StudyDirection.MINIMIZE]
    if settings.request.trade is not None:
        directions.insert(0, StudyDirection.MAXIMIZE)
    study, is_new = _create(settings.name, storage, directions)
    if not is_new and (recorded := _recorded_settings(study)) is not None:
        _refuse_changes(settings, source, recorded, requested)
    _fill_queue(study, settings.request.num_trials, first)
    study.set_user_attr("num_trials", settings.request.num_trials)
    study.set_user_attr("settings", requested)  # last: from now on, other machines may join
    return study


def open_queue(name: str, storage: BaseStorage, num_trials: int) -> Study:
    """The study of that name, created with `num_trials` trials that have no parameters."""
    study, is_new = _create(name, storage, [StudyDirection.MINIMIZE])
    if is_new or _recorded_settings(study) is None:
        _fill_queue(study, num_trials, {})
        study.set_user_attr("num_trials", num_trials)
        study.set_user_attr("settings", {})
    return study


def _create(name: str, storage: BaseStorage, directions: Sequence[StudyDirection]) -> tuple[Study, bool]:
    """The study, and whether it is new."""
    try:
        return optuna.create_study(storage=storage, study_name=name, directions=directions), True
    except optuna.exceptions.DuplicatedStudyError:
        return load_study(name, storage), False


def _fill_queue(study: Study, num_trials: int, first: dict[str, Any]) -> None:
    """Queue the missing ones of `num_trials` trials; the first trial gets the values `first`."""
    present = {number_of(trial) for trial in numbered(study, *ALIVE)}
    for number in range(num_trials):
        if number not in present:
            study.enqueue_trial(first if number == 0 else {}, user_attrs={"number": number})


def load_study(name: str, storage: BaseStorage, sampler: TPESampler | None = None) -> Study:
    """An existing study."""
    return optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=optuna.pruners.NopPruner())


def _recorded_settings(study: Study) -> dict[str, Any] | None:
    """The settings the study was created with; None if its creator was killed before it recorded them."""
    deadline_s = time.monotonic() + SETTINGS_WAIT_S
    while "settings" not in (attrs := study.user_attrs):
        if time.monotonic() > deadline_s:
            return None
        time.sleep(POLL_S)
    settings: dict[str, Any] = attrs["settings"]
    return settings


def _refuse_changes(settings: Settings, source: Source, recorded: dict[str, Any], requested: dict[str, Any]) -> None:
    recipe = parse_recipe(recorded["recipe"], settings.folder)
    changed = differences(override(recipe, {"data.name": settings.recipe.data.name}), settings.recipe)
    changed += [
        f"{key}: {recorded['space'].get(key)} -> {requested['space'].get(key)}"
        for key in {**recorded["space"], **requested["space"]}
        if recorded["space"].get(key) != requested["space"].get(key)
    ]
    if recorded["trade"] != requested["trade"]:
        changed.append(f"trade: {recorded['trade']} -> {requested['trade']}")
    if not source.has_fingerprint(recorded["data"]):
        changed.append("the training images")
    if changed:
        what = "the search began with other settings: " + "; ".join(changed)
        raise UsageError(what, where=settings.name, hint="undo the changes, or choose another --dir")


def seeded_sampler(settings: Settings, study: Study, worker: int) -> TPESampler:
    """The sampler of a worker's next trial. With a single worker, the search is reproducible.

    Workers on different machines do not know each other, so with a server each uses a random seed.
    """
    num_started = sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
    seed = derive(settings.recipe.seed, "search", worker, num_started) % 2**32
    return TPESampler(seed=seed if settings.request.storage is None else None)


def number_of(trial: Trial | FrozenTrial) -> int:
    """The trial's place in the queue, which it keeps if its worker dies, although Optuna gives it a new number."""
    return int(trial.user_attrs["number"])


def numbered(study: Study, *states: TrialState) -> list[FrozenTrial]:
    """The trials of the queue that are in one of these states."""
    return [each for each in study.get_trials(deepcopy=False, states=states) if "number" in each.user_attrs]


def may_begin(study: Study) -> bool:
    """Whether a trial is waiting for a worker."""
    num_trials = study.user_attrs["num_trials"]
    return any(number_of(trial) < num_trials for trial in numbered(study, TrialState.WAITING))


def is_complete(study: Study) -> bool:
    """Whether all trials have ended."""
    return not may_begin(study) and not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def refuse_surplus(trial: Trial) -> None:
    """Raise Surplus if the trial is not one of those in the queue."""
    if trial.user_attrs.get("number", math.inf) >= trial.study.user_attrs["num_trials"]:
        raise Surplus


def requeue(study: Study, trial: FrozenTrial) -> None:
    """Put a trial whose worker has died back into the queue.

    Raises EnvironmentFault if this has already happened MAX_RETRIES times.
    """
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another process was faster
        return
    if len(trial.system_attrs.get("retry_history", ())) >= MAX_RETRIES:
        raise EnvironmentFault(
            f"trial {number_of(trial)} has ended its worker {MAX_RETRIES + 1} times",
            hint="use fewer --workers if memory is short, or leave out of the space what needs so much",
        )
    retry_callback()(study, trial)


def put_back(study: Study, trial: Trial) -> None:
    """Put a trial that was stopped on purpose back into the queue."""
    study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
