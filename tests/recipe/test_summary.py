"""The size of a network given by name, recipe or folder."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.errors import UsageError
from pocket_resnet.model.catalog import named
from pocket_resnet.model.design import Budget, design, fill_budget
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.summary import find_spec, summarise
from pocket_resnet.recipe.toml import load_recipe
from pocket_resnet.training.run import train


def test_figures_are_the_built_network_s(tiny_spec: NetworkSpec, tiny_model: ResNet) -> None:
    summary = summarise(tiny_spec)
    count = sum(parameter.numel() for parameter in tiny_model.parameters())
    assert summary["num_params"] == sum(layer["num_params"] for layer in summary["layers"]) == count
    assert summary["num_macs"] == sum(layer["num_macs"] for layer in summary["layers"])
    assert summary["num_bytes"] == 4 * count
    assert summary["spec"] == dataclasses.asdict(tiny_spec)
    largest = max(layer["out_shape"][0] * layer["out_shape"][1] * layer["out_shape"][2] for layer in summary["layers"])
    assert summary["peak_activation_bytes"] >= 4 * 2 * largest  # a layer's input and output at least


@pytest.mark.usefixtures("synthetic")
def test_every_kind_of_name(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe(max_steps=1)
    train(recipe, runs_dir=tmp_path, run="r")
    for name in (tmp_path / "r", tmp_path / "r" / "model", tmp_path / "r" / "recipe.toml"):
        assert find_spec(str(name)) == recipe.model
    assert find_spec("original") == named("original")
    assert find_spec("resnet20") == named("resnet20")
    assert find_spec("wrn-10-3").widths == (48, 96, 192)


def test_a_recipe_s_network_is_as_large_as_its_budget_allows(tmp_path: Path) -> None:
    """As `train` builds it: the dial's network, or the recipe's own one scaled."""
    assert find_spec("best") == design(Budget(num_params=5_000_000), epochs=load_recipe("best").epochs).spec
    for budget in ('"100K"', "100_000"):
        (tmp_path / "mine.toml").write_text(f'base = "fast"\nbudget = {budget}')
        scaled = find_spec(str(tmp_path / "mine.toml"))
        assert scaled == fill_budget(load_recipe("fast").model, Budget(num_params=100_000))


@pytest.mark.parametrize("name", ["resnet21", "none.toml", "wrn-11-1", ""])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UsageError):
        find_spec(name)


def test_folder_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no model here"):
        find_spec(".")
