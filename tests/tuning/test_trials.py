"""One trial: rungs, pruning, cost, and what stops it."""

import json
from dataclasses import replace
from typing import Any

import optuna
import pytest
import torch

from pocket_resnet.errors import NonFiniteError
from pocket_resnet.recipe.toml import override
from pocket_resnet.training.metrics import read_metrics
from pocket_resnet.tuning import trials
from pocket_resnet.tuning.storage import quiet_optuna
from pocket_resnet.tuning.trials import cost_of, run_trial, survives


@pytest.mark.parametrize(
    ("value", "others", "expected"),
    [
        (0.5, [], True),
        (0.5, [0.6], True),
        (0.5, [0.4], False),
        (0.5, [0.4, 0.6, 0.7], False),
        (0.5, [0.4, 0.6, 0.7, 0.8, 0.9], True),
        (0.5, [0.4, 0.45, 0.7, 0.8, 0.9], False),
    ],
)
def test_the_best_third_goes_on(value: float, others: list[float], expected: bool) -> None:
    assert survives(value, others) is expected


@pytest.fixture
def study() -> Any:
    """With three trials in its queue."""
    with quiet_optuna():
        study = optuna.create_study()
        for number in range(3):
            study.enqueue_trial({"train_image_sizes": "[6, 8]"}, user_attrs={"number": number})
        yield study


def test_rungs_are_one_schedule_and_each_is_judged(study: Any, context: Any) -> None:
    """The last rung is the end of an ordinary run, whose folder, metrics and cost are kept."""
    trial = study.ask()
    (nll,) = run_trial(trial, context)
    folder = context.settings.trials / "0000"
    rungs, result = trial.user_attrs["rungs"], json.loads((folder / "result.json").read_text())
    assert [rung["steps"] for rung in rungs] == [1, 2, 4]
    assert nll == rungs[-1]["nll"] == pytest.approx(read_metrics(folder / "metrics.jsonl")[-1]["val_nll"], abs=1e-6)
    assert rungs[-1]["accuracy"] == result["accuracy"]
    assert result["num_params"] <= 1_391
    cost = trial.user_attrs["cost"]
    assert (cost["train_flops"], cost["steps"]) == (result["train_flops"], 4)
    assert study.trials[0].intermediate_values == {1: rungs[0]["nll"], 3: rungs[1]["nll"], 9: rungs[2]["nll"]}


@pytest.mark.threat(78)
def test_the_test_split_stays_closed(study: Any, context: Any, synthetic: Any) -> None:
    run_trial(study.ask(), context)
    assert synthetic.num_test_opened == 0


def test_promoted_trials_are_resumed_exactly(study: Any, context: Any) -> None:
    """Weights after three rungs are those of a run without rungs, to the bit."""
    trial = study.ask()
    run_trial(trial, context)
    values = context.settings.space.values(trial.params)
    whole = context.train(values, context.settings.trials, "whole")
    folder = context.settings.trials
    weights = [(folder / name / "model/model.safetensors").read_bytes() for name in ("0000", "whole")]
    assert weights[0] == weights[1]
    assert whole.steps == 4


def test_small_images_are_judged_at_their_size(study: Any, context: Any) -> None:
    trial = study.ask()
    run_trial(trial, context)
    assert [rung["image_size"] for rung in trial.user_attrs["rungs"]] == [6, 6, 8]


def test_statistics_of_a_rung_are_of_its_image_size(study: Any, context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of full-size images would make trials that begin with small ones look bad."""
    sizes, measure = [], trials.remeasured

    def watched(model: Any, batches: Any) -> Any:
        batches = list(batches)
        sizes.append([batch_BCHW.shape[-1] for batch_BCHW in batches])
        return measure(model, batches)

    monkeypatch.setattr(trials, "remeasured", watched)
    context = replace(
        context, settings=replace(context.settings, recipe=override(context.settings.recipe, {"norm_images": 10}))
    )
    run_trial(study.ask(), context)
    assert sizes == [[6], [6], []]


def test_trials_that_are_behind_stop(study: Any, context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run_trial(study.ask(), context)
    rung, worse = trials.measure_rung, iter([9.0])
    monkeypatch.setattr(trials, "measure_rung", lambda *arguments: rung(*arguments) | {"nll": next(worse)})
    trial = study.ask()
    with pytest.raises(optuna.TrialPruned):
        run_trial(trial, context)
    folder = context.settings.trials / "0001"
    assert [rung["steps"] for rung in trial.user_attrs["rungs"]] == [1]
    assert {path.name for path in folder.iterdir()} >= {"recipe.toml", "metrics.jsonl", "result.json", "checkpoints"}
    assert trial.user_attrs["cost"]["train_flops"] > 0
    assert trial.user_attrs["cost"]["seconds_total"] > 0


@pytest.mark.threat(80)
def test_a_dead_workers_trial_resumes(study: Any, context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its first number, from its last rung."""
    train, calls = trials.train, []

    def die_at_second_rung(recipe: Any, **named: Any) -> Any:
        calls.append((named["run"], recipe.max_steps, named["resume"]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(recipe, **named)

    monkeypatch.setattr(trials, "train", die_at_second_rung)
    first = study.ask()
    with pytest.raises(KeyboardInterrupt):
        run_trial(first, context)
    study.add_trial(
        optuna.create_trial(
            state=optuna.trial.TrialState.WAITING,
            params=first.params,
            distributions=first.distributions,
            user_attrs=first.user_attrs,
        )
    )
    again = [study.ask() for _ in range(3)][-1]
    run_trial(again, context)
    assert again.number == 3
    assert calls == [("0000", 1, False), ("0000", 2, True), ("0000", 2, True), ("0000", 4, True)]
    assert [rung["steps"] for rung in again.user_attrs["rungs"]] == [1, 2, 4]


def test_diverging_and_impossible_trials_do_not_stop_the_search(study: Any, context: Any, monkeypatch: Any) -> None:
    def diverge(*_: Any, **__: Any) -> None:
        raise NonFiniteError("loss nan", where="step 1")

    with monkeypatch.context() as patched:
        patched.setattr(trials, "train", diverge)
        trial = study.ask()
        with pytest.raises(optuna.TrialPruned):
            run_trial(trial, context)
    assert trial.user_attrs["error"] == "not finite, loss nan"
    assert trial.user_attrs["cost"]["steps"] == 1
    assert trial.user_attrs["cost"]["train_flops"] > 0
    big = override(context.settings.recipe, {"batch_size": 15})
    trial = study.ask()
    with pytest.raises(optuna.TrialPruned, match="batch_size 15"):
        run_trial(trial, replace(context, settings=replace(context.settings, recipe=big)))


def test_costs(context: Any) -> None:
    recipe = context.settings.recipe
    assert cost_of("params", recipe, context.hardware) == 1_391
    assert cost_of("bytes", recipe, context.hardware) == 4 * 1_391
    assert cost_of("macs", recipe, context.hardware) > 1_391
    threads = torch.get_num_threads()
    assert 0 < cost_of("latency", recipe, context.hardware) < 1000
    assert torch.get_num_threads() == threads
