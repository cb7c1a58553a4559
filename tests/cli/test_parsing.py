"""Wrong values and words in the wrong place: one line, and a hint with the right spelling or command line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tyro

Run = Callable[..., tuple[int, str, str]]

WRONG = {
    "train fast --epochs 30k": "--epochs: `30k` is not a whole number\n  write all digits: --epochs 30000",
    "train fast --epochs=3.5": "--epochs: `3.5` is not a whole number\n  see pocket-resnet train --help",
    "train fast --optim.lr high": "--optim.lr: `high` is not a number\n  see pocket-resnet train --help",
    "train fast --train-image-sizes 16 x --seed 1": "--train-image-sizes: `16 x` is not a list of whole numbers\n",
    "train fast --epochs": "--epochs: the value is missing\n  see pocket-resnet train --help",
    "search fast --hours soon": "--hours: `soon` is not a number\n  see pocket-resnet search --help",
    "benchmark m --threads all": "--threads: `all` is not a list of whole numbers\n  see pocket-resnet benchmark ",
    "predict --top x m cat.jpg": "--top: `x` is not a whole number\n  see pocket-resnet predict --help",
    "export m --precision int4": "`int4` is not possible, did you mean `int8`?\n  choose one of fp16, fp32, int8",
    "evaluate m --views 3": "--views: `3` is not possible\n  choose one of 1, 2, 6",
    "evaluate": "missing: MODEL\n  see pocket-resnet evaluate --help",
    "train --data digits fast": "`fast` is not expected here\n  you may mean: pocket-resnet train fast --data digits",
    "search --data digits fast --trials 3": "you may mean: pocket-resnet search fast --data digits --trials 3",
    "train fast digits": "`digits` is not expected here\n  you may mean: pocket-resnet train fast --data digits",
    "train digits --epochs 3": "you may mean: pocket-resnet train --epochs 3 --data digits",
    "train fast 1M": "you may mean: pocket-resnet train fast --budget 1M",
    "train fast best": "`best` is not expected here\n  see pocket-resnet train --help",
    "train fast --optim.nesterov yes": "`yes` is not expected here\n  see pocket-resnet train --help",
    "evaluate m digits": "you may mean: pocket-resnet evaluate m --data digits",
    "design 1M": "`1M` is not expected here\n  you may mean: pocket-resnet design --budget 1M",
    "design 1M --epochs 30": "you may mean: pocket-resnet design --epochs 30 --budget 1M",
    "summary fast --budget 1M": "for the network of a budget: pocket-resnet design --budget 1M",
    "summary --budget 1M": "for the network of a budget: pocket-resnet design --budget 1M",
    "summary --budget 1M fast": "for the network of a budget: pocket-resnet design --budget 1M\n",
    "data digits fast": "`fast` is not expected here\n  see pocket-resnet data --help",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_values_and_words(line: str, run: Run) -> None:
    code, out, err = run(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith("pocket-resnet: ")
    assert err.count("\n") == 2
    assert WRONG[line] in err


def test_a_folder_in_the_wrong_place(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my pictures").mkdir()
    code, _, err = run("train", "fast", tmp_path / "my pictures")
    assert code == 2
    assert f"you may mean: pocket-resnet train fast --data '{tmp_path}/my pictures'" in err
    (tmp_path / "my pictures" / "recipe.toml").touch()
    _, _, err = run("train", tmp_path / "my pictures", "--resume")
    assert "my pictures: a run, not a recipe" in err
    assert f"resume it with: pocket-resnet train '{tmp_path}/my pictures/recipe.toml' --resume" in err


def test_another_version_of_tyro_explains_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module of errors is private."""
    monkeypatch.delattr(tyro, "_errors")
    code, out, err = run("train", "fast", "--epochs", "30k")
    assert (code, out) == (2, "")
    assert "30k" in err
