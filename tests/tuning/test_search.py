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
from pocket_resnet.model.counts import num_params
from pocket_resnet.recipe.toml import load_recipe, with_choices
from pocket_resnet.tuning.search import first_trial, prepare, search
from pocket_resnet.tuning.settings import Request

pytestmark = pytest.mark.timeout(600)  # processes that import torch, a dozen of them

SPACE = """
[optim]
lr = { low = 0.06, high = 0.2, log = true }  # without the recipe's 0.05, so no trial is the untuned recipe
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


@pytest.mark.threat(78)
def test_from_trials_to_the_report(command: Any, run: Any, tmp_path: Path) -> None:
    """Two workers; no trial is over the untuned network's size; the best recipe can be trained as it is."""
    code, out, err = run(*command("--trials", 5, "--workers", 2))
    assert code == 0, err
    record = json.loads((tmp_path / "s/search.json").read_text())
    assert [trial["number"] for trial in record["trials"]] == [0, 1, 2, 3, 4]
    assert {trial["outcome"] for trial in record["trials"]} <= {"complete", "pruned"}
    assert set(record["space"]) == {"optim.lr", "model.num_blocks"}
    untuned = json.loads((tmp_path / "s/finals/untuned-seed1/result.json").read_text())
    assert all(trial["cost"]["num_params"] <= untuned["num_params"] for trial in record["trials"])
    assert all(trial["cost"]["train_flops"] > 0 for trial in record["trials"])
    assert "untuned " in out
    assert "verdict " in out
    recommended = {"tuned": "best.toml", "untuned": "untuned.toml"}[record["verdict"]["recommended"]]
    assert f"next        pocket-resnet train {tmp_path / 's' / recommended}\n" in out
    assert "trial 0 (" in err
    best = load_recipe(str(tmp_path / "s/best.toml"))
    won = record["trials"][record["best"]]
    assert best.optim.lr == won["values"]["optim.lr"]
    assert best.max_steps is None
    first = (tmp_path / "s/best.toml").read_text().splitlines()[0]
    assert first.startswith(
        f"# s-{won['number']:04d}: trial {won['number']} of the search `s`, written by PocketResNet "
    )
    page = (tmp_path / "s/report.html").read_text()
    assert "Tuned against untuned" in page
    assert {path.name for path in (tmp_path / "s/plots").iterdir()} == {"history.png", "parallel.png"} | (
        {"importance.png"} if record["importance"] else set()
    )
    code, _, err = run(*command("--trials", 5))
    assert (code, "this search already exists" in err) == (2, True)
    code, out, _ = run(*command("--trials", 5, "--resume", "--json", "--no-report"))
    assert (code, json.loads(out)) == (0, record)
    code, _, err = run(*command("--resume", "--optim.momentum", 0.5))
    assert code == 2
    assert "the search began with other settings: optim.momentum: 0.9 -> 0.5" in err


def test_the_untuned_recipe_wins(digits_recipe: Path, run: Any, tmp_path: Path) -> None:
    """Nothing is compared; output, record, report and the next command recommend the untuned recipe, also resumed."""
    (tmp_path / "space.toml").write_text("label_smoothing = { low = 0.0, high = 0.3 }")
    words = "search", digits_recipe, "--trials", 1, "--dir", tmp_path / "s", "--space", tmp_path / "space.toml"
    for again in ((), ("--resume",)):
        code, out, err = run(*words, *again)
        assert code == 0, err
        assert "verdict     no trial beat the untuned recipe: stay with the untuned recipe\n" in out
        assert f"next        pocket-resnet train {tmp_path / 's/untuned.toml'}\n" in out
        assert not (tmp_path / "s/finals").exists()
    record = json.loads((tmp_path / "s/search.json").read_text())
    assert record["finals"] == []
    assert record["verdict"]["recommended"] == "untuned"
    assert record["trials_flops"] == record["training_flops"] > 0
    assert "No trial beat the untuned recipe" in (tmp_path / "s/report.html").read_text()
    assert "# This is the untuned recipe: no trial beat it." in (tmp_path / "s/best.toml").read_text()
    assert load_recipe(str(tmp_path / "s/untuned.toml")).label_smoothing == 0.1


PROGRAM = """
import sys
import pocket_resnet
print("started")
result = pocket_resnet.search(sys.argv[1], trials=2, dir="s", epochs=1, label_smoothing=0.05)
print(result.best.number, result.verdict.recommended, result.recipes[0], result.front)
"""


def test_a_program_without_a_main_guard(recipe: Path, tmp_path: Path) -> None:
    """Workers do not run the script again; the recipe's own space and the changes apply."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(recipe)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "s/search.json").read_text())
    recommended = record["verdict"]["recommended"]
    path = {"tuned": "s/best.toml", "untuned": "s/untuned.toml"}[recommended]
    assert done.stdout == f"started\n{record['best']} {recommended} {path} []\n"
    assert set(record["space"]) == {"optim.lr", "model.num_blocks"}
    assert "label_smoothing = 0.05" in (tmp_path / path).read_text()


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


@pytest.mark.threat(80)
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_resumed(command: Any, run: Any, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and kill -9 of the search lose no ended trial; its workers end with it; --resume continues."""
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
    record = json.loads((tmp_path / "s/search.json").read_text())
    assert [trial["number"] for trial in record["trials"]] == list(range(4))
    assert {trial["outcome"] for trial in record["trials"]} <= {"complete", "pruned"}
    assert before.keys() <= set(tmp_path.glob("s/trials/0*/train_digests.u64"))
    assert len(list(tmp_path.glob("s/trials/0*"))) == 4


@pytest.mark.threat(80)
@pytest.mark.slow
def test_a_killed_worker_is_replaced(command: Any, tmp_path: Path) -> None:
    with started(command("--trials", 3, "--no-report", "--epochs", 4), tmp_path) as process:
        wait_for_trials(tmp_path / "s", 1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(int(workers[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    record = json.loads((tmp_path / "s/search.json").read_text())
    assert [trial["number"] for trial in record["trials"]] == list(range(3))


@pytest.mark.parametrize(
    ("trade", "unit"),
    [
        ("latency", "milliseconds"),
        ("params", "parameters"),
        pytest.param("macs", "multiply-adds", marks=pytest.mark.slow),
        pytest.param("bytes", "bytes", marks=pytest.mark.slow),
    ],
)
def test_two_goals(command: Any, run: Any, tmp_path: Path, trade: str, unit: str) -> None:
    """The front has a recipe for each of its trials, none of which beats another; all are within the budget."""
    code, out, err = run(*command("--trials", 4, "--trade", trade))
    assert code == 0, err
    record = json.loads((tmp_path / "s/search.json").read_text())
    front = [record["trials"][number] for number in record["front"]]
    assert front
    costs = [trial["trade"] for trial in front]
    accuracies = [trial["rungs"][-1]["accuracy"] for trial in front]
    assert costs == sorted(costs)
    assert accuracies == sorted(accuracies)
    assert record["finals"] == []
    recipes = {tmp_path / f"s/front/{trial['number']:04d}.toml": trial for trial in front}
    assert set((tmp_path / "s/front").iterdir()) == set(recipes)
    table = out.partition("recipe")[2]
    assert unit in table
    for path, trial in recipes.items():
        assert f"{path} " in table
        assert num_params(load_recipe(str(path)).model) == trial["cost"]["num_params"] <= 1_454
    assert (tmp_path / "s/plots/front.png").exists()
    assert "front/" in (tmp_path / "s/report.html").read_text()


def test_hours_end_a_search(command: Any, run: Any, tmp_path: Path) -> None:
    code, _, err = run(*command("--trials", 500, "--hours", 0.001, "--no-report"))
    assert code == 0, err
    assert "no new trial begins" in err
    record = json.loads((tmp_path / "s/search.json").read_text())
    assert record["num_trials"] == len(record["trials"]) < 500


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"num_trials": 0}, "--trials 0 is not above 0"),
        ({"num_workers": -1}, "--workers -1"),
        ({"hours": 0.0}, "--hours 0.0"),
        ({"hours": float("nan")}, "--hours nan"),
        ({"trade": "speed"}, "--trade 'speed' is unknown"),
        ({"trade": "macs", "equal_cost": True}, "--equal-cost"),
        ({"trade": "latency", "num_workers": 2}, "needs the machine to itself"),
        ({"trade": "latency", "storage": "postgresql://h/d"}, "needs the machine to itself"),
    ],
)
def test_invalid_requests(changes: dict[str, Any], what: str, make_recipe: Any) -> None:
    with pytest.raises(UsageError, match=what):
        search(Request(make_recipe(), **changes))


def test_equal_cost_needs_epochs_that_count(make_recipe: Any) -> None:
    with pytest.raises(UsageError, match="--equal-cost trains the untuned recipe for more epochs"):
        search(Request(make_recipe(max_steps=3), equal_cost=True))


def test_validation_images_must_be_left(make_recipe: Any) -> None:
    with pytest.raises(UsageError, match="leaves no validation images"):
        search(Request(make_recipe(data={"train_on": "trainval"})))


def test_a_search_in_use(digits_recipe: Path, tmp_path: Path) -> None:
    request = Request(load_recipe(str(digits_recipe)), folder=tmp_path / "s")
    with lock_folder(tmp_path / "s"), pytest.raises(EnvironmentFault, match="choose another --dir"):
        search(request)


@pytest.mark.threat(78)
def test_no_trial_may_exceed_the_untuned_network(digits_recipe: Path, tmp_path: Path) -> None:
    request = Request(load_recipe(str(digits_recipe)), folder=tmp_path / "s")
    settings, _ = prepare(request)
    assert settings.recipe.budget == "1454"
    assert settings.recipe.hardware.num_threads == 1
    traded, _ = prepare(replace(request, trade="macs"))
    assert traded.space.to_json()["budget"] == {"low": 90, "high": 1454, "log": True}


def test_the_first_trial_is_what_the_dial_chooses(tmp_path: Path) -> None:
    """Not the recipe's values before the dial; also with two goals."""
    recipe = with_choices(load_recipe("best"), {"data.name": "digits", "budget": "50K", "epochs": 10})
    for trade in (None, "macs"):
        settings, context = prepare(Request(recipe, trade=trade, folder=tmp_path / "s"))
        first = settings.space.values(first_trial(context))
        assert first.keys() == settings.space.dimensions.keys()
        assert context.fitted(first).model == context.untuned.model
        assert context.fitted(first).train_image_sizes == context.untuned.train_image_sizes != ()


def test_a_missing_extra_is_one_line(command: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocket_resnet.extras.find_spec", lambda name: None if name == "optuna" else object())
    code, out, err = run(*command())
    assert (code, out) == (5, "")
    assert err == "pocket-resnet: search needs optuna, which is not installed\n  pip install 'pocket-resnet[search]'\n"
