"""Several workers, killed workers: every trial is trained once, none is lost."""

import multiprocessing
import os
import signal
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pocket_resnet.errors import EnvironmentFault, Stopped
from pocket_resnet.recipe.base import RecipeError
from pocket_resnet.tuning import studies, trials
from pocket_resnet.tuning.storage import JOURNAL_NAME, MAX_RETRIES, open_storage, quiet_optuna, repair_journal
from pocket_resnet.tuning.studies import number_of
from pocket_resnet.tuning.workers import Worker, Workers, run_worker

ENDED = ("COMPLETE", "PRUNED")


def runs_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*-seed*") if (path / "result.json").exists())


def ended(study: Any) -> Counter[int]:
    """How often each trial, by its number, has ended."""
    return Counter(number_of(trial) for trial in study.trials if trial.state.name in ENDED)


def test_one_worker(make_settings: Any, begin: Any, work: Any, let_win: Any) -> None:
    """The recipe's own values come first; at the end the winner is compared with the untuned recipe, seed by seed."""
    settings = make_settings()
    let_win(2)
    study = begin(settings)
    work(settings)
    assert ended(study) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert study.trials[0].params == settings.space.params(settings.recipe)
    assert runs_in(settings.finals) == [f"{name}-seed{seed}" for name in ("0002", "untuned") for seed in (1, 2, 3)]
    work(settings)  # nothing is left
    assert len(study.trials) == 4


def test_the_same_search_twice(make_settings: Any, begin: Any, work: Any, tmp_path: Any) -> None:
    params = []
    for name in ("a", "b"):
        settings = make_settings(folder=tmp_path / name, num_trials=3)
        study = begin(settings)
        work(settings)
        params.append([(trial.params, trial.state) for trial in study.trials])
    assert params[0] == params[1]
    assert len({str(each) for each, _ in params[0]}) == 3


@pytest.mark.threat(79)
def test_two_workers_share_a_search(make_settings: Any, begin: Any, work: Any, start_child: Any, let_win: Any) -> None:
    settings = make_settings(num_trials=7)
    let_win(3)
    study = begin(settings)
    children = [start_child(lambda index=index: work(settings, index)) for index in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert ended(study) == dict.fromkeys(range(7), 1)
    assert len({str(trial.params) for trial in study.trials if trial.state.name in ENDED}) == 7
    assert len({trial.user_attrs["worker"] for trial in study.trials if "worker" in trial.user_attrs}) == 2
    assert len(runs_in(settings.finals)) == 6


@pytest.mark.threat(80)
def test_a_killed_workers_trial_resumes(
    make_settings: Any, begin: Any, work: Any, start_child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 between two rungs: its trial is resumed under its number by another worker, and nothing is lost."""
    settings = make_settings(num_trials=3)
    study = begin(settings)
    train = trials.train

    def die(recipe: Any, **named: Any) -> Any:
        if named["run"] == "0001" and recipe.max_steps == 1:
            train(recipe, **named)
            os.kill(os.getpid(), signal.SIGKILL)
        return train(recipe, **named)

    with monkeypatch.context() as patched:
        patched.setattr(trials, "train", die)
        assert start_child(lambda: work(settings)).wait() == -signal.SIGKILL
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "RUNNING", "WAITING"]
    with quiet_optuna():
        studies.requeue(study, study.trials[1])
        studies.requeue(study, study.trials[1])  # another process saw it too
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "WAITING", "WAITING"]
    work(settings)
    assert ended(study) == {0: 1, 1: 1, 2: 1}
    assert study.trials[3].params == study.trials[1].params


@pytest.mark.threat(81)
def test_a_trial_that_kills_every_worker_is_named(make_settings: Any, begin: Any) -> None:
    study = begin(make_settings(num_trials=1))
    with quiet_optuna():
        for _ in range(MAX_RETRIES):
            study.ask()
            studies.requeue(study, study.trials[-1])
        study.ask()
        with pytest.raises(EnvironmentFault, match=f"trial 0 has ended its worker {MAX_RETRIES + 1} times") as refused:
            studies.requeue(study, study.trials[-1])
    assert "fewer --workers" in str(refused.value)


@pytest.mark.threat(80)
def test_a_second_interrupt_kills_the_workers_that_still_save() -> None:
    """In a program, it raises KeyboardInterrupt; no worker may train on in the background."""
    calls: list[str] = []

    def join(timeout: float | None = None) -> None:
        if timeout is not None:
            raise KeyboardInterrupt
        calls.append("join")

    process = SimpleNamespace(terminate=lambda: calls.append("terminate"), join=join, kill=lambda: calls.append("kill"))
    settings: Any = SimpleNamespace(request=SimpleNamespace(num_workers=0))
    workers: Any = Workers(settings)
    workers.running = {0: (process, None)}
    with pytest.raises(KeyboardInterrupt):
        workers.stop()
    assert calls == ["terminate", "kill", "join"]


@pytest.mark.threat(80)
def test_a_signal_puts_the_trial_back(make_settings: Any, begin: Any, work: Any, monkeypatch: Any) -> None:
    settings = make_settings(num_trials=2)
    study = begin(settings)

    def stop(*_: Any, **__: Any) -> None:
        raise Stopped(15, "stopped by SIGTERM")

    with monkeypatch.context() as patched:
        patched.setattr(trials, "train", stop)
        with pytest.raises(Stopped):
            work(settings)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING", "WAITING"]
    work(settings)
    assert ended(study) == {0: 1, 1: 1}


def test_a_worker_s_error_reaches_the_search_whole(
    make_settings: Any, begin: Any, start_child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one with more parts, such as that of a trial's recipe.toml that was edited."""
    settings = make_settings(num_trials=1)
    begin(settings)

    def refuse(*_: Any, **__: Any) -> None:
        raise RecipeError("optim.lr", "`optim.lr` is unknown", where="trials/0000/recipe.toml:3")

    monkeypatch.setattr(trials, "train", refuse)
    errors, theirs = multiprocessing.Pipe(duplex=False)
    child = start_child(lambda: run_worker(settings, 0, theirs))
    error = errors.recv()
    assert child.wait() == error.exit_code == 2
    assert isinstance(error, RecipeError)
    assert error.key == "optim.lr"
    assert str(error).startswith("trials/0000/recipe.toml:3: `optim.lr` is unknown\n")


@pytest.mark.threat(79)
def test_no_more_trials_than_asked_for(make_settings: Any, begin: Any) -> None:
    """Two workers may both see the last waiting trial: the second drops the extra one that Optuna creates."""
    study = begin(make_settings(num_trials=2))
    with quiet_optuna():
        trials = [study.ask() for _ in range(3)]
        studies.refuse_surplus(trials[1])
        with pytest.raises(studies.Surplus):
            studies.refuse_surplus(trials[2])
        study.set_user_attr("num_trials", 1)  # after --hours
        with pytest.raises(studies.Surplus):
            studies.refuse_surplus(trials[1])


@pytest.mark.threat(80)
def test_a_trial_that_never_began_is_given_up(make_settings: Any, begin: Any, work: Any, monkeypatch: Any) -> None:
    settings = make_settings(num_trials=2)
    study = begin(settings)
    with quiet_optuna():
        study.ask()  # whose worker is killed before it says so
    monkeypatch.setattr("pocket_resnet.tuning.workers.UNCLAIMED_S", 0.5)
    work(settings)
    assert ended(study) == {0: 1, 1: 1}
    assert study.trials[0].state.name == "FAIL"


def test_two_goals(make_settings: Any, begin: Any, work: Any) -> None:
    """All trials run to the end, none is over the budget, and there is no final comparison."""
    settings = make_settings()
    settings = make_settings(trade="params", space=settings.space.with_budgets_up_to(1_391))
    study = begin(settings)
    work(settings)
    costs = [trial.values[1] for trial in study.trials if trial.state.name == "COMPLETE"]
    assert costs
    assert max(costs) <= 1_391
    assert all(len(trial.user_attrs["rungs"]) == 1 for trial in study.trials if trial.state.name == "COMPLETE")
    assert not settings.finals.exists()


@pytest.mark.threat(82)
def test_a_torn_journal_is_repaired(make_settings: Any, begin: Any, work: Any) -> None:
    settings = make_settings(num_trials=2)
    begin(settings)
    path = settings.folder / JOURNAL_NAME
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 4, "work')
    repair_journal(settings)
    assert path.read_bytes() == whole
    work(settings)
    with quiet_optuna():
        assert ended(studies.load_study(settings.name, open_storage(settings))) == {0: 1, 1: 1}


@pytest.mark.threat(82)
def test_the_journal_s_lock_dies_with_its_process(make_settings: Any, begin: Any, start_child: Any) -> None:
    settings = make_settings()
    study = begin(settings)

    def die_inside() -> None:
        Worker(settings, 0).storage._backend._lock.acquire()  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGKILL)

    assert start_child(die_inside).wait() == -signal.SIGKILL
    with quiet_optuna():
        study.ask()
