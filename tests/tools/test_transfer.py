"""The transfer study in small: on the digits, of which a network learns five and then the other five."""

import csv
from pathlib import Path

import pytest

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.source import Source
from pocket_resnet.model.artifact import load_card
from tools import study, transfer

WORDS = "--data digits --budget 20k --pretrain-epochs 1 --epochs 1 --counts 4 8 --seeds 2"


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_a_study_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every start uses the same images and network; classes do not overlap; existing rows are not trained again."""
    words = f"{WORDS} --work {tmp_path} --out {tmp_path / 't.csv'}".split()
    measured = []
    monkeypatch.setattr(study, "measure", lambda recipe, _: measured.append(recipe) or {"accuracy": "0.5"})
    transfer.main(transfer.parser().parse_args([*words, "--only", "8 a class", "digits"]))
    first = rows_of(tmp_path / "t.csv")
    assert [(row["data"], row["start"], row["seed"]) for row in first] == [
        (data, start, seed) for seed in "01" for data in ("8 a class", "digits") for start in transfer.STARTS
    ]
    card = load_card(tmp_path / "pretrained")
    assert card.class_names == ("0", "1", "2", "3", "4")
    for recipe in measured:
        assert recipe.batch_size == 64
        assert recipe.pretrained.model is not None or recipe.model == card.spec
    names = {recipe.data.name for recipe in measured} - {"digits"}
    for name in names:
        assert sorted(path.name for path in Path(name, "train").iterdir()) == ["5", "6", "7", "8", "9"]
        assert all(len(list(path.iterdir())) == 8 for path in Path(name, "train").iterdir())
    seeds = [{path.name for path in Path(name).glob("train/*/*.png")} for name in sorted(names)]
    assert seeds[0] != seeds[1]
    num_val = int((open_source("digits").split("val").labels_N >= 5).sum())
    assert len(list((tmp_path / "pictures" / "8-seed0").glob("val/*/*.png"))) == num_val

    measured.clear()
    transfer.main(transfer.parser().parse_args([*words, "--only", "digits"]))
    assert measured == []
    assert rows_of(tmp_path / "t.csv") == first


def test_rows_are_measured(tmp_path: Path) -> None:
    """By real trainings; the head is trained first for a fifth of the epochs."""
    words = f"{WORDS} --work {tmp_path} --out {tmp_path / 't.csv'} --counts 13 20 --seeds 1".split()
    transfer.main(transfer.parser().parse_args([*words, "--only", "13 a class"]))
    rows = rows_of(tmp_path / "t.csv")
    assert [(row["start"], row["epochs"]) for row in rows] == list(
        zip(transfer.STARTS, ("4", "16", "4", "4"), strict=True)
    )
    assert all(0 <= float(row["accuracy"]) <= 1 and float(row["seconds"]) > 0 for row in rows)
    row = {"data": "digits", "start": "fine-tuned, head first", "epochs": 10, "seed": 0}
    model = tmp_path / "pretrained" / "model"
    assert transfer.recipe_of(row, model, tmp_path).pretrained.freeze_epochs == 2


def test_pictures_of_another_data_set_are_refused(source: Source, tmp_path: Path) -> None:
    transfer.write_pictures(source, tmp_path, [2], 1)
    transfer.write_pictures(source, tmp_path, [2], 1)
    source.class_names = ("red", "yellow", "black")
    with pytest.raises(SystemExit, match="2-seed0: pictures of another data set"):
        transfer.write_pictures(source, tmp_path, [2], 1)


def test_unknown_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no such case: 9 a class; known: 50 a class, 500 a class, digits"):
        transfer.main(transfer.parser().parse_args(["--only", "9 a class", "--work", str(tmp_path)]))
