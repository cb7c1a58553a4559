"""Folders of images through the whole: read by any number of workers, trained on, evaluated, predicted."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocket_resnet.cli.main import main
from pocket_resnet.errors import UsageError
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import to_toml
from pocket_resnet.training.run import Result, train

COLOURS = {"1": "red", "10": "lime", "2": "blue"}
NUM_IMAGES = 12


def paint(folder: Path, colour: str, count: int) -> None:
    """Images of that colour, with some noise, so that no two are the same."""
    folder.mkdir(parents=True)
    plain = np.asarray(Image.new("RGB", (9, 8), colour)).astype(np.int64)
    for number in range(count):
        noise = np.random.default_rng([number, *colour.encode()]).integers(-40, 40, plain.shape)
        Image.fromarray((plain + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Classes that sort as text otherwise than as numbers."""
    for name, colour in COLOURS.items():
        paint(tmp_path / "pictures" / name, colour, NUM_IMAGES)
    return tmp_path / "pictures"


@pytest.fixture
def recipe_for(make_recipe: Callable[..., Recipe], tiny_spec: NetworkSpec) -> Callable[..., Recipe]:
    """recipe_for(folder): enough epochs to tell colours apart."""
    plain = {"augment": {"mixup": 0.0, "cutout_px": 0}, "optim": {"name": "sgd", "lr": 0.1, "lookahead_steps": 0}}
    rest: dict[str, Any] = {"label_smoothing": 0.0, "checkpoint": {"every_s": 1e9}, "epochs": 30, "model": tiny_spec}
    return lambda folder, **changes: make_recipe(**plain | rest | {"data": {"name": str(folder), **changes}})


@pytest.mark.threat(20)
def test_order_of_classes_survives(
    pictures: Path, recipe_for: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training, model, evaluation and prediction use one order; other data are matched by name."""
    (tmp_path / "r.toml").write_text(to_toml(recipe_for(pictures)))
    data_dir, run = ["--data-dir", str(tmp_path / "data")], str(tmp_path / "runs/r")
    where = ["--run", "r", "--runs-dir", str(tmp_path / "runs"), *data_dir]
    main(["train", str(tmp_path / "r.toml"), "--no-report", *where])
    card = json.loads(Path(run, "model/config.json").read_text())
    assert card["class_names"] == ["1", "10", "2"]
    for name, colour in {"2": "blue", "10": "lime"}.items():
        paint(tmp_path / "others" / name, colour, 3)
    capsys.readouterr()
    for folder, sizes in {
        pictures: {"1": 12, "10": 12, "2": 12},
        tmp_path / "others": {"1": 0, "10": 3, "2": 3},
    }.items():
        main(["evaluate", run, "--data", str(folder), "--json", *data_dir])
        evaluation = json.loads(capsys.readouterr().out)
        assert evaluation["accuracy"] == 1
        assert {name: result["num_images"] for name, result in evaluation["per_class"].items()} == sizes
        assert list(evaluation["per_class"]) == ["1", "10", "2"]
    main(["predict", run, str(pictures), "--json"])
    for row in json.loads(capsys.readouterr().out)["predictions"]:
        assert row["label"] == Path(row["image"]).parent.name


@pytest.mark.threat(25)
def test_training_warns_about_duplicates(
    pictures: Path, recipe_for: Callable[..., Recipe], tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    """With their number."""
    parted = tmp_path / "parted"
    shutil.copytree(pictures, parted / "train")
    for name, colour in COLOURS.items():
        paint(
            parted / "val" / name, colour.replace("red", "maroon").replace("lime", "green").replace("blue", "navy"), 2
        )
    shutil.copy(parted / "train" / "2" / "0.png", parted / "val" / "2" / "copy.png")
    recipe = recipe_for(parted).model_copy(update={"max_steps": 1})
    train(recipe, data_dir=tmp_path / "data", runs_dir=tmp_path / "runs")
    assert "1 of 7 validation images are also training images" in logged.text


@pytest.mark.threat(8)
def test_a_resumed_run_lists_changed_files(pictures: Path, recipe_for: Callable[..., Recipe], tmp_path: Path) -> None:
    """Each with its change; nothing is listed where the earlier files are unknown."""

    def train_tiny(max_steps: int) -> Result:
        recipe = recipe_for(pictures).model_copy(update={"max_steps": max_steps})
        return train(recipe, data_dir=tmp_path / "data", runs_dir=tmp_path / "runs", run="r", resume=True)

    train_tiny(1)
    (pictures / "1" / "0.png").unlink()
    shutil.copy(pictures / "2" / "1.png", pictures / "2" / "0.png")
    shutil.copy(pictures / "2" / "1.png", pictures / "2" / "new\n.png")
    with pytest.raises(UsageError, match=r"with: 1/0\.png \(gone\), 2/0\.png \(changed\), 2/new\\n\.png \(new\)\n"):
        train_tiny(2)
    for listed in tmp_path.rglob("files.json"):
        listed.unlink()
    with pytest.raises(UsageError, match="differs from the data this run began with\n"):
        train_tiny(2)


@pytest.mark.threat(21)
@pytest.mark.timeout(60)
def test_odd_files_among_pictures_to_predict(
    pictures: Path, recipe_for: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Odd names work; loops, escapes, FIFOs and devices are skipped and never waited for."""
    recipe = recipe_for(pictures).model_copy(update={"max_steps": 1})
    result = train(recipe, data_dir=tmp_path / "data", runs_dir=tmp_path / "runs")
    odd = tmp_path / "odd"
    names = ["ünïcödé 猫.png", "two words.png", "new\nline.png", "x" * 250 + ".png", "-rf.png"]
    (odd / ("deep" * 50) / ("deeper" * 40)).mkdir(parents=True)
    for name in names:
        shutil.copy(pictures / "1" / "0.png", odd / ("deep" * 50) / ("deeper" * 40) / name[-255:])
    (odd / "loop").symlink_to(odd)
    (odd / "self.png").symlink_to(odd / "self.png")
    (odd / "escape.png").symlink_to(pictures / "2" / "0.png")
    (odd / "device.png").symlink_to("/dev/zero")
    os.mkfifo(odd / "fifo.png")
    capsys.readouterr()
    main(["predict", result.model, str(odd), "--json"])
    printed = capsys.readouterr()
    assert {Path(row["image"]).name for row in json.loads(printed.out)["predictions"]} == {
        name[-255:] for name in names
    }
    assert f"{odd}: links that leave the data set are not followed (2): device.png, escape.png" in printed.err
    assert f"{odd}: 3 skipped: " in printed.err
    for what in ("fifo.png (not a regular file)", "loop (link to a parent folder)", "self.png (broken link)"):
        assert what in printed.err


LONG_NAMES = """
train X
train X.toml
train fast --data X
train fast --data digits --run X
train fast --data digits --runs-dir X
evaluate X
predict X a.png
summary X
report X
data X
data cifar10 --data-dir X
"""


@pytest.mark.threat(21)
@pytest.mark.parametrize("command", LONG_NAMES.strip().splitlines())
def test_names_too_long(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """For every name in a command: one error line, no traceback, and no file left behind."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SystemExit) as raised:
        main(command.replace("X", "x" * 5_000).split())
    assert raised.value.code in (2, 5)
    err = capsys.readouterr().err
    assert "File name too long" in err
    assert "Traceback" not in err
    assert not [path for path in Path().rglob("*") if path.is_file()]


@pytest.mark.threat(39)
def test_number_of_workers_changes_nothing(
    pictures: Path, recipe_for: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same seed gives the same weights and losses with 1, 2 and 4 of them, each decoding for itself."""
    monkeypatch.setattr("pocket_resnet.data.cache.num_cores", lambda: 4)
    outcomes = []
    for num_workers in (1, 2, 4):
        recipe = recipe_for(pictures, num_workers=num_workers).model_copy(update={"epochs": 2})
        runs_dir = tmp_path / f"runs-{num_workers}"
        train(recipe, data_dir=tmp_path / f"data-{num_workers}", runs_dir=runs_dir, run="r")
        lines = [json.loads(line) | {"seconds": 0} for line in (runs_dir / "r/metrics.jsonl").read_text().splitlines()]
        outcomes.append((lines, (runs_dir / "r/model/model.safetensors").read_bytes()))
    assert outcomes[0] == outcomes[1] == outcomes[2]
