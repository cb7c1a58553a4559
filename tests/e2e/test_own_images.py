"""docs/own-images.md: its first commands, as they stand there, from a folder of pictures to a table of answers."""

import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pocket_resnet.data.datasets import open_source
from pocket_resnet.model.artifact import load_card

GUIDE = Path(__file__).parents[2] / "docs" / "own-images.md"
CLASSES = ("cat", "dog", "owl")
SHORTER = ("--max-steps", "2", "--no-report")  # of a training of 200 steps


def draw(folder: Path, first: int, count: int) -> None:
    """Digits in the place of animals: any pictures will do."""
    split = open_source("digits").split("train")
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in (split.labels_N == label).nonzero().flatten()[first : first + count].tolist():
            image_HWC = split.images_NCHW[index].permute(1, 2, 0).numpy()
            Image.fromarray(image_HWC).save(folder / name / f"{index}.png")


def test_the_first_commands(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is cut to two steps."""
    monkeypatch.chdir(tmp_path)
    draw(Path("pictures"), 0, 30)
    draw(Path("new-pictures"), 30, 3)
    block = re.findall(r"^```\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[0]
    commands = [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    assert [words[0] for words in commands] == ["data", "train", "evaluate", "predict"]
    for words in commands:
        code, _, error = run(*words, *(SHORTER if words[0] == "train" else ()))
        assert code == 0, error
    card = load_card(Path("runs/latest"))
    assert (card.class_names, card.pretrained, card.recipe) == (CLASSES, "cpu94", "finetune")
    rows = list(csv.DictReader(Path("predictions.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["image"] for row in rows] == sorted(str(path) for path in Path("new-pictures").glob("*/*.png"))
    assert {row["label"] for row in rows} <= set(CLASSES)
    assert json.loads(Path("runs/latest/result.json").read_text())["steps"] == 2
