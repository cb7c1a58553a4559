"""Names of earlier versions are read as the present ones; a file may not have both."""

from pathlib import Path

import pytest

from pocket_resnet.errors import UsageError
from pocket_resnet.io.renamed import CARD_FIELDS, RECIPE_KEYS, TENSORS, current_name, with_current_names
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import parse_recipe

PATH = Path("some.toml")
TABLE = {"average": "ema", "optim.kind": "optim.name", "ema.decay": "ema.keep"}


@pytest.mark.parametrize(
    ("name", "current"),
    [
        ("average.decay", "ema.keep"),
        ("ema.decay", "ema.keep"),
        ("average", "ema"),
        ("optim.kind", "optim.name"),
        ("schedule.kind", "schedule.kind"),
        ("averages.decay", "averages.decay"),
        ("kind", "kind"),
    ],
)
def test_every_part_of_a_name_is_looked_up(name: str, current: str) -> None:
    assert current_name(name, TABLE) == current


def test_nested_tables() -> None:
    values = {"average": {"decay": 0.5}, "optim": {"kind": "sgd", "lr": 1}, "kind": 3, "other": {"average": {}}}
    expected = {"ema": {"keep": 0.5}, "optim": {"name": "sgd", "lr": 1}, "kind": 3, "other": {"average": {}}}
    assert with_current_names(values, TABLE) == expected


@pytest.mark.parametrize("text", ["[average]\ndecay = 0.5\n[ema]\nwindow = 0.0", "[ema]\n[average]"])
def test_both_names_at_once_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_recipe(text, PATH)
    assert str(raised.value) == "some.toml: `average` is now `ema`, but both are set\n  remove `average`"


@pytest.mark.threat(10)
def test_recipes_of_earlier_versions() -> None:
    """A section is renamed in the dial too; an error names the line and the present key."""
    recipe = parse_recipe('dial = ["average", "schedule"]\n[average]\ndecay = 0.5', PATH)
    assert recipe == Recipe.model_validate({"name": "some", "dial": ("ema", "schedule"), "ema": {"decay": 0.5}})
    assert "ema.decay" in recipe.explicit
    with pytest.raises(UsageError, match=r"some.toml:3: `ema.decay` = 2.0: input should be less than 1"):
        parse_recipe("epochs = 1\n[average]\ndecay = 2.0", PATH)


@pytest.mark.parametrize("table", [RECIPE_KEYS, CARD_FIELDS, TENSORS])
def test_only_the_last_part_of_a_name_changes(table: dict[str, str]) -> None:
    """So no value has to move between tables."""
    for old, new in table.items():
        assert old.rpartition(".")[0] == new.rpartition(".")[0]
        assert new not in table
