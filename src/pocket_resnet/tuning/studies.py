"""A search in its storage: what was asked for, which trial comes next, and whose worker has died."""

import time
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.recipe.toml import differences, override, parse_recipe, to_toml
from pocket_resnet.seeds import derive
from pocket_resnet.tuning.settings import CANDIDATES, NUM_SEEDS, Settings
from pocket_resnet.tuning.storage import MAX_RETRIES, retry_callback

BEGUN = (TrialState.RUNNING, TrialState.WAITING, TrialState.PRUNED, TrialState.COMPLETE)
SETTLED_S, POLL_S = 30.0, 0.2  # how long another machine may take to describe the study that it has just created


class Surplus(Exception):
    """Another worker began the last trial a moment earlier."""


def open_study(settings: Settings, storage: BaseStorage, fingerprint: str) -> Study:
    """The search's study, created with the recipe's own values as its first trial, or checked against the settings.

    Raises UsageError naming what differs from the settings that the study began with.
    """
    asked = {
        "recipe": to_toml(settings.recipe),
        "space": settings.space.to_json(),
        "trade": settings.trade,
        "data": fingerprint,
    }
    directions = [StudyDirection.MINIMIZE]
    if settings.trade is not None:
        directions.insert(0, StudyDirection.MAXIMIZE)
    try:
        study = optuna.create_study(storage=storage, study_name=settings.name, directions=directions)
    except optuna.exceptions.DuplicatedStudyError:
        study = load_study(settings.name, storage)
        begun = _described(study)
        if begun is not None:
            _refuse_changes(settings, begun, asked)
            _set_num_trials(study, settings)
            return study
    study.enqueue_trial(settings.space.params(settings.recipe), skip_if_exists=True)
    _set_num_trials(study, settings)
    study.set_user_attr("settings", asked)  # last: from here on the study is complete
    return study


def load_study(name: str, storage: BaseStorage, sampler: TPESampler | None = None) -> Study:
    """A study that exists."""
    return optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=optuna.pruners.NopPruner())


def _described(study: Study) -> dict[str, Any] | None:
    """What the study began with; None if whoever created it was killed in the act."""
    deadline_s = time.monotonic() + SETTLED_S
    while "settings" not in (attrs := study.user_attrs):
        if time.monotonic() > deadline_s:
            return None
        time.sleep(POLL_S)
    found: dict[str, Any] = attrs["settings"]
    return found


def _refuse_changes(settings: Settings, begun: dict[str, Any], asked: dict[str, Any]) -> None:
    recipe = parse_recipe(begun["recipe"], settings.folder)
    changed = differences(override(recipe, {"data.name": settings.recipe.data.name}), settings.recipe)
    changed += [
        f"{key}: {begun['space'].get(key)} -> {asked['space'].get(key)}"
        for key in {**begun["space"], **asked["space"]}
        if begun["space"].get(key) != asked["space"].get(key)
    ]
    changed += [f"trade: {begun['trade']} -> {asked['trade']}"] if begun["trade"] != asked["trade"] else []
    changed += ["the training images"] if begun["data"] != asked["data"] else []
    if changed:
        what = "the search began with other settings: " + "; ".join(changed)
        raise UsageError(what, where=settings.name, hint="undo the changes, or choose another --dir")


def _set_num_trials(study: Study, settings: Settings) -> None:
    study.set_user_attr("num_trials", settings.num_trials)


def finals_study(settings: Settings, storage: BaseStorage, winner: int) -> Study:
    """The study of the final comparison of this winner, one trial for each candidate and seed."""
    return optuna.create_study(
        storage=storage, study_name=f"{settings.name}/winner-{winner}", load_if_exists=True, direction="minimize"
    )


def num_finals() -> int:
    """Runs of the final comparison."""
    return len(CANDIDATES) * NUM_SEEDS


def seeded_sampler(settings: Settings, study: Study, worker: int) -> TPESampler:
    """The sampler of a worker's next trial. It repeats the same search where one worker does it alone.

    Workers on other machines do not know of each other, so there each takes a seed by chance.
    """
    num_trials = len(study.get_trials(deepcopy=False))
    seed = derive(settings.recipe.seed, "search", worker, num_trials) % 2**32
    return TPESampler(seed=seed if settings.storage is None else None)


def first_number(trial: Trial | FrozenTrial) -> int:
    """The number under which a trial first began: one whose worker died goes on under a new number."""
    return int(trial.user_attrs.get("first", trial.number))


def count(trials: Sequence[FrozenTrial], *states: TrialState) -> int:
    """How many trials are in one of these states."""
    return sum(trial.state in states for trial in trials)


def may_begin(trials: Sequence[FrozenTrial], num_trials: int) -> bool:
    """Whether a worker may ask for a trial."""
    return count(trials, TrialState.WAITING) > 0 or count(trials, *BEGUN) < num_trials


def is_complete(trials: Sequence[FrozenTrial], num_trials: int) -> bool:
    """Whether all trials have ended."""
    return not may_begin(trials, num_trials) and not count(trials, TrialState.RUNNING)


def refuse_surplus(trial: Trial, num_trials: int) -> None:
    """Raise Surplus where so many trials had begun before this one. A trial that was begun before always goes on."""
    trials = trial.study.get_trials(deepcopy=False)
    earlier = [each for each in trials if each.number < trial.number and each.state in BEGUN]
    if "first" not in trial.user_attrs and len(earlier) >= num_trials:
        raise Surplus


def requeue(study: Study, trial: FrozenTrial) -> None:
    """Put a trial whose worker has died back into the queue.

    Raises EnvironmentFault where that has been tried often enough.
    """
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another process was faster
        return
    if len(trial.system_attrs.get("retry_history", ())) >= MAX_RETRIES:
        raise EnvironmentFault(
            f"trial {first_number(trial)} has ended its worker {MAX_RETRIES + 1} times",
            hint="use fewer --workers if memory is short, or leave out of the space what needs so much",
        )
    retry_callback()(study, trial)


def put_back(study: Study, trial: Trial) -> None:
    """Put a trial that was stopped on purpose back into the queue."""
    study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
