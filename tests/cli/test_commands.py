"""What each name prints and writes: lines for people, one JSON object for scripts."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

import pocket_resnet
from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.source import SplitName
from pocket_resnet.inference import predict
from pocket_resnet.inference.classifier import Prediction
from pocket_resnet.inference.predict import FilePrediction

Run = Callable[..., tuple[int, str, str]]


def test_summary(run: Run) -> None:
    assert "original: 4,697,742 parameters" in run("summary", "original")[1]
    summary = json.loads(run("summary", "original", "--json")[1])
    assert summary["num_params"] == 4_697_742
    assert summary["num_bytes"] == 4 * 4_697_742
    assert summary["num_macs"] > 0
    assert summary["spec"]["num_blocks"] == [4, 4, 3]


def test_design(run: Run) -> None:
    """The text shows costs against limits and the next command; --json has the spec that the command trains."""
    code, out, _ = run("design", "--budget", "1M", "--max-macs", "50M")
    assert code == 0
    assert re.search(r"parameters +[\d,]+ \([\d.]+% of 1,000,000\)", out)
    assert re.search(r"multiply-adds +[\d,]+ per image \([\d.]+% of 50,000,000\)", out)
    assert "pocket-resnet train best --budget 1M --max-macs 50M" in out
    design = json.loads(run("design", "--budget", "1M", "--max-bytes", "1MB", "--json")[1])
    assert 0.97 * 250_000 <= design["num_params"] <= 250_000
    assert design["num_bytes"] == 4 * design["num_params"]
    assert design["limits"] == {"parameters": 1_000_000, "bytes": 1_000_000}
    out = run("design", "--budget", "1M", "--max-bytes", "1MB", "--epochs", "10")[1]
    assert re.search(r"parameters +[\d,]+ \(2[45]\.\d% of 1,000,000\)", out)
    assert re.search(r"bytes +[\d,]+ of fp32 weights \((9[789]\.\d|100\.0)% of 1,000,000\)", out)
    assert (
        "`best` uses this shape for 5 to 30 epochs: the most accurate of three that we trained for 6 and for 10" in out
    )
    assert {"num_macs", "spec", "reasons"} <= set(design)
    assert run("design", "--budget", "5X")[0] == 2
    code, out, _ = run("design", "--budget", "1M", "--epochs", "200")
    assert code == 0
    assert "3-3-3 basic blocks" in out
    assert "pocket-resnet train best --budget 1M --epochs 200" in out
    assert run("design", "--epochs", "0")[0] == 2


@pytest.mark.usefixtures("synthetic")
def test_train(run: Run, recipe_path: Path, tmp_path: Path) -> None:
    """Any recipe key is a flag; --json prints result.json and more; the text ends with the next command to try."""
    arguments = ("train", recipe_path, "--no-report", "--runs-dir", tmp_path / "runs", "--run")
    code, out, err = run(*arguments, "a", "--json", "--max-steps", 3, "--optim.lr", 0.01, "--seed", 5)
    assert code == 0
    result = json.loads(out)
    extras = {"report": None, "exported": None}
    assert result == json.loads((tmp_path / "runs/a/result.json").read_text()) | extras
    assert (result["steps"], result["seed"], result["model"]) == (3, 5, f"{tmp_path}/runs/a/model")
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


@pytest.mark.usefixtures("synthetic")
def test_a_failing_report_is_logged_and_debug_shows_the_traceback(
    run: Run, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training has succeeded, so the exit code is 0."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no ink\nat all")

    monkeypatch.setattr("pocket_resnet.reporting.report.write_report", fail)
    arguments = ("train", recipe_path, "--runs-dir", tmp_path / "runs", "--max-steps", 1, "--run")
    code, out, err = run(*arguments, "a")
    [line] = [line for line in err.splitlines() if "no report" in line]
    assert code == 0
    again = f"pocket-resnet report {tmp_path}/runs/a"
    assert line == f"no report: RuntimeError: no ink (--debug shows where) (try again: {again})"
    assert "Traceback" not in err
    assert "report  " not in out
    code, out, err = run(*arguments, "b", "--debug", "--json")
    assert code == 0
    assert "Traceback" in err
    assert ", in fail" in err
    assert "no report: RuntimeError" in err
    assert (json.loads(out)["model"], json.loads(out)["report"]) == (f"{tmp_path}/runs/b/model", None)


def test_evaluate(run: Run, trained: Path, tmp_path: Path, synthetic: Any) -> None:
    code, out, _ = run("evaluate", trained)
    assert code == 0
    assert "of 6 images, split val, single view, fp32" in out
    evaluation = json.loads(run("evaluate", trained, "--json")[1])
    expected = {"accuracy", "interval", "num_images", "split", "views", "precision", "per_class", "confusion", "nll"}
    assert evaluation.keys() == expected | {"ece", "caveat"}
    assert evaluation["per_class"].keys() == {"red", "green", "blue"}
    assert synthetic.num_test_opened == 0
    code, out, _ = run("evaluate", trained, "--out", tmp_path / "e.json", "--split", "test", "--views", 6)
    assert code == 0
    assert "of 5 images, split test, 6 views" in out
    evaluation = json.loads((tmp_path / "e.json").read_text())
    assert (evaluation["split"], evaluation["views"], evaluation["num_images"]) == ("test", 6, 5)
    assert synthetic.num_test_opened == 1
    assert run("evaluate", trained, "--views", 3)[0] == 2


def test_evaluate_csv(run: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line per image with its file, or its index in data without files; --out leaves the text on standard output."""
    lines = list(csv.DictReader(io.StringIO(run("evaluate", trained, "--csv")[1])))
    assert [line["image"] for line in lines] == ["0", "1", "2", "3", "4", "5"]
    for name in ("red/a.png", "green/a, b.png", "blue/deep/a.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), name.partition("/")[0]).save(tmp_path / "pictures" / name)
    monkeypatch.setattr("pocket_resnet.inference.evaluate.open_source", open_source)
    words = "evaluate", trained, "--data", tmp_path / "pictures", "--data-dir", tmp_path
    code, out, _ = run(*words, "--csv")
    assert code == 0
    assert out.splitlines()[0] == "image,true,predicted,probability,true_probability"
    found = {line["image"]: line for line in csv.DictReader(io.StringIO(out))}
    assert {name: line["true"] for name, line in found.items()} == {
        "blue/deep/a.png": "blue",
        "green/a, b.png": "green",
        "red/a.png": "red",
    }
    for name, line in found.items():
        [prediction] = pocket_resnet.load(trained).predict(tmp_path / "pictures" / name)
        probabilities = {label: f"{probability:.6f}" for label, probability in prediction.top}
        assert line["predicted"] == prediction.label
        assert line["probability"] == probabilities[prediction.label]
        assert line["true_probability"] == probabilities[line["true"]]
    for_people = run(*words)[1]
    assert run(*words, "--csv", "--out", tmp_path / "e.csv")[1] == for_people
    assert (tmp_path / "e.csv").read_text() == out
    code, _, err = run(*words, "--csv", "--json")
    assert code == 2
    assert "--csv and --json cannot be combined" in err


@pytest.mark.usefixtures("synthetic")
@pytest.mark.parametrize("split", get_args(SplitName))
def test_every_split_can_be_evaluated(split: SplitName, run: Run, trained: Path) -> None:
    """As in Python; this data set has splits of its own."""
    code, out, err = run("evaluate", trained, "--split", split)
    if split == "all":
        assert (code, out) == (2, "")
        assert "choose one of its splits" in err
    else:
        assert code == 0
        assert f"split {split}, " in out


@pytest.mark.usefixtures("synthetic")
@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_device(command: str, run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(command, trained, "--device", "cpu")[0] == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = run(command, trained, "--device", "cuda")
    assert code == 2
    assert "the device cuda is not available" in err


def test_evaluate_warns_about_ignored_files(
    run: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("red", "blue")):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / "a.png")
    (tmp_path / "pictures" / "red" / "away").symlink_to(tmp_path)
    (tmp_path / "pictures" / "test").mkdir()
    monkeypatch.setattr("pocket_resnet.inference.evaluate.open_source", open_source)
    code, out, err = run("evaluate", trained, "--data", tmp_path / "pictures", "--data-dir", tmp_path, "--json")
    assert code == 0
    assert json.loads(out)["num_images"] == 2
    assert "red/away" in err
    assert "test/ has no class folders: ignored" in err


@pytest.mark.threat(41)
@pytest.mark.parametrize("name", ["result.json", "recipe.toml", "model/model.safetensors", "model/config.json"])
def test_figures_do_not_overwrite_files_of_a_run(run: Run, trained: Path, name: str) -> None:
    before = (trained / name).read_bytes()
    code, _, err = run("evaluate", trained, "--out", trained / name)
    assert code == 2
    assert "this file belongs to a run or model" in err
    assert (trained / name).read_bytes() == before
    for _ in range(2):
        assert run("evaluate", trained, "--out", trained / "figures.json")[0] == 0


def test_predict(run: Run, trained: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for name in ("b.png", "a.png"):
        (tmp_path / "many" / name).write_bytes(picture.read_bytes())
    code, out, _ = run("predict", trained, picture, tmp_path / "many", "--json", "--top", 2)
    assert code == 0
    rows = json.loads(out)["predictions"]
    assert [row["image"] for row in rows] == [str(picture), *(str(tmp_path / "many" / n) for n in ("a.png", "b.png"))]
    assert rows[0].keys() == {"image", "label", "probability", "top"}
    assert rows[0]["top"][0] == {"label": rows[0]["label"], "probability": rows[0]["probability"]}
    assert [len(row["top"]) for row in rows] == [2, 2, 2]
    assert all(row["probability"] == rows[0]["probability"] for row in rows)
    assert run("predict", trained, picture)[1].startswith(f"{picture}: ")


def test_predict_names_all_bad_files_and_classifies_the_rest(
    run: Run, trained: Path, picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.png").write_text("<html>")
    code, out, err = run("predict", trained, tmp_path / "x.png", picture, tmp_path / "none.png", "--json")
    assert code == 3
    assert [row["image"] for row in json.loads(out)["predictions"]] == [str(picture)]
    assert "2 of 3 files cannot be read" in err
    assert "x.png: not an image" in err
    assert "none.png: cannot be read: No such file" in err
    (tmp_path / "empty").mkdir()
    assert run("predict", trained, tmp_path / "empty")[0] == 2
    assert run("predict", trained)[0] == 2
    for top in (0, -1):
        code, _, err = run("predict", trained, picture, "--top", top)
        assert code == 2
        assert f"top {top} is out of range\n  use 1 to 3 " in err
    code, out, err = run("predict", trained, picture, "--top", 99)
    assert (code, out.count("%")) == (0, 3)
    assert "--top 99: the model has only 3 classes, so all are listed" in err


def test_the_default_of_top_does_not_warn_about_two_classes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    top = (("cat", 0.75), ("dog", 0.25))
    row = FilePrediction("a.png", Prediction(*top[0], top))
    monkeypatch.setattr(predict, "predict_files", lambda *_: ([row], []))
    assert run("predict", "model", "a.png") == (0, "a.png: cat 75.0%, dog 25.0%\n", "")
    assert "has only 2 classes" in run("predict", "model", "a.png", "--top", 4)[2]


def test_data(run: Run) -> None:
    description = json.loads(run("data", "digits", "--json")[1])
    assert description["num_images"] == {"train": 1197, "val": 300, "test": 300}
    code, out, _ = run("data", "digits", "--verify")
    assert code == 0
    assert "digits: 10 classes, 32 x 32 pixels\n" in out
    assert "verified     files: 1 read, none damaged\n" in out


def test_first_verification_of_a_folder_records_its_hashes(run: Run, tmp_path: Path) -> None:
    for number in range(7):
        folder = tmp_path / "pictures" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    words = ("data", tmp_path / "pictures", "--verify")
    assert "verified     files: 7 read, none damaged; 7 new or changed (hash recorded now)\n" in run(*words)[1]
    out = run(*words)[1]
    assert "pictures: 2 classes, resized to 32 x 32 pixels\n" in out
    assert "verified     files: 7 read, none damaged\n" in out
    assert json.loads(run(*words, "--json")[1])["verified"] == {"num_files": 7, "num_recorded": 0}


@pytest.mark.usefixtures("synthetic")
def test_report_prints_where_it_is(run: Run, trained: Path) -> None:
    written = json.loads(run("report", trained, "--json")[1])
    assert written == {"page": f"{trained}/report.html", "plots": f"{trained}/plots"}
    assert Path(written["page"]).is_file()
