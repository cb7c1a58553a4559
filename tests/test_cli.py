"""The command line: help, exit codes, one JSON object, and errors without a traceback."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocket_resnet import errors, verbs
from pocket_resnet.cli import main
from pocket_resnet.recipe import Recipe
from pocket_resnet.recipe_toml import to_toml
from pocket_resnet.training.run import train
from pocket_resnet.verbs import VERBS

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """run("summary", "original") gives exit code, standard output, standard error."""

    def run_main(*arguments: object) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_main


@pytest.fixture
def recipe_path(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(make_recipe()))
    return path


@pytest.fixture
def trained(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> Path:  # noqa: ARG001
    train(make_recipe(max_steps=1), runs_dir=tmp_path / "runs", run="r")
    return tmp_path / "runs" / "r"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_with_an_example(verb: str, run: Run) -> None:
    code, out, err = run(verb, "--help")
    assert (code, err) == (0, "")
    assert f"\npocket-resnet {verb} " in out.replace("│", "").replace("  ", "\n")
    assert f"usage: pocket-resnet {verb}" in out


def test_overview_names_every_verb(run: Run) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        assert all(f"  {verb} " in out for verb in VERBS)
        assert "pocket-resnet train fast --data digits" in out
    assert run("--version")[1].startswith("pocket-resnet 0.")


def test_help_and_summary_do_without_torch() -> None:
    """They answer at once because nothing heavy is imported for them."""
    code = f"""
import sys
from pocket_resnet.cli import main
for arguments in [*([verb, "--help"] for verb in {list(VERBS)}), ["--help"], ["summary", "original", "--json"]]:
    try:
        main(arguments)
    except SystemExit as error:
        assert not error.code, error.code
    heavy = {{"torch", "numpy", "PIL", "matplotlib", "safetensors", "requests"}} & sys.modules.keys()
    assert not heavy, (arguments, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_flag_is_usage(verb: str, run: Run) -> None:
    code, out, err = run(verb, *{"train": ["fast"], "predict": ["x", "y"]}.get(verb, ["x"]), "--no-such-flag")
    assert code == 2
    assert out == ""
    assert "--no-such-flag" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("flag", "meant"), [("--batchsize", "--batch-size"), ("--optim.lrr", "--optim.lr")])
def test_flags_near_a_known_one_are_suggested(flag: str, meant: str, run: Run) -> None:
    code, _, err = run("train", "fast", flag, "1")
    assert code == 2
    assert f"{meant} " in err


USAGE = {
    "verb": (("trian",), "unknown verb `trian`, did you mean `train`?"),
    "recipe": (("train", "fsat"), "unknown recipe `fsat`, did you mean `fast`?"),
    "recipe file": (("train", "none.toml"), "none.toml: no such recipe file"),
    "budget": (("train", "fast", "--budget", "5X"), "budget '5X' is not a number of parameters"),
    "range": (("train", "fast", "--optim.lr", "-1"), "`optim.lr` = -1.0: input should be greater"),
    "network": (("train", "fast", "--model.widths", "1", "2"), "stages must agree in number"),
    "data": (("data", "cifar11"), "cifar11: no data set and no folder of this name"),
    "data of train": (("train", "fast", "--data", "cifar11"), "cifar11: no data set"),
    "too small a budget": (("train", "fast", "--data", "digits", "--budget", "10"), "the smallest has"),
    "summary": (("summary", "orignal"), "'orignal' is no model directory, recipe or network"),
    "model": (("evaluate", "no-such-model"), "no-such-model: no model here"),
    "model to predict": (("predict", "no-such-model", "x.png"), "no-such-model: no model here"),
    "run name": (("train", "fast", "--data", "digits", "--run", "../x"), "not a plain folder name"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors(case: str, run: Run) -> None:
    """Exit code 2; two lines at most: what and where, how to mend it."""
    arguments, told = USAGE[case]
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("pocket-resnet: ")
    assert told in err
    assert err.count("\n") <= 2


def test_data_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    code, out, err = run("data", tmp_path / "pictures")
    assert (code, out) == (3, "")
    assert "cat" in err
    assert err.count("\n") == 2


def test_damaged_model(run: Run, trained: Path, picture: Path) -> None:
    weights = trained / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run("--version")  # what training said is read
    for arguments in (("evaluate", trained), ("predict", trained, picture), ("summary", trained)):
        code, out, err = run(*arguments)
        assert (code, out) == (4, "")
        assert "model.safetensors: damaged" in err
        assert err.endswith("\n  use a copy that is whole, or train again\n")
        assert err.count("\n") == 2


@pytest.mark.usefixtures("synthetic")
def test_environment_fault(run: Run, recipe_path: Path, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    code, out, err = run("train", recipe_path, "--runs-dir", tmp_path / "a file" / "runs")
    assert (code, out) == (5, "")
    assert "cannot write: Not a directory" in err


def test_unfinished_run(run: Run, trained: Path) -> None:
    (trained / "model" / "config.json").unlink()
    code, _, err = run("evaluate", trained)
    assert code == 2
    assert f"pocket-resnet train {trained}/recipe.toml --resume --run r --runs-dir {trained.parent}" in err


def test_debug_shows_where_it_came_from(run: Run) -> None:
    for arguments in (("--debug", "summary", "orignal"), ("summary", "orignal", "--debug")):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert "Traceback" in err
        assert "in find_spec" in err
        assert err.splitlines()[-2].startswith("pocket-resnet: ")


def test_interruption_outside_training(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs.Summary, "run_verb", interrupt)
    assert run("summary", "original") == (130, "", "pocket-resnet: stopped\n")


def test_every_error_has_its_code() -> None:
    codes = {kind.__name__: kind.exit_code for kind in errors.PocketError.__subclasses__()}
    expected = {"UsageError": 2, "DataError": 3, "ArtifactError": 4, "EnvironmentFault": 5, "NonFiniteError": 1}
    assert {name: codes[name] for name in expected} == expected
    assert errors.Stopped(15, "x").exit_code == 143


def test_summary(run: Run) -> None:
    assert "original: 4,697,742 parameters" in run("summary", "original")[1]
    found = json.loads(run("summary", "original", "--json")[1])
    assert found["num_params"] == 4_697_742
    assert found["num_bytes"] == 4 * 4_697_742
    assert found["num_macs"] > 0
    assert found["spec"]["num_blocks"] == [4, 4, 3]


def test_design(run: Run) -> None:
    """People get what it costs of what is allowed and the next command; --json the spec that this command trains."""
    code, out, _ = run("design", "--budget", "1M", "--max-macs", "50M")
    assert code == 0
    assert re.search(r"parameters +[\d,]+ \([\d.]+% of 1,000,000\)", out)
    assert re.search(r"multiply-adds +[\d,]+ \([\d.]+% of 50,000,000\)", out)
    assert "pocket-resnet train best --budget 1M --max-macs 50M" in out
    found = json.loads(run("design", "--budget", "1M", "--max-bytes", "1MB", "--json")[1])
    assert 0.97 * 250_000 <= found["num_params"] <= 250_000
    assert found["num_bytes"] == 4 * found["num_params"]
    assert {"num_macs", "spec", "reasons"} <= set(found)
    assert run("design", "--budget", "5X")[0] == 2
    code, out, _ = run("design", "--budget", "1M", "--epochs", "200")
    assert code == 0
    assert "3-3-3 basic blocks" in out
    assert "pocket-resnet train best --budget 1M --epochs 200" in out
    assert run("design", "--epochs", "0")[0] == 2


@pytest.mark.usefixtures("synthetic")
def test_train(run: Run, recipe_path: Path, tmp_path: Path) -> None:
    """Any key of the recipe is a flag; --json prints what result.json has, people get the next command to try."""
    arguments = ("train", recipe_path, "--no-report", "--runs-dir", tmp_path / "runs", "--run")
    code, out, err = run(*arguments, "a", "--json", "--max-steps", 3, "--optim.lr", 0.01, "--seed", 5)
    assert code == 0
    found = json.loads(out)
    assert found == json.loads((tmp_path / "runs/a/result.json").read_text())
    assert (found["steps"], found["seed"], found["model"]) == (3, 5, f"{tmp_path}/runs/a/model")
    assert "lr = 0.01\n" in (tmp_path / "runs/a/recipe.toml").read_text()
    assert "epoch 1/2" in err
    code, out, _ = run(*arguments, "b", "--budget", "2K", "--hardware.no-channels-last")
    assert code == 0
    assert f"pocket-resnet evaluate {tmp_path}/runs/b/model" in out.splitlines()[-1]
    assert 1_391 < json.loads((tmp_path / "runs/b/result.json").read_text())["num_params"] <= 2_000


@pytest.mark.usefixtures("synthetic")
def test_default_run_folders_do_not_collide(run: Run, recipe_path: Path, tmp_path: Path) -> None:
    arguments = ("train", recipe_path, "--no-report", "--runs-dir", tmp_path / "runs", "--max-steps")
    assert [run(*arguments, 1)[0], run(*arguments, 1)[0], run(*arguments, 2, "--resume")[0]] == [0, 0, 0]
    steps = {path.parent.name: json.loads(path.read_text())["steps"] for path in tmp_path.rglob("result.json")}
    assert steps == {"tiny-synthetic-seed0": 1, "tiny-synthetic-seed0-2": 2}


def test_evaluate(run: Run, trained: Path, tmp_path: Path, synthetic: Any) -> None:
    code, out, _ = run("evaluate", trained)
    assert code == 0
    assert "of 6 images, split val, single view" in out
    for arguments in (("--json",), ("--json", "-")):
        found = json.loads(run("evaluate", trained, *arguments)[1])
        expected = {"accuracy", "interval", "num_images", "split", "views", "per_class", "confusion", "nll", "ece"}
        assert found.keys() == expected
        assert found["per_class"].keys() == {"red", "green", "blue"}
    assert synthetic.num_test_opened == 0
    code, out, _ = run("evaluate", trained, "--json", tmp_path / "e.json", "--split", "test", "--views", 6)
    assert code == 0
    assert "of 5 images, split test, 6 views" in out
    found = json.loads((tmp_path / "e.json").read_text())
    assert (found["split"], found["views"], found["num_images"]) == ("test", 6, 5)
    assert synthetic.num_test_opened == 1
    assert run("evaluate", trained, "--views", 3)[0] == 2


def test_predict(run: Run, trained: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for name in ("b.png", "a.png"):
        (tmp_path / "many" / name).write_bytes(picture.read_bytes())
    code, out, _ = run("predict", trained, picture, tmp_path / "many", "--json", "--top", 2)
    assert code == 0
    rows = json.loads(out)
    assert [row["image"] for row in rows] == [str(picture), *(str(tmp_path / "many" / n) for n in ("a.png", "b.png"))]
    assert rows[0].keys() == {"image", "label", "probability", "top"}
    assert rows[0]["top"][0] == {"label": rows[0]["label"], "probability": rows[0]["probability"]}
    assert [len(row["top"]) for row in rows] == [2, 2, 2]
    assert all(row["probability"] == rows[0]["probability"] for row in rows)
    assert run("predict", trained, picture)[1].startswith(f"{picture}: ")


def test_predict_names_all_bad_files_and_tells_the_rest(run: Run, trained: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("<html>")
    code, out, err = run("predict", trained, tmp_path / "x.png", picture, tmp_path / "none.png", "--json")
    assert code == 3
    assert [row["image"] for row in json.loads(out)] == [str(picture)]
    assert "2 of 3 files cannot be read" in err
    assert "x.png: not an image" in err
    assert "none.png: cannot be read: No such file" in err
    (tmp_path / "empty").mkdir()
    assert run("predict", trained, tmp_path / "empty")[0] == 2
    assert run("predict", trained)[0] == 2
    for top in (0, -1):
        code, _, err = run("predict", trained, picture, "--top", top)
        assert code == 2
        assert "top" in err


def test_data(run: Run) -> None:
    found = json.loads(run("data", "digits", "--json")[1])
    assert found["num_images"] == {"train": 1197, "val": 300, "test": 300}
    code, out, _ = run("data", "digits", "--verify")
    assert code == 0
    assert "every file was read" in out


def test_reader_that_leaves_early() -> None:
    """`pocket-resnet summary original | head -1` is no error to speak of."""
    command = f"{sys.executable} -m pocket_resnet summary original | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
