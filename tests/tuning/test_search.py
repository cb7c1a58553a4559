"""A whole search as the command does it: its own processes, the digits, a network of 1,454 parameters."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.io.locks import lock_folder
from pocket_resnet.recipe.toml import load_recipe
from pocket_resnet.tuning.search import Request, prepare, search

pytestmark = pytest.mark.timeout(600)  # processes that import torch, a dozen of them

SPACE = """
[optim]
lr = { low = 0.01, high = 0.2, log = true }
[model]
num_blocks = { choices = [[1, 1], [2, 2]] }
"""


@pytest.fixture
def recipe(digits_recipe: Path) -> Path:
    """A recipe with a space beside it."""
    digits_recipe.with_suffix(".space.toml").write_text(SPACE)
    return digits_recipe


@pytest.fixture
def command(recipe: Path, tmp_path: Path) -> Callable[..., tuple[object, ...]]:
    def arguments(*more: object) -> tuple[object, ...]:
        return "search", recipe, "--dir", tmp_path / "s", *more

    return arguments


def test_from_trials_to_the_report(command: Any, run: Any, tmp_path: Path) -> None:
    """Two workers; no trial is over the untuned network's size; the best recipe can be trained as it is."""
    code, out, err = run(*command("--trials", 5, "--workers", 2))
    assert code == 0, err
    found = json.loads((tmp_path / "s/search.json").read_text())
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2, 3, 4]
    assert {trial["outcome"] for trial in found["trials"]} <= {"complete", "pruned"}
    assert set(found["space"]) == {"optim.lr", "model.num_blocks"}
    untuned = json.loads((tmp_path / "s/finals/untuned-seed1/result.json").read_text())
    assert all(trial["cost"]["num_params"] <= untuned["num_params"] for trial in found["trials"])
    assert all(trial["cost"]["train_flops"] > 0 for trial in found["trials"])
    assert "untuned " in out
    assert "verdict " in out
    assert "trial 0 (" in err
    best = load_recipe(str(tmp_path / "s/best.toml"))
    won = found["trials"][found["best"]]
    assert best.optim.lr == won["values"]["optim.lr"]
    assert best.max_steps is None
    first = (tmp_path / "s/best.toml").read_text().splitlines()[0]
    assert first.startswith(
        f"# s-{won['number']:04d}: trial {won['number']} of the search `s`, written by PocketResNet "
    )
    page = (tmp_path / "s/report.html").read_text()
    assert "Tuned against untuned" in page
    assert {path.name for path in (tmp_path / "s/plots").iterdir()} == {"history.png", "parallel.png"} | (
        {"importance.png"} if found["importance"] else set()
    )
    code, _, err = run(*command("--trials", 5))
    assert (code, "this search already exists" in err) == (2, True)
    code, out, _ = run(*command("--trials", 5, "--resume", "--json", "--no-report"))
    assert (code, json.loads(out)) == (0, found)
    code, _, err = run(*command("--resume", "--optim.momentum", 0.5))
    assert code == 2
    assert "the search began with other settings: optim.momentum: 0.9 -> 0.5" in err


@contextmanager
def started(arguments: tuple[object, ...], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """The real command, which does not outlive the block."""
    command = [sys.executable, "-m", "pocket_resnet", *map(str, arguments)]
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_trials(folder: Path, count: int) -> None:
    deadline_s = time.monotonic() + 400
    while len(list(folder.glob("trials/0*/result.json"))) < count:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_resumed(command: Any, run: Any, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and kill -9 of the search lose no ended trial; its workers end with it; --resume goes on."""
    with started(command("--trials", 4, "--no-report", "--epochs", 4), tmp_path) as process:
        wait_for_trials(tmp_path / "s", 2)
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    if number == signal.SIGINT:
        assert "stopped by SIGINT after" in err
        assert "--resume" in err
    before = {path: path.read_bytes() for path in tmp_path.glob("s/trials/0*/train_digests.u64")}
    code, _, err = run(*command("--trials", 4, "--no-report", "--epochs", 4, "--resume"))
    assert code == 0, err
    found = json.loads((tmp_path / "s/search.json").read_text())
    assert [trial["number"] for trial in found["trials"]] == list(range(4))
    assert {trial["outcome"] for trial in found["trials"]} <= {"complete", "pruned"}
    assert before.keys() <= set(tmp_path.glob("s/trials/0*/train_digests.u64"))
    assert len(list(tmp_path.glob("s/trials/0*"))) == 4


@pytest.mark.slow
def test_a_killed_worker_is_replaced(command: Any, tmp_path: Path) -> None:
    with started(command("--trials", 3, "--no-report", "--epochs", 4), tmp_path) as process:
        wait_for_trials(tmp_path / "s", 1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(int(workers[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    found = json.loads((tmp_path / "s/search.json").read_text())
    assert [trial["number"] for trial in found["trials"]] == list(range(3))


def test_two_goals(command: Any, run: Any, tmp_path: Path) -> None:
    """The front has a recipe for each of its trials, none of which beats another; all are within the budget."""
    code, out, err = run(*command("--trials", 5, "--trade", "params"))
    assert code == 0, err
    found = json.loads((tmp_path / "s/search.json").read_text())
    front = [found["trials"][number] for number in found["front"]]
    assert front
    costs = [trial["trade"] for trial in front]
    accuracies = [trial["rungs"][-1]["accuracy"] for trial in front]
    assert costs == sorted(costs)
    assert accuracies == sorted(accuracies)
    assert {path.stem for path in (tmp_path / "s/front").iterdir()} == {f"{number:04d}" for number in found["front"]}
    assert "front/" in out
    assert found["finals"] == []
    assert (tmp_path / "s/plots/front.png").exists()


def test_hours_end_a_search(command: Any, run: Any, tmp_path: Path) -> None:
    code, _, err = run(*command("--trials", 500, "--hours", 0.001, "--no-report"))
    assert code == 0, err
    assert "no new trial begins" in err
    found = json.loads((tmp_path / "s/search.json").read_text())
    assert found["num_trials"] == len(found["trials"]) < 500


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"num_trials": 0}, "--trials 0 is not above 0"),
        ({"num_workers": -1}, "--workers -1"),
        ({"hours": 0.0}, "--hours 0.0"),
        ({"hours": float("nan")}, "--hours nan"),
        ({"trade": "latency", "num_workers": 2}, "needs the machine to itself"),
        ({"trade": "latency", "storage": "postgresql://h/d"}, "needs the machine to itself"),
    ],
)
def test_meaningless_requests(changes: dict[str, Any], what: str, make_recipe: Any) -> None:
    with pytest.raises(UsageError, match=what):
        search(Request(make_recipe(), **changes))


def test_validation_images_must_be_left(make_recipe: Any) -> None:
    with pytest.raises(UsageError, match="leaves no validation images"):
        search(Request(make_recipe(data={"train_on": "trainval"})))


def test_a_search_in_use(digits_recipe: Path, tmp_path: Path) -> None:
    request = Request(load_recipe(str(digits_recipe)), folder=tmp_path / "s")
    with lock_folder(tmp_path / "s"), pytest.raises(EnvironmentFault, match="choose another --dir"):
        search(request)


def test_no_trial_may_exceed_the_untuned_network(digits_recipe: Path, tmp_path: Path) -> None:
    request = Request(load_recipe(str(digits_recipe)), folder=tmp_path / "s")
    settings, _ = prepare(request)
    assert settings.recipe.budget == "1454"
    assert settings.recipe.hardware.num_threads == 1
    traded, _ = prepare(replace(request, trade="macs"))
    assert traded.space.to_json()["budget"] == {"low": 90, "high": 1454, "log": True}


def test_a_missing_extra_is_one_line(command: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocket_resnet.tuning.settings.find_spec", lambda name: None if name == "optuna" else object())
    code, out, err = run(*command())
    assert (code, out) == (5, "")
    assert err == "pocket-resnet: search needs optuna, which is not installed\n  pip install 'pocket-resnet[search]'\n"
