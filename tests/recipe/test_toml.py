"""Recipes based on recipes, and which keys count as explicit; round trips are in test_schema.py."""

from pathlib import Path

import pytest

from pocket_resnet.cli.main import parse_command
from pocket_resnet.errors import UsageError
from pocket_resnet.model.catalog import named
from pocket_resnet.recipe.base import dotted
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.sections import AugmentRecipe
from pocket_resnet.recipe.toml import (
    MODEL_ROLES,
    differences,
    load_recipe,
    override,
    parse_recipe,
    to_toml,
    with_choices,
)


def test_base_is_another_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "fast"\nepochs = 9\n[optim]\nlr = 0.3\n')
    fast, mine = load_recipe("fast"), load_recipe(str(path))
    changes = [f"epochs: {fast.epochs} -> 9", "min_steps: 250 -> 0", f"optim.lr: {fast.optim.lr} -> 0.3"]
    assert differences(fast, mine) == ["name: fast -> mine", *changes]
    path.write_text('base = "fast"\n[model]\nnetwork = "resnet20"\n')
    assert load_recipe(str(path)).model == named("resnet20")
    path.write_text('base = "fats"\n')
    with pytest.raises(UsageError, match="did you mean `fast`"):
        load_recipe(str(path))
    path.write_text(f'base = "{path}"\n')
    with pytest.raises(UsageError, match="leads back to this file"):
        load_recipe(str(path))
    assert parse_recipe("", tmp_path / "empty.toml").model == named("original")


@pytest.mark.threat(58)
def test_explicit_keys_are_remembered(tmp_path: Path) -> None:
    """Set by file, base or program, at any value; recipes that differ only in explicit keys are equal."""
    (tmp_path / "mine.toml").write_text('base = "fast"\n[optim]\nlr = 0.2\nclip_norm = 0.0\n[augment]\n')
    fast, mine = load_recipe("fast"), load_recipe(str(tmp_path / "mine.toml"))
    assert mine.explicit == fast.explicit | {"optim.clip_norm"}
    assert override(mine, {"data.train_on": "train"}).explicit == mine.explicit | {"data.train_on"}
    assert override(mine, {"name": "fast"}) == fast
    assert Recipe().explicit == frozenset()
    assert Recipe(augment=AugmentRecipe(mixup=0.0), seed=0).explicit == {"augment.mixup", "seed"}


@pytest.mark.threat(58)
@pytest.mark.parametrize(
    ("words", "explicit"),
    [
        ([], set()),
        (["--augment.mixup", "0"], {"augment.mixup"}),
        (["--augment.cutout-px=0", "--seed=0"], {"augment.cutout_px", "seed"}),
        (["--augment.cutout_px", "0"], {"augment.cutout_px"}),
        (["--augment.no-trivial-augment", "--no-track"], {"augment.trivial_augment", "track"}),
        (["--data", "digits", "--json", "--run", "seed"], set()),
        (["--model.widths", "16", "32", "64", "--data.seed", "None"], {"model.widths", "data.seed"}),
    ],
)
def test_flags_are_explicit_keys(words: list[str], explicit: set[str]) -> None:
    best = load_recipe("best")
    recipe = parse_command("train", ["best", *words]).recipe
    assert recipe.explicit == best.explicit | explicit
    assert differences(best, override(best, {key: dotted(recipe.model_dump())[key] for key in explicit})) == (
        differences(best, recipe)
    )


@pytest.mark.parametrize(
    ("words", "min_steps"),
    [([], 250), (["--epochs", "3"], 0), (["--epochs=3"], 0), (["--epochs", "3", "--min-steps", "50"], 50)],
)
def test_explicit_epochs_are_kept(words: list[str], min_steps: int) -> None:
    """Also if few images would need more epochs for the recipe's min_steps."""
    assert parse_command("train", ["fast", *words]).recipe.min_steps == min_steps


def test_epochs_of_a_recipe_file_are_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "fast"\nepochs = 3\n')
    (tmp_path / "other.toml").write_text('base = "fast"\nseed = 3\n')
    assert load_recipe(str(tmp_path / "mine.toml")).min_steps == 0
    assert load_recipe(str(tmp_path / "other.toml")).min_steps == 250


@pytest.mark.parametrize("role", MODEL_ROLES)
def test_the_sha256_belongs_to_the_recorded_model(role: str, tmp_path: Path) -> None:
    """A choice of a model removes it, by flag, keyword or a file based on the recipe, unless it gives another one."""
    key, old, new = f"{role}.model", "0" * 64, "f" * 64
    recipe = override(load_recipe("fast"), {key: "old", f"{role}.sha256": old})
    path, based = tmp_path / "saved.toml", tmp_path / "based.toml"
    path.write_text(to_toml(recipe))
    based.write_text(f'base = "{path}"\n[{role}]\nmodel = "new"\n')
    chosen = [
        parse_command("train", [str(path), f"--{key}", "new"]).recipe,
        with_choices(recipe, {key: "new"}),
        load_recipe(str(based)),
    ]
    assert [dotted(each.model_dump())[f"{role}.sha256"] for each in chosen] == [None] * 3
    changed = with_choices(recipe, {f"{role}.sha256": new, key: "new"})
    assert differences(recipe, changed) == [f"{key}: old -> new", f"{role}.sha256: {old} -> {new}"]
    assert differences(recipe, override(recipe, {key: "moved"})) == []
    assert with_choices(recipe, {"epochs": 3}) == override(recipe, {"epochs": 3, "min_steps": 0})


@pytest.mark.parametrize(
    ("key", "meant"), [("optim_lr", "optim.lr"), ("lr", "optim.lr"), ("learning_rate", "optim.lr")]
)
def test_a_key_outside_its_table_gets_a_hint(key: str, meant: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"unknown `{key}`, did you mean `{meant}`?"):
        parse_recipe(f"{key} = 0.1\n", tmp_path / "mine.toml")


@pytest.mark.threat(18)
def test_byte_order_mark_and_other_bytes(tmp_path: Path) -> None:
    """A byte order mark, as Windows editors write it, is skipped; UTF-16, binary and huge files are refused."""
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xef\xbb\xbfepochs = 7\r\n[optim]\r\nlr = 1.0\r\n")
    assert load_recipe(str(path)).epochs == 7
    for content, message in {
        "epochs = 7".encode("utf-16"): "cannot be read as a UTF-8 text file",
        b"\x00\xff": "cannot be read as a UTF-8 text file",
        b"# " + bytes(2**21): "over 1,048,576 bytes",
    }.items():
        path.write_bytes(content)
        with pytest.raises(UsageError, match=message) as raised:
            load_recipe(str(path))
        assert raised.value.where == path
    for missing in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(UsageError):
            load_recipe(f"{missing}.toml")
