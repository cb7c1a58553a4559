"""The final comparison: its candidates, its epochs, and when there is nothing to compare."""

import json
from typing import Any

import pytest

from pocket_resnet.errors import EnvironmentFault, NonFiniteError, PocketError
from pocket_resnet.tuning import trials
from pocket_resnet.tuning.finals import epochs_for, open_comparisons
from pocket_resnet.tuning.storage import open_storage, quiet_optuna
from pocket_resnet.tuning.summary import search_record
from pocket_resnet.tuning.trials import open_context


def record_of(settings: Any, study: Any) -> Any:
    context = open_context(settings)
    with quiet_optuna():
        return search_record(context, study, open_comparisons(context, open_storage(settings), study))


def test_an_untuned_winner_is_not_compared_with_itself(make_settings: Any, begin: Any, work: Any, let_win: Any) -> None:
    settings = make_settings(num_trials=2, equal_cost=True)
    study = begin(settings)
    let_win(0)
    work(settings)
    assert not settings.finals.exists()
    record = record_of(settings, study)
    assert record.best == 0
    assert (record.verdict.recommended, record.verdict.accuracy_difference) == ("untuned", None)
    assert record.recipe_names == ["untuned.toml"]


def test_tuned_and_untuned_with_the_same_seeds(make_settings: Any, begin: Any, work: Any, let_win: Any) -> None:
    settings = make_settings(num_trials=2)
    study = begin(settings)
    let_win(1)
    work(settings)
    record = record_of(settings, study)
    runs = [(run.candidate, run.seed) for run in record.finals]
    assert runs == [(candidate, seed) for candidate in ("tuned", "untuned") for seed in (1, 2, 3)]
    assert record.compared == ["untuned", "tuned"]
    assert record.longer_epochs is None
    untuned = next(run for run in record.finals if run.candidate == "untuned")
    assert untuned.cost.train_flops == record.training_flops
    assert record.verdict is not None


def test_more_trials_may_find_another_winner(make_settings: Any, begin: Any, work: Any, let_win: Any) -> None:
    """The runs of the first winner stay; those of the untuned recipe are not trained again."""
    settings = make_settings(num_trials=2)
    begin(settings)
    let_win(1)
    work(settings)
    before = (settings.finals / "untuned-seed1/result.json").read_bytes()
    settings = make_settings(num_trials=3)
    study = begin(settings)
    let_win(2)
    work(settings)
    record = record_of(settings, study)
    assert record.best == 2
    assert len(record.finals) == 6
    assert {"0001-seed1", "0002-seed1"} <= {path.name for path in settings.finals.iterdir()}
    assert (settings.finals / "untuned-seed1/result.json").read_bytes() == before


def test_equal_cost(make_settings: Any, begin: Any, work: Any, let_win: Any) -> None:
    """The untuned recipe is trained for what the trials and one training of the winner cost, within one epoch."""
    settings = make_settings(equal_cost=True)
    study = begin(settings)
    let_win(1)
    work(settings)
    record = record_of(settings, study)
    assert record.compared == ["untuned", "tuned", "longer"]
    tuned, longer = (
        next(run for run in record.finals if run.candidate == candidate) for candidate in ("tuned", "longer")
    )
    affordable = record.trials_flops + tuned.cost.train_flops
    assert affordable - record.training_flops / 2 <= longer.cost.train_flops <= affordable
    assert record.longer_epochs > 2
    run = settings.finals / f"untuned-{record.longer_epochs}-epochs-seed1"
    assert json.loads((run / "result.json").read_text())["recipe"] == "tiny"
    assert record.verdict.longer_difference is not None


@pytest.mark.parametrize(("factor", "epochs"), [(0.1, 1), (1, 2), (4.9, 9)])
def test_epochs_for_a_cost(context: Any, factor: float, epochs: int) -> None:
    assert epochs_for(int(factor * context.untuned_flops), context) == epochs


@pytest.fixture
def fail_once(monkeypatch: pytest.MonkeyPatch) -> Any:
    """fail_once("untuned-seed2", error) raises the error when that run of the final comparison begins, once."""
    train = trials.train

    def arm(run: str, error: PocketError) -> None:
        errors = [error]

        def failing(recipe: Any, **named: Any) -> Any:
            if named["run"] == run and errors:
                raise errors.pop()
            return train(recipe, **named)

        monkeypatch.setattr(trials, "train", failing)

    return arm


def test_a_run_that_failed_is_trained_when_the_search_resumes(
    make_settings: Any, begin: Any, work: Any, let_win: Any, fail_once: Any
) -> None:
    settings = make_settings(num_trials=2)
    study = begin(settings)
    let_win(1)
    fail_once("untuned-seed2", EnvironmentFault("the disk is full"))
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        work(settings)
    assert record_of(settings, study).verdict is None
    work(settings)
    record = record_of(settings, study)
    assert len(record.finals) == 6
    assert record.verdict is not None


@pytest.mark.parametrize(
    ("run", "diverged", "recommended"), [("0001", "tuned", "untuned"), ("untuned", "untuned", "tuned")]
)
def test_a_candidate_that_diverges_is_not_recommended(
    run: str, diverged: str, recommended: str, make_settings: Any, begin: Any, work: Any, let_win: Any, fail_once: Any
) -> None:
    settings = make_settings(num_trials=2)
    study = begin(settings)
    let_win(1)
    fail_once(f"{run}-seed2", NonFiniteError("loss nan"))
    work(settings)
    record = record_of(settings, study)
    assert len(record.finals) == 5
    assert (record.verdict.diverged, record.verdict.recommended) == (diverged, recommended)
    assert record.recipe_names == [{"tuned": "best.toml"}.get(recommended, "untuned.toml")]
