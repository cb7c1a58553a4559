"""Fitting a recipe to its data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pocket_resnet.data.source import Source
from pocket_resnet.device import choose
from pocket_resnet.errors import UsageError
from pocket_resnet.model.counts import num_params
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import load_recipe, override, parse_recipe, to_toml
from pocket_resnet.training.distributed import ALONE
from pocket_resnet.training.prepare import computed_on, fit_to_data, sample


def test_a_fitting_recipe_is_unchanged(
    make_recipe: Callable[..., Recipe], source: Source, logged: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe(data={"name": "synthetic"})
    assert fit_to_data(recipe, source, 14) == recipe
    assert logged.messages == []


def test_auto_becomes_the_chosen_data_set(make_recipe: Callable[..., Recipe], source: Source) -> None:
    """So a resumed run uses the same data set."""
    assert fit_to_data(make_recipe(data={"name": "auto"}), source, 14).data.name == "synthetic"


def test_classes_come_from_the_data(make_recipe: Callable[..., Recipe], source: Source) -> None:
    recipe = make_recipe(model=replace(make_recipe().model, num_classes=10))
    assert fit_to_data(recipe, source, 14).model.num_classes == 3


@pytest.mark.parametrize(("min_steps", "epochs"), [(0, 2), (4, 2), (5, 3), (100, 50)])
def test_few_images_get_more_epochs(
    min_steps: int,
    epochs: int,
    make_recipe: Callable[..., Recipe],
    source: Source,
    logged: pytest.LogCaptureFixture,
) -> None:
    recipe = fit_to_data(make_recipe(min_steps=min_steps), source, 14)
    assert recipe.epochs == epochs
    instead = f"{epochs} epochs instead of 2, validated every {recipe.validate_every}"
    assert logged.messages == ([f"14 images are few: training {instead} (--min-steps 0 keeps 2)"] if epochs > 2 else [])


@pytest.mark.parametrize(("requested", "every"), [(1, 7), (3, 3)])
def test_more_epochs_are_validated_as_often_as_before_or_as_asked(
    requested: int, every: int, make_recipe: Callable[..., Recipe], source: Source
) -> None:
    recipe = fit_to_data(make_recipe(min_steps=100, validate_every=requested), source, 14)
    assert (recipe.epochs, recipe.validate_every) == (50, every)


def test_digits_are_not_flipped(
    make_recipe: Callable[..., Recipe], source: Source, logged: pytest.LogCaptureFixture
) -> None:
    """A notice is logged only if the recipe flips, and not with notices off."""
    source.flip_invariant = False
    recipe = fit_to_data(make_recipe(), source, 14)
    assert recipe.augment.flip == "none"
    assert "so it is off" in logged.text
    logged.clear()
    assert fit_to_data(make_recipe(), source, 14, quiet=True) == recipe
    fit_to_data(make_recipe(augment={"flip": "none"}), source, 14)
    assert logged.messages == []


@pytest.mark.threat(15)
@pytest.mark.parametrize("image_sizes", [(), (4, 8)])
def test_batch_norm_needs_two_values(
    image_sizes: tuple[int, ...], make_recipe: Callable[..., Recipe], source: Source
) -> None:
    """One image per step is refused if some image size leaves one pixel before a norm; otherwise it trains."""
    stages: Any = {"num_blocks": (1, 1, 1), "widths": (4, 8, 8), "kernel_sizes": (3, 3, 3)}
    stages |= {"shortcut_kernel_sizes": (1, 1, 1), "image_size": 8 if image_sizes else 4}
    spec = replace(make_recipe().model, **stages)

    def fit(**changes: Any) -> None:
        fit_to_data(
            make_recipe(**{"train_image_sizes": image_sizes, "batch_size": 1, "model": spec} | changes), source, 14
        )

    with pytest.raises(UsageError, match=r"batch_size: batch norm cannot .* \(at 4 pixels\)\n  use --batch-size 2"):
        fit()
    fit(batch_size=2)
    fit(model=replace(spec, batch_norm=False))
    fit(model=replace(spec, image_size=8), train_image_sizes=())


@pytest.mark.parametrize("budget", ["1000", "2K", "0.1M"])
def test_budget_scales_the_network_once(budget: str, make_recipe: Callable[..., Recipe], source: Source) -> None:
    """A run resumed from its own recipe.toml has the same network."""
    recipe = fit_to_data(make_recipe(budget=budget), source, 14)
    assert num_params(recipe.model) <= {"1000": 1_000, "2K": 2_000, "0.1M": 100_000}[budget]
    assert fit_to_data(recipe, source, 14) == recipe


@pytest.mark.threat(15)
@pytest.mark.parametrize(("optim", "warns"), [({"lr": 0.0}, True), ({"muon_lr": 0.0}, True), ({}, False)])
def test_learning_rate_of_0(
    optim: dict[str, Any],
    warns: bool,
    make_recipe: Callable[..., Recipe],
    source: Source,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also where a program has not set up logging, which then shows warnings alone."""
    fit_to_data(make_recipe(optim=optim), source, 14)
    assert ("a learning rate of 0" in caplog.text) == warns


def test_sample_is_of_all_classes() -> None:
    """A folder lists one class after the other, so its first images are of one class."""
    labels_N = torch.arange(4).repeat_interleave(100)
    counts = torch.bincount(labels_N[sample(400, 80, seed=3)], minlength=4)
    assert counts.sum() == 80
    assert counts.min() >= 10
    assert torch.equal(sample(400, 80, seed=3), sample(400, 80, seed=3))
    assert len(sample(400, 1000, seed=3)) == 400


def test_the_dials_shape_follows_from_the_epochs_asked_for(source: Source) -> None:
    """Not from those that min_steps adds where images are few: the run stays short in optimizer steps."""
    requested = Recipe(dial=("model", "optim"), budget="20k", epochs=3, batch_size=4, min_steps=400)
    recipe = fit_to_data(requested, source, 14)
    assert recipe.epochs == 100
    assert recipe.model.downsample == "pool"
    assert recipe.optim.head_lr_scale == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": "5M", "model.widths": (16, 32, 64)},
        {"budget": "2716", "model.stem_width": 16},
        {"budget": "1M", "max_macs": "3M"},
        {"budget": "400"},
        {"max_bytes": "1MB", "model.widths": (4, 8, 16)},
        {"budget": "50K"},
    ],
)
def test_a_run_s_recipe_describes_the_same_network_when_read_again(changes: dict[str, Any], source: Source) -> None:
    """Also if the network leaves much of its limits unused; another budget scales it."""
    recipe = override(load_recipe("best"), changes | {"epochs": 40, "batch_size": 4})
    first = fit_to_data(recipe, source, 14, quiet=True)
    again = fit_to_data(parse_recipe(to_toml(first), Path("recipe.toml")), source, 14, quiet=True)
    assert again == first
    larger = fit_to_data(
        override(again, {"budget": "60K", "max_macs": None, "max_bytes": None}), source, 14, quiet=True
    )
    assert 57_000 < num_params(larger.model) <= 60_000


@pytest.mark.parametrize(("algorithm", "name"), [("winograd", "Winograd"), ("side_by_side", "side by side")])
def test_a_run_records_the_algorithm_of_its_convolutions(
    make_recipe: Callable[..., Recipe], algorithm: str, name: str
) -> None:
    """Another one changes the last bits, so a run that resumes with it says that it is not bit-exact."""
    plain = replace(choose("cpu"), winograd=False, side_by_side=False)
    without = computed_on(plain, make_recipe(), ALONE)
    assert computed_on(replace(plain, **{algorithm: True}), make_recipe(), ALONE) == f"{without}, {name}"


def test_a_compiled_run_puts_no_images_side_by_side(make_recipe: Callable[..., Recipe]) -> None:
    compiled = make_recipe(hardware={"compile": True})
    names = [computed_on(replace(choose("cpu"), side_by_side=used), compiled, ALONE) for used in (True, False)]
    assert names[0] == names[1]
