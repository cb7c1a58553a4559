"""Reports: their numbers are the run's, and all text is escaped."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from markupsafe import escape
from PIL import Image

from hostile import CLASS_NAMES
from pocket_resnet.cli import commands
from pocket_resnet.cli.main import main
from pocket_resnet.errors import ArtifactError, DataError, UsageError
from pocket_resnet.inference.evaluate import evaluate_model
from pocket_resnet.inference.statistics import paired_difference
from pocket_resnet.model.counts import num_macs, num_params
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import load_recipe, to_toml
from pocket_resnet.reporting.report import write_report
from pocket_resnet.training import saved_run
from pocket_resnet.training.callbacks import Callback, RunState
from pocket_resnet.training.metrics import Record
from pocket_resnet.training.run import train
from report_reader import Reader

PICTURES = ["learning", "reliability", "confusion", "classes", "mistakes", "doubts", "gradcam", "batch", "network"]

Trained = Callable[..., Path]


def test_one_run(train_hostile: Trained, synthetic: Any) -> None:
    """Every figure, as a file too; the numbers of result.json, metrics.jsonl, `evaluate` and the recipe."""
    synthetic.num_val = 200
    folder = train_hostile("r")
    path = write_report([folder])
    assert path == folder / "report.html"
    page, result = Reader(path), json.loads((folder / "result.json").read_text())
    assert list(page.pictures) == PICTURES
    for name, attributes in page.pictures.items():
        content = base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,"))
        assert content == (folder / "plots" / f"{name}.png").read_bytes()
        assert Image.open(io.BytesIO(content)).size == (int(attributes["width"]), int(attributes["height"]))
        assert attributes["alt"]
    low, high = result["interval"]
    for text in (
        f"Accuracy{result['accuracy']:.2%}95%: {low:.2%} to {high:.2%}; 200 validation images",
        f"Parameters{result['num_params']:,}",
        f"Multiply-adds{result['num_macs']:,}",
        f"{result['train_flops'] / 1e9:.3g} GFLOP",
        f"pocket-resnet train {folder}/recipe.toml",
        to_toml(load_recipe(str(folder / "recipe.toml"))),
    ):
        assert text in page.text
    check_epochs(page, folder)
    check_evaluation(page, folder)


def check_epochs(page: Reader, folder: Path) -> None:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row, record in zip(page.tables["epochs"][1:], records, strict=True):
        assert row[:5] == [
            str(record["epoch"]),
            str(record["step"]),
            str(record["image_size"]),
            f"{record['train_loss']:.4f}",
            f"{record['val_nll']:.4f}",
        ]
        assert row[5:7] == [f"{record['train_accuracy']:.2%}", f"{record['val_accuracy']:.2%}"]


def check_evaluation(page: Reader, folder: Path) -> None:
    evaluation = evaluate_model(folder)
    assert f"Expected calibration error {evaluation.ece:.4f}, negative log-likelihood {evaluation.nll:.4f}" in page.text
    assert f"{evaluation.ece:.4f}" in page.pictures["reliability"]["alt"]
    rows = {row[0]: row[1:3] for row in page.tables["per-class"][1:]}
    assert rows == {each.name: [str(each.num_images), f"{each.accuracy:.1%}"] for each in evaluation.per_class}
    mistakes = {
        (CLASS_NAMES.index(row[0]), CLASS_NAMES.index(row[1])): int(row[2]) for row in page.tables["confusions"][1:]
    }
    expected = {(i, j): evaluation.confusion[i][j] for i in range(3) for j in range(3) if i != j}
    assert mistakes == {pair: count for pair, count in expected.items() if count}
    spec = load_recipe(str(folder / "recipe.toml")).model
    assert page.tables["network-parts"][-1] == ["total", "", f"{num_params(spec):,}", f"{num_macs(spec):,}"]


@pytest.mark.threat(30)
def test_names_are_escaped(train_hostile: Trained) -> None:
    """Names of classes and runs; the page's policy forbids scripts and requests."""
    folder = train_hostile("a run & <b>", name="<i>recipe</i>")
    path = write_report([folder, train_hostile("other", seed=1)])
    for page_path in (path, write_report([folder])):
        text = page_path.read_text(encoding="utf-8")
        page = Reader(page_path)
        assert not {"script", "b", "i", "iframe", "object"} & set(page.tags)
        assert page.tags.count("img") == len(page.pictures)
        assert "onerror" not in re.sub(r'alt="[^"]*"', "", text.replace(escape(CLASS_NAMES[1]), ""))
        assert not re.search(r'(src|href|action)="(?!data:)', text)
        assert "url(" not in text
        assert "default-src 'none'" in text
        assert "a run & <b>" in page.text
    assert all(name in page.text for name in CLASS_NAMES)


def test_mistakes_of_a_folder_name_their_files(run_folder: Path) -> None:
    """Under the pictures, in their descriptions and in a table, as `evaluate --csv` lists them."""
    page = Reader(write_report([run_folder]))
    rows = {row[0]: row[1:] for row in page.tables["files"][1:]}
    outcomes = evaluate_model(run_folder).outcomes()
    assert rows.keys() == {outcome.image for outcome in outcomes}
    descriptions = page.pictures.get("mistakes", {}).get("alt", "") + page.pictures.get("doubts", {}).get("alt", "")
    for each in outcomes:
        expected = [each.true, each.predicted, f"{each.probability:.1%}", f"{each.true_probability:.1%}"]
        assert rows[each.image] == expected
        assert f"{each.image}: {each.predicted}, {each.probability:.1%}" in descriptions


def test_several_runs(train_hostile: Trained, tmp_path: Path) -> None:
    """Seeds are grouped, differences are named and tested in pairs, accuracies are those of the runs."""
    folders = [train_hostile("a"), train_hostile("b", seed=1), train_hostile("c", epochs=1)]
    path = write_report(folders)
    assert path == tmp_path / "runs" / "report" / "report.html"
    page = Reader(path)
    assert list(page.pictures) == ["accuracies", "learning"]
    open_data = saved_run.opener(None)
    a, b, c = (saved_run.read_run(folder, open_data) for folder in folders)
    pair = paired_difference(b.evaluation.hit_N, a.evaluation.hit_N)
    header, first, second, third = page.tables["comparison"]
    assert first[:2] == ["a", f"{a.evaluation.accuracy:.2%}"]
    assert first[3:] == ["–", "", "", ""]
    difference = f"{100 * (b.evaluation.accuracy - a.evaluation.accuracy):+.2f}".replace("-", "−")
    assert second[3:] == [difference, str(pair.num_only_first), str(pair.num_only_second), f"{pair.p:.4f}"]
    assert pair.num_only_first - pair.num_only_second == int(b.evaluation.hit_N.sum()) - int(a.evaluation.hit_N.sum())
    assert third[1] == f"{c.evaluation.accuracy:.2%}"
    assert header[-1] == "p"
    recipes = page.tables["recipes"][1:]
    assert [row[0] for row in recipes] == ["a and 1 more", "c"]
    assert [row[3] for row in recipes] == ["2", "1"]
    assert "epochs: 2 -> 1" in recipes[1][2]
    mean = (a.evaluation.accuracy + b.evaluation.accuracy) / 2
    assert recipes[0][4].startswith(f"{mean:.2%} ± ")
    assert [[row[0], row[3]] for row in page.tables["costs"][1:]] == [
        ["a", "2 epochs"],
        ["b", "2 epochs"],
        ["c", "1 epoch"],
    ]


def test_runs_that_a_callback_ended_are_no_repetitions(train_hostile: Trained, make_recipe: Any) -> None:
    """The mean of a recipe's accuracies is over runs of the same length."""
    folder = train_hostile("whole")

    class Stop(Callback):
        def on_epoch(self, run: RunState, record: Record) -> None:  # noqa: ARG002
            run.stop()

    train(make_recipe(seed=1), runs_dir=folder.parent, run="ended", callbacks=[Stop()])
    recipes = Reader(write_report([folder, folder.parent / "ended"])).tables["recipes"][1:]
    assert [[row[0], row[2], row[3]] for row in recipes] == [
        ["whole", "–", "1"],
        ["ended", "ended after 1 of 2 epochs", "1"],
    ]


def test_a_run_that_ended_within_an_epoch(train_hostile: Trained) -> None:
    """Its last record, and the end of its curves, is at a fraction of the epoch."""
    folder = train_hostile("r", max_steps=3)
    assert [row[:2] for row in Reader(write_report(folder)).tables["epochs"][1:]] == [["1", "2"], ["1.5", "3"]]
    assert [record["epoch"] for record in saved_run.read_run(folder).metrics] == [1, 1.5]


def test_the_page_states_the_training_loss(train_hostile: Trained) -> None:
    mined = train_hostile("mined", hard_fraction=0.6, hard_until=0.5, augment={"mixup": 0.0})
    student = train_hostile("student", teacher={"model": str(mined / "model")})
    mining, distillation = (" ".join(Reader(write_report(folder)).text.split()) for folder in (mined, student))
    assert (
        "images, for the first 50% of the steps only the 60% with the highest losses, with label smoothing." in mining
    )
    assert "Training: loss against the teacher's predictions on augmented images. Validation" in distillation


def test_an_early_end_is_stated(train_hostile: Trained) -> None:
    """Also for a run of an earlier version, whose result does not have it."""
    folders = [train_hostile("whole"), train_hostile("part", max_steps=2)]
    result = json.loads((folders[1] / "result.json").read_text())
    assert (result["steps"], result["epochs"], result["epochs_done"]) == (2, 2, 1.0)
    assert "2 steps, 1 of 2 epochs, " in Reader(write_report(folders[1])).text
    assert "1 of 2 epochs" in (folders[1] / "model" / "README.md").read_text()
    page = Reader(write_report(folders))
    assert [row[3] for row in page.tables["costs"][1:]] == ["2 epochs", "1 of 2 epochs"]
    assert "ended after 1 of 2 epochs" in page.text
    del result["epochs_done"]
    (folders[1] / "result.json").write_text(json.dumps(result))
    assert "2 steps, 1 of 2 epochs, " in Reader(write_report(folders[1])).text


def test_results_of_train_name_their_runs(make_recipe: Any, synthetic: Any, tmp_path: Path) -> None:
    """One, or several; anything else that is no path is refused."""
    results = [train(make_recipe(seed=seed), runs_dir=tmp_path / "runs", run=f"r{seed}") for seed in (0, 1)]
    assert write_report(results[0]) == tmp_path / "runs" / "r0" / "report.html"
    assert "2 runs compared" in Reader(write_report(results)).text
    for other in (synthetic, [synthetic]):
        with pytest.raises(UsageError, match="Synthetic is not a path"):
            write_report(other)


def test_figures_of_other_data_do_not_replace_the_result(train_hostile: Trained, synthetic: Any) -> None:
    """The number of images is that of the accuracy beside it."""
    folder = train_hostile("r")
    synthetic.num_val, synthetic.fingerprint = 1, "other"
    page = Reader(write_report(folder, data="synthetic"))
    assert "; 30 validation images, single view, last epoch" in page.text
    assert "1 validation image, single view." in page.text


def test_run_without_mistakes(train_hostile: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train_hostile("r")
    monkeypatch.setattr(
        "pocket_resnet.inference.evaluate.class_probabilities", lambda *_: torch.eye(3)[torch.arange(14, 44) % 3]
    )
    page = Reader(write_report([folder]))
    assert "None was misclassified." in page.text
    assert "from 30 validation images, too few for a diagram" in page.text
    assert "reliability" not in page.pictures
    assert "mistakes" not in page.pictures
    assert "Measured again for this report, the accuracy is 100.00%" in page.text


@pytest.mark.filterwarnings("error")
def test_runs_without_a_record(train_hostile: Trained) -> None:
    """As after a crash right after --init-from, finished with --resume and fewer --max-steps: no curve is drawn."""
    folders = [train_hostile("a"), train_hostile("b", epochs=1)]
    (folders[0] / "metrics.jsonl").write_text("")
    page = Reader(write_report([folders[0]]))
    assert "ended before it recorded an epoch" in page.text
    assert "learning" not in page.pictures
    assert "learning" in Reader(write_report(folders, folders[0].parent / "both")).pictures
    (folders[1] / "metrics.jsonl").write_text("")
    assert "No run recorded an epoch" in Reader(write_report(folders, folders[0].parent / "both")).text


def test_unfinished_runs_are_refused(train_hostile: Trained, tmp_path: Path, synthetic: Any) -> None:
    folder = train_hostile("r")
    with pytest.raises(UsageError, match="no runs"):
        write_report([])
    with pytest.raises(UsageError, match="no run here"):
        write_report([tmp_path])
    (folder / "metrics.jsonl").rename(folder / "kept")
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl: cannot be read"):
        write_report([folder])
    (folder / "kept").rename(folder / "metrics.jsonl")
    synthetic.class_names = ("red", "green", "blue")
    with pytest.raises(DataError, match="does not know 'red'"):
        write_report([folder])
    (folder / "result.json").unlink()
    with pytest.raises(UsageError, match=f"pocket-resnet train {folder}/recipe.toml --resume"):
        write_report([folder])
    assert not (folder / "report.html").exists()


def test_same_run_twice_and_latest_are_one(train_hostile: Trained) -> None:
    folder = train_hostile("r")
    path = write_report([folder.parent / "latest", folder, folder])
    assert path.samefile(folder / "report.html")
    assert "Run r on" in Reader(path).text


@pytest.fixture
def recipe_path(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(make_recipe(max_steps=1)))
    return path


@pytest.mark.usefixtures("synthetic")
def test_train_writes_the_report(recipe_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", str(recipe_path), "--runs-dir", str(tmp_path), "--run"]
    main([*arguments, "with"])
    assert (tmp_path / "with" / "report.html").is_file()
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"report      {tmp_path}/with/report.html",
        f"next        pocket-resnet evaluate {tmp_path}/with/model",
    ]
    main([*arguments, "without", "--no-report"])
    assert not (tmp_path / "without" / "report.html").exists()
    assert "report  " not in capsys.readouterr().out
    main(["report", str(tmp_path / "without"), "--out", str(tmp_path / "elsewhere")])
    assert capsys.readouterr().out == f"report      {tmp_path}/elsewhere/report.html\n"
    assert (tmp_path / "elsewhere" / "plots" / "learning.png").is_file()


def test_train_in_python_writes_no_report(train_hostile: Trained) -> None:
    assert not (train_hostile("r") / "report.html").exists()
    assert commands.Train(Recipe()).report
