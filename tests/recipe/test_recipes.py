"""The recipes that come with the product."""

import re

import pytest

from pocket_resnet.recipe.toml import load_recipe, recipes_folder

NAMES = sorted(path.stem for path in recipes_folder().glob("*.toml"))


def header(name: str) -> str:
    """The comment at the top."""
    comment = re.match(r"(#.*\n)+", (recipes_folder() / f"{name}.toml").read_text(encoding="utf-8"))
    assert comment, "no comment at the top"
    return comment[0]


def test_recipes_are_packaged() -> None:
    assert {"fast", "original"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_loads_and_its_header_names_its_command(name: str) -> None:
    assert load_recipe(name).name == name
    assert header(name).startswith(f"# {name}: ")
    assert re.search(rf"^#\s+pocket-resnet train {re.escape(name)}\b", header(name), re.MULTILINE)
