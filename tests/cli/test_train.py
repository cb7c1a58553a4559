"""What `train` adds to a run: its report, and with `--export` its model as a file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import pocket_resnet
from pocket_resnet import extras
from pocket_resnet.exporting import parity
from pocket_resnet.exporting.exported_model import open_exported
from pocket_resnet.model.artifact import load_card
from pocket_resnet.recipe.toml import load_recipe

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(recipe_path: Path, pictures: Path, tmp_path: Path) -> tuple[object, ...]:
    """Two steps on ten pictures of each of two classes."""
    words = ("train", recipe_path, "--data", pictures, "--max-steps", 2, "--min-steps", 0, "--no-report")
    return (*words, "--runs-dir", tmp_path, "--run", "r", "--export")


def test_the_file_is_the_models(run: Run, command: tuple[object, ...], tmp_path: Path) -> None:
    """The text compares the file with the model before the next command to try."""
    code, out, err = run(*command, "onnx-int8")
    assert code == 0, err
    exported = open_exported(tmp_path / "r" / "r-int8.onnx")
    assert exported.class_names == pocket_resnet.load(tmp_path / "r").card.class_names == ("blue", "red")
    assert exported.metadata["precision"] == "int8, target any"
    assert f"file        {tmp_path}/r/r-int8.onnx\n" in out
    assert "agreement   100.00% of " in out
    assert out.splitlines()[-1].startswith("next ")


def test_a_resumed_run_is_exported_too(run: Run, command: tuple[object, ...], tmp_path: Path) -> None:
    """Also a run with nothing left to train; --json names the file and its figures."""
    assert run(*command[:-1], "--max-steps", 1)[0] == 0
    for choice, name in [("onnx-fp16", "r-fp16.onnx"), ("web-int8", "r-int8.html")]:
        code, out, err = run(*command, choice, "--resume", "--json")
        assert code == 0, err
        printed = json.loads(out)
        assert printed["steps"] == 2
        assert printed["report"] is None
        assert printed["exported"]["file"] == str(tmp_path / "r" / name)
        assert printed["exported"]["num_bytes"] == (tmp_path / "r" / name).stat().st_size


def test_the_report_needs_no_second_evaluation(
    run: Run, command: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the report that `report` writes, which measures again."""
    words = [word for word in command[:-1] if word != "--no-report"]
    with monkeypatch.context() as forbidden:
        forbidden.setattr("pocket_resnet.training.saved_run.evaluate", None)
        code, _, err = run(*words)
        assert (code, err.count("no report")) == (0, 0), err
    page = tmp_path / "r" / "report.html"
    after_training = page.read_bytes()
    page.unlink()
    assert run("report", tmp_path / "r")[0] == 0
    assert page.read_bytes() == after_training


def test_json_names_the_report(run: Run, command: tuple[object, ...], tmp_path: Path) -> None:
    """On standard output and in the file of --out."""
    words = [word for word in command[:-1] if word != "--no-report"]
    code, out, err = run(*words, "--json", "--out", tmp_path / "r.json")
    assert code == 0, err
    printed = json.loads(out)
    assert printed == json.loads((tmp_path / "r.json").read_text())
    assert printed["report"] == str(tmp_path / "r" / "report.html")
    assert Path(printed["report"]).exists()
    assert printed["exported"] is None


def test_pte(run: Run, command: tuple[object, ...], tmp_path: Path) -> None:
    pytest.importorskip("executorch.runtime", reason="executorch is not installed")
    code, _, err = run(*command, "pte-fp32")
    assert code == 0, err
    assert (tmp_path / "r" / "r-fp32.pte").exists()


def test_a_failed_export_does_not_lose_the_run(
    run: Run, command: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        never = parity.Limit(largest_difference=-1, agreement=1, loss=0)
        patch.setattr(parity, "LIMITS", {"int8": never})
        code, out, err = run(*command, "onnx-int8", "--json")
    assert code == 4
    assert (json.loads(out)["steps"], json.loads(out)["exported"]) == (2, None)
    assert f"{tmp_path}/r: the run is finished and saved, but not exported" in err
    assert "the int8 file differs from the model" in err
    assert not list(tmp_path.rglob("*.onnx"))
    assert run("evaluate", tmp_path / "r")[0] == 0
    assert run(*command, "onnx-int8", "--resume")[0] == 0
    assert (tmp_path / "r" / "r-int8.onnx").exists()


def test_without_the_extra_nothing_is_trained(
    run: Run, command: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    for choice, extra in [("onnx-int8", "export"), ("pte-int8", "executorch")]:
        code, _, err = run(*command, choice)
        assert code == 5
        assert f"pip install 'pocket-resnet[{extra}]'" in err
        assert not (tmp_path / "r").exists()


def test_an_unknown_format(run: Run, command: tuple[object, ...], tmp_path: Path) -> None:
    code, out, err = run(*command, "onnx-int4")
    assert code == 2
    assert "onnx-int8" in out + err
    assert not (tmp_path / "r").exists()


def test_without_recipe_a_resumed_run_uses_its_own(run: Run, command: tuple[object, ...], tmp_path: Path) -> None:
    """With its data; other flags and keywords are changes, as in any resumed run."""
    place = ("--runs-dir", tmp_path, "--run", "r", "--no-report")
    assert run(*command[:-1], "--max-steps", 1)[0] == 0
    code, out, err = run("train", "--resume", *place, "--max-steps", 2, "--json")
    assert code == 0, err
    assert json.loads(out)["steps"] == 2
    code, _, err = run("train", "--resume", *place, "--optim.momentum", 0.25)
    assert code == 2
    assert "the recipe has changed since this run began: optim.momentum: 0.9 -> 0.25\n" in err
    assert run("train", "--fork", *place, "--optim.momentum", 0.25, "--max-steps", 3)[0] == 0
    result = pocket_resnet.train(runs_dir=tmp_path, run="r", resume=True, max_steps=4, progress=False)
    assert (result.steps, result.recipe) == (4, json.loads(out)["recipe"])


def test_another_model_than_the_recipes(
    run: Run, command: tuple[object, ...], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A saved recipe has its model's SHA-256. A new run or a fork may use another model, a resumed run may not."""
    monkeypatch.chdir(tmp_path)
    place = ("--data", pictures, "--runs-dir", tmp_path, "--min-steps", 0, "--batch-size", 4, "--no-report", "--run")
    assert run(*command[:-1])[0] == 0
    for name in ("one", "two"):
        code, _, err = run("train", "--from", tmp_path / "r", *place, name, "--max-steps", 1)
        assert code == 0, err
    saved = tmp_path / "two" / "recipe.toml"
    for number, flag in enumerate(("--from", "--pretrained.model")):
        code, _, err = run("train", saved, *place, f"new-{number}", flag, tmp_path / "one")
        assert code == 0, err
        code, _, err = run("train", "--resume", *place, "two", flag, tmp_path / "one", "--max-steps", 5)
        assert code == 2
        assert f"the recipe has changed since this run began: pretrained.model: {tmp_path}/r/model -> " in err
        code, _, err = run("train", "--fork", *place, f"new-{number}", flag, tmp_path / "r", "--max-steps", 2)
        assert code == 0, err
        assert load_card(tmp_path / f"new-{number}" / "model").steps == 2
    Path("based.toml").write_text(f'base = "{saved}"\n[pretrained]\nmodel = "one"\n')
    for recipe, model in (("based.toml", {}), (saved, {"pretrained__model": tmp_path / "one"})):
        result = pocket_resnet.train(recipe, runs_dir=tmp_path, run=f"by-{len(model)}", progress=False, **model)
        assert load_recipe(str(Path(result.model).parent / "recipe.toml")).pretrained.model == f"{tmp_path}/one/model"


def test_a_model_whose_weights_have_changed(
    run: Run, command: tuple[object, ...], pictures: Path, tmp_path: Path
) -> None:
    """It is refused under its old name, unless a new run names it."""
    place = ("--data", pictures, "--runs-dir", tmp_path, "--min-steps", 0, "--batch-size", 4, "--no-report", "--run")
    assert run(*command[:-1])[0] == 0
    start = ("train", "--from", tmp_path / "r")
    assert run(*start, *place, "one", "--max-steps", 1)[0] == 0
    shutil.rmtree(tmp_path / "r" / "model")
    shutil.copytree(tmp_path / "one" / "model", tmp_path / "r" / "model")
    saved = tmp_path / "one" / "recipe.toml"
    for words in (("train", "--resume", *place, "one"), ("train", saved, *place, "two")):
        code, _, err = run(*words)
        assert code == 2
        assert "the model's weights have changed" in err
    code, _, err = run(*start, "--resume", *place, "one", "--max-steps", 2)
    assert code == 2
    assert "the recipe has changed since this run began: pretrained.sha256: " in err
    assert run("train", saved, "--from", tmp_path / "r", *place, "two")[0] == 0
