"""The recipes that come with the product."""

import re

import pytest

from pocket_resnet.recipe_toml import load_recipe, recipes_folder

NAMES = sorted(path.stem for path in recipes_folder().glob("*.toml"))


def test_there_are_some() -> None:
    assert {"fast", "original"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_loads_and_its_header_names_its_command(name: str) -> None:
    assert load_recipe(name).name == name
    text = (recipes_folder() / f"{name}.toml").read_text(encoding="utf-8")
    header = re.match(r"(#.*\n)+", text)
    assert header, "no comment at the top"
    assert header[0].startswith(f"# {name}: ")
    assert re.search(rf"^#\s+pocket-resnet train {re.escape(name)}\b", header[0], re.MULTILINE)
