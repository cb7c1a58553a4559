"""Turns the studies of a search into its record and into recipes for `train`."""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from pocket_resnet.inference.latency import network_latencies
from pocket_resnet.io.files import explain_os_errors, write_text
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.toml import override, to_toml
from pocket_resnet.torch_settings import own_settings
from pocket_resnet.tuning import studies
from pocket_resnet.tuning.finals import DIVERGED, FinalComparison, winner_of
from pocket_resnet.tuning.record import (
    BEST_NAME,
    NOTHING_TO_COMPARE,
    UNTUNED_NAME,
    Cost,
    FinalRecord,
    Rung,
    SearchRecord,
    TrialRecord,
    front_name,
    verdict_of,
    write_record,
)
from pocket_resnet.tuning.settings import NUM_SEEDS, Candidate, Settings
from pocket_resnet.tuning.studies import number_of
from pocket_resnet.tuning.trials import TrialContext
from pocket_resnet.version import __version__

MIN_FOR_IMPORTANCE = 4  # complete trials


def search_record(context: TrialContext, study: Study, comparisons: Sequence[FinalComparison] | None) -> SearchRecord:
    """The record of what the studies contain so far; `comparisons` are None until all trials have ended."""
    settings = context.settings
    trials = [each for each in studies.numbered(study, *studies.ALIVE) if each.params]
    best = winner_of(study) if settings.request.trade is None else None
    finals = [run for comparison in comparisons or () for run in _finals(comparison.study)]
    diverged = {name for comparison in comparisons or () for name in _diverged(comparison.study)}
    is_untuned_best = best is not None and comparisons is not None and not comparisons
    return SearchRecord(
        name=settings.name,
        recipe=to_toml(settings.recipe),
        data=context.source.public_name,
        space=settings.space.to_json(),
        num_trials=study.user_attrs["num_trials"],
        trade=settings.request.trade,
        trials=[_trial(settings, each) for each in sorted(trials, key=number_of)],
        importance=_importance(study),
        best=None if best is None else number_of(best),
        front=[] if settings.request.trade is None else _front(study),
        finals=finals,
        verdict=NOTHING_TO_COMPARE if is_untuned_best else verdict_of(finals, diverged),
        training_flops=context.untuned_flops,
        longer_epochs=_longer_epochs(comparisons or ()),
        version=__version__,
    )


def _trial(settings: Settings, trial: FrozenTrial) -> TrialRecord:
    attributes = trial.user_attrs
    outcome: Any = trial.state.name.lower()
    trade = trial.values[1] if trial.state == TrialState.COMPLETE and settings.request.trade is not None else None
    return TrialRecord(
        number=number_of(trial),
        outcome=outcome,
        values=settings.space.values(trial.params),
        rungs=[Rung(**rung) for rung in attributes.get("rungs", ())],
        cost=_cost(attributes.get("cost", {})),
        trade=trade,
        error=attributes.get("error"),
    )


def _cost(values: dict[str, Any]) -> Cost:
    return Cost(**{field.name: values[field.name] for field in dataclasses.fields(Cost) if field.name in values})


def _finals(study: Study) -> list[FinalRecord]:
    finals = [
        each.user_attrs["final"]
        for each in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if "final" in each.user_attrs
    ]
    return [
        FinalRecord(**{key: each[key] for key in ("candidate", "seed", "accuracy", "nll")}, cost=_cost(each))
        for each in sorted(finals, key=lambda each: (each["candidate"], each["seed"]))
    ]


def _diverged(study: Study) -> set[Candidate]:
    """The candidates with a run that was not finite."""
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    return {each.user_attrs[DIVERGED] for each in pruned if DIVERGED in each.user_attrs}


def _longer_epochs(comparisons: Sequence[FinalComparison]) -> int | None:
    contenders = [contender for comparison in comparisons for contender in comparison.contenders]
    return next((each.changes["epochs"] for each in contenders if each.candidate == "longer"), None)


def _importance(study: Study) -> dict[str, float]:
    """PED-ANOVA's share of each key (Watanabe et al. 2023, arXiv:2304.10255); with two goals, for the accuracy."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < MIN_FOR_IMPORTANCE:
        return {}
    has_two_goals = len(study.directions) > 1
    with contextlib.suppress(ValueError, RuntimeError):  # all trials are equal
        # It explains low values of a target, so the accuracy is negated; a single goal is the loss.
        return optuna.importance.get_param_importances(
            study, target=(lambda trial: -trial.values[0]) if has_two_goals else None
        )
    return {}


def _front(study: Study) -> list[int]:
    best = sorted(study.best_trials, key=lambda trial: (trial.values[1], -trial.values[0], trial.number))
    return [number_of(trial) for trial in best]


def with_latencies_side_by_side(record: SearchRecord, context: TrialContext) -> SearchRecord:
    """The record with the front's latencies measured again side by side: over hours, a machine's speed drifts."""
    networks = [ResNet(context.fitted(record.trial(number).values).model) for number in record.front]
    with own_settings():
        context.hardware.use_threads()
        measured = network_latencies(networks, context.hardware) if networks else []
    milliseconds = {number: 1000 * each.median_s for number, each in zip(record.front, measured, strict=True)}
    front: list[int] = []
    for number in sorted(record.front, key=milliseconds.__getitem__):
        accuracy = record.trial(number).rungs[-1].accuracy
        if not front or accuracy > record.trial(front[-1]).rungs[-1].accuracy:
            front.append(number)
    trials = [replace(each, trade=milliseconds.get(each.number, each.trade)) for each in record.trials]
    return replace(record, trials=trials, front=front)


def write_results(record: SearchRecord, context: TrialContext) -> None:
    """Write search.json and the recipes: the untuned one, and the winner or the front."""
    folder = context.settings.folder
    texts = {front_name(number): _recipe(record, record.trial(number), context) for number in record.front}
    if record.best is not None:
        texts[BEST_NAME] = _recipe(record, record.trial(record.best), context)
    texts[UNTUNED_NAME] = to_toml(override(context.untuned, {"hardware.num_threads": 0}))
    for name, text in texts.items():
        write_text(folder / name, text)
    with explain_os_errors(folder):
        for path in folder.glob(front_name(0).replace("0000", "*")):
            if f"front/{path.name}" not in texts:  # a better trial has replaced it
                path.unlink(missing_ok=True)
    write_record(folder, record)


def _recipe(record: SearchRecord, trial: TrialRecord, context: TrialContext) -> str:
    """The trial's whole recipe with a comment about its origin."""
    name = f"{record.name}-{trial.number:04d}"
    recipe = override(context.fitted(trial.values), {"name": name, "hardware.num_threads": 0})
    last = trial.rungs[-1]
    chosen = ", ".join(f"{key} {value}" for key, value in trial.values.items())
    lines = [
        f"{name}: trial {trial.number} of the search `{record.name}`, written by PocketResNet {__version__}.",
        f"Trained from seed {recipe.seed}: {last.accuracy:.2%} of the validation images, "
        f"negative log-likelihood {last.nll:.4f}; one seed, chosen among {len(record.trials)} trials, so optimistic.",
        f"The search chose: {chosen}.",
        *_verdict_lines(record),
    ]
    return "".join(f"# {line}\n" for line in lines) + "\n" + to_toml(recipe)


def _verdict_lines(record: SearchRecord) -> list[str]:
    if record.verdict is None:
        return []
    if record.verdict == NOTHING_TO_COMPARE:
        return ["This is the untuned recipe: no trial beat it."]
    if record.verdict.diverged is not None:
        return [f"With a fresh seed, the {record.verdict.diverged} recipe diverged: train {record.recipe_names[0]}."]
    tuned, untuned = record.mean_and_sd("tuned", "accuracy"), record.mean_and_sd("untuned", "accuracy")
    against = f"{tuned[0]:.2%} ± {tuned[1]:.2%} against {untuned[0]:.2%} ± {untuned[1]:.2%} untuned"
    advice = "a gain" if record.verdict.recommended == "tuned" else f"no gain beyond noise: train {UNTUNED_NAME}"
    return [f"With {NUM_SEEDS} fresh seeds: {against}; {advice}."]
