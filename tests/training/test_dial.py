"""What follows from budget and epochs: more of both, more regularisation; nothing that was set is overruled."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from pocket_resnet.data.source import Source
from pocket_resnet.model.catalog import named
from pocket_resnet.model.spec import NetworkSpec, num_params
from pocket_resnet.recipe import Recipe, RecipeError
from pocket_resnet.training.dial import FULL_SIZE_PARAMS, follow, growing_sides, strength
from pocket_resnet.training.prepare import fit_to_data

ALL = ("augment", "optim", "average", "schedule", "resolutions")
LARGE, SMALL = named("original"), named("resnet20")


def dialled(spec: NetworkSpec, epochs: int, dial: tuple[str, ...] = ALL) -> dict[str, Any]:
    return follow(Recipe(model=spec, epochs=epochs, dial=dial))


@pytest.mark.parametrize("spec", [LARGE, SMALL])
def test_longer_runs_never_get_less(spec: NetworkSpec) -> None:
    amounts = [
        [
            float(value)
            for key, value in dialled(spec, epochs).items()
            if key.partition(".")[0] not in ("resolutions", "optim")
        ]
        for epochs in (1, 5, 10, 20, 50, 100, 200, 1000, 5000)
    ]
    for shorter, longer in itertools.pairwise(amounts):
        assert all(one <= other for one, other in zip(shorter, longer, strict=True))
    assert amounts[0] == [0.0] * len(amounts[0])
    assert all(amount > 0 for amount in amounts[-1])


def test_small_networks_are_spared() -> None:
    assert strength(LARGE, 40) == 40
    assert strength(SMALL, 40) == pytest.approx(40 * (num_params(SMALL) / FULL_SIZE_PARAMS) ** 0.5)
    assert dialled(LARGE, 40)["augment.trivial_augment"]
    assert not dialled(SMALL, 40)["augment.trivial_augment"]


def test_rates_follow_the_shape() -> None:
    """As measured: what a pooled network learns with, a staged one cannot bear (docs/log.md)."""
    for spec, scale in ((LARGE, 1.0), (named("fast"), 8.0)):
        found = dialled(spec, 10, ("optim",))
        assert found == {"optim.norm_bias_lr_scale": scale, "optim.head_lr_scale": scale}


def test_only_the_sections_asked_for() -> None:
    assert set(dialled(LARGE, 500, ("average",))) == {"average.decay"}
    assert dialled(LARGE, 500, ()) == {}


@pytest.mark.parametrize(
    ("section", "change"),
    [("augment", {"augment": {"mixup": 0.5}}), ("resolutions", {"resolutions": (16, 32)})],
)
def test_what_is_set_is_not_overruled(section: str, change: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="follows from budget and epochs here") as raised:
        follow(Recipe.model_validate({"dial": ALL} | change))
    assert raised.value.mend == f"leave `{section}` out of --dial to set it yourself"
    rest = tuple(name for name in ALL if name != section)
    assert follow(Recipe.model_validate({"dial": rest} | change))


def test_sides_grow_to_full_size() -> None:
    assert growing_sides(32, 20) == (20, 24, 24, 24, 28, 28, 28, 32, 32, 32)
    assert growing_sides(32, 9) == (16, 24, 32)
    assert growing_sides(31, 20) == ()
    for size, epochs in itertools.product(range(32, 100), (1, 10)):
        sides = growing_sides(size, epochs)
        assert list(sides) == sorted(sides)
        assert sides[-1] == size


def test_a_fitted_recipe_has_the_values_and_no_dial(source: Source) -> None:
    """So that recipe.toml says what was done, and a resumed run does the same."""
    recipe, remarks = fit_to_data(Recipe(dial=("model", *ALL), budget="50k", epochs=4000, batch_size=4), source, 14)
    assert recipe.dial == ()
    assert recipe.augment.trivial_augment
    assert recipe.average.decay > 0
    assert 48_500 <= num_params(recipe.model) <= 50_000
    assert recipe.model == replace(recipe.model, num_classes=3)
    assert [remark for remark in remarks if remark.startswith("the dial: ")]
    assert fit_to_data(recipe, source, 14)[0] == recipe
