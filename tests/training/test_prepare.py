"""What a recipe becomes for its data, and where its run goes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pocket_resnet.data.source import Source, Split
from pocket_resnet.errors import UsageError
from pocket_resnet.model.spec import num_params
from pocket_resnet.recipe import Recipe
from pocket_resnet.training.prepare import fit_to_data, run_folder, sample


def test_nothing_to_do(make_recipe: Callable[..., Recipe], source: Source) -> None:
    recipe = make_recipe(data={"name": "synthetic"})
    assert fit_to_data(recipe, source, 14) == (recipe, [])


def test_auto_becomes_what_was_found(make_recipe: Callable[..., Recipe], source: Source) -> None:
    """So that a resumed run does not look again and find something else."""
    assert fit_to_data(make_recipe(data={"name": "auto"}), source, 14)[0].data.name == "synthetic"


def test_classes_come_from_the_data(make_recipe: Callable[..., Recipe], source: Source) -> None:
    recipe = make_recipe(model=replace(make_recipe().model, num_classes=10))
    assert fit_to_data(recipe, source, 14)[0].model.num_classes == 3


@pytest.mark.parametrize(("min_steps", "epochs"), [(0, 2), (4, 2), (5, 3), (100, 50)])
def test_few_images_get_more_epochs(
    min_steps: int, epochs: int, make_recipe: Callable[..., Recipe], source: Source
) -> None:
    recipe, remarks = fit_to_data(make_recipe(min_steps=min_steps), source, 14)
    assert recipe.epochs == epochs
    told = f"14 images are few: {epochs} epochs instead of 2 (--min-steps 0 keeps 2)"
    assert remarks == ([told] if epochs > 2 else [])


def test_digits_are_not_mirrored(make_recipe: Callable[..., Recipe], source: Source) -> None:
    recipe, [remark] = fit_to_data(make_recipe(), replace(source, mirrored=False), 14)
    assert recipe.augment.flip == "none"
    assert "none are shown" in remark
    assert fit_to_data(make_recipe(augment={"flip": "none"}), replace(source, mirrored=False), 14)[1] == []


@pytest.mark.parametrize("budget", ["1000", "2K", "0.1M"])
def test_budget_scales_the_network_once(budget: str, make_recipe: Callable[..., Recipe], source: Source) -> None:
    """A run that goes on from its own recipe.toml has the same network."""
    recipe, _ = fit_to_data(make_recipe(budget=budget), source, 14)
    assert num_params(recipe.model) <= {"1000": 1_000, "2K": 2_000, "0.1M": 100_000}[budget]
    assert fit_to_data(recipe, source, 14)[0] == recipe


@pytest.mark.parametrize(("optim", "warns"), [({"lr": 0.0}, True), ({"muon_lr": 0.0}, True), ({}, False)])
def test_learning_rate_of_0(
    optim: dict[str, Any], warns: bool, make_recipe: Callable[..., Recipe], source: Source
) -> None:
    """Row 15."""
    assert any("warning" in remark for remark in fit_to_data(make_recipe(optim=optim), source, 14)[1]) == warns


def test_default_folders(make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path) -> None:
    """NAME, NAME-2, NAME-3; resuming goes on with the last."""
    recipe = make_recipe(seed=7)
    for name in ("tiny-synthetic-seed7", "tiny-synthetic-seed7-2", "tiny-synthetic-seed7-3"):
        found = run_folder(tmp_path, recipe, source, None, resume=False)
        assert found == tmp_path / name
        found.mkdir()
        assert run_folder(tmp_path, recipe, source, None, resume=True) == found
    assert run_folder(tmp_path / "new", recipe, source, None, resume=True).name == "tiny-synthetic-seed7"


def test_default_folder_stays_in_runs(make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path) -> None:
    for name, data in {"../../up": "/a/b c\n", "/abs": "..", "a/b": "."}.items():
        found = run_folder(tmp_path, make_recipe(name=name), replace(source, name=data), None, resume=False)
        assert found.parent == tmp_path
        assert found.name.endswith("-seed0")
        assert not set(found.name) & set("/\n ")


def test_named_folder(make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path) -> None:
    recipe = make_recipe()
    assert run_folder(tmp_path, recipe, source, "mine", resume=False) == tmp_path / "mine"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.toml").touch()
    with pytest.raises(UsageError, match="this run exists"):
        run_folder(tmp_path, recipe, source, "mine", resume=False)
    assert run_folder(tmp_path, recipe, source, "mine", resume=True) == tmp_path / "mine"
    for name in ("../x", "a/b", "/abs", "..", ".hidden", ""):
        with pytest.raises(UsageError, match="not a plain folder name"):
            run_folder(tmp_path, recipe, source, name, resume=False)


def test_link_to_the_latest_run_is_followed(make_recipe: Callable[..., Recipe], source: Source, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "latest").symlink_to("mine")
    assert run_folder(tmp_path, make_recipe(), source, "latest", resume=True) == tmp_path / "mine"


def test_sample_is_of_all_classes() -> None:
    """A folder lists one class after the other, so its first images are of one class."""
    labels_N = torch.arange(4).repeat_interleave(100)
    split = Split(labels_N.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2), labels_N)
    counts = torch.bincount(sample(split, 80, seed=3)[:, 0, 0, 0].long(), minlength=4)
    assert counts.sum() == 80
    assert counts.min() >= 10
    assert torch.equal(sample(split, 80, seed=3), sample(split, 80, seed=3))
    assert len(sample(split, 1000, seed=3)) == 400
