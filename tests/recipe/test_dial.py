"""The dial: more budget and epochs give more regularisation; explicit values are kept."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pocket_resnet
from pocket_resnet.cli.main import parse_command
from pocket_resnet.data.source import Source
from pocket_resnet.errors import UsageError
from pocket_resnet.model.catalog import named
from pocket_resnet.model.counts import num_params
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.base import dotted
from pocket_resnet.recipe.dial import FULL_SIZE_PARAMS, follow, growing_image_sizes, network, strength
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import load_recipe, override, parse_recipe, to_toml
from pocket_resnet.training.prepare import fit_to_data

ALL = ("augment", "optim", "ema", "schedule", "train_image_sizes")
LARGE, SMALL = named("original"), named("resnet20")


def dialled(spec: NetworkSpec, epochs: int, dial: tuple[str, ...] = ALL) -> dict[str, Any]:
    return follow(Recipe(model=spec, epochs=epochs, dial=dial))


@pytest.mark.parametrize("spec", [LARGE, SMALL])
def test_longer_runs_never_get_less_regularisation(spec: NetworkSpec) -> None:
    amounts = [
        [
            float(value)
            for key, value in dialled(spec, epochs).items()
            if key.partition(".")[0] not in ("train_image_sizes", "optim") and key != "augment.distort_until"
        ]
        for epochs in (1, 5, 10, 20, 50, 100, 200, 1000, 5000)
    ]
    for shorter, longer in itertools.pairwise(amounts):
        assert all(one <= other for one, other in zip(shorter, longer, strict=True))
    assert amounts[0] == [0.0] * len(amounts[0])
    assert all(amount > 0 for amount in amounts[-1])


def test_small_networks_get_less_regularisation() -> None:
    assert strength(LARGE, 40) == 40
    assert strength(SMALL, 40) == pytest.approx(40 * (num_params(SMALL) / FULL_SIZE_PARAMS) ** 0.5)
    assert dialled(LARGE, 40)["augment.trivial_augment"]
    assert not dialled(SMALL, 40)["augment.trivial_augment"]


def test_runs_that_distort_end_undistorted() -> None:
    assert [dialled(LARGE, epochs)["augment.distort_until"] for epochs in (20, 24, 200)] == [1.0, 0.9, 0.9]


def test_rates_follow_the_shape() -> None:
    """As measured in docs/log.md: rates that suit a pooled network are too high for a staged one."""
    for spec, scale in ((LARGE, 1.0), (named("fast"), 8.0)):
        rates = dialled(spec, 10, ("optim",))
        assert rates == {"optim.norm_bias_lr_scale": scale, "optim.head_lr_scale": scale}


def test_only_the_sections_asked_for() -> None:
    assert set(dialled(LARGE, 500, ("ema",))) == {"ema.window"}
    assert dialled(LARGE, 500, ()) == {}


DIALLED = follow(Recipe(dial=ALL))
SHORT, LONG = 3, 4000  # epochs after which the dial moves rates, and everything else, away from their defaults


def by_flag(changes: dict[str, Any], _folder: Path, _monkeypatch: pytest.MonkeyPatch) -> Recipe:
    words = ["best"]
    for key, value in changes.items():
        section, _, leaf = key.replace("_", "-").rpartition(".")
        name = f"--{section}.{leaf}" if section else f"--{leaf}"
        if isinstance(value, bool):
            words.append(name if value else f"--{section}.no-{leaf}")
        else:
            words += [name, *map(str, value if isinstance(value, tuple) else [value])]
    recipe: Recipe = parse_command("train", words).recipe
    return recipe


def as_toml(base: str, changes: dict[str, Any]) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in changes.items()]
    return "\n".join([f"base = {json.dumps(base)}", *lines])


def by_toml(changes: dict[str, Any], folder: Path, _monkeypatch: pytest.MonkeyPatch) -> Recipe:
    (folder / "mine.toml").write_text(as_toml("best", changes))
    return load_recipe(str(folder / "mine.toml"))


def by_base(changes: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    by_toml(changes, folder, monkeypatch)
    (folder / "again.toml").write_text(as_toml(str(folder / "mine.toml"), {"seed": 1}))
    return load_recipe(str(folder / "again.toml"))


def by_program(changes: dict[str, Any], _folder: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    requested: list[Recipe] = []
    monkeypatch.setattr("pocket_resnet.training.run.train", lambda recipe, **_: requested.append(recipe))
    pocket_resnet.train("best", **{key.replace(".", "__"): value for key, value in changes.items()})
    return requested[0]


@pytest.mark.threat(58)
@pytest.mark.parametrize("way", [by_flag, by_toml, by_base, by_program])
@pytest.mark.parametrize("key", DIALLED)
def test_explicit_values_override_the_dial_even_at_their_default(
    key: str, way: Callable[..., Recipe], source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Any
) -> None:
    """By flag, recipe file, base or program; a notice names them, and recipe.toml resumes with the same."""
    default = dotted(Recipe().model_dump())[key]
    changes = {"epochs": SHORT if key.startswith("optim.") else LONG, "budget": "50k", "batch_size": 4, "min_steps": 0}
    left = fit_to_data(override(load_recipe("best"), changes), as_32(source), 14)
    assert dotted(left.model_dump())[key] != default
    logged.clear()
    recipe = fit_to_data(way(changes | {key: default}, tmp_path, monkeypatch), as_32(source), 14)
    assert dotted(recipe.model_dump())[key] == default
    assert [line for line in logged.messages if line.startswith("kept because you set them: ") and key in line]
    others = {name: value for name, value in dotted(left.model_dump()).items() if name not in (key, "name", "seed")}
    assert others.items() <= dotted(recipe.model_dump()).items()
    logged.clear()
    again = fit_to_data(parse_recipe(to_toml(recipe), tmp_path / "recipe.toml"), as_32(source), 14)
    assert again == recipe
    assert not [line for line in logged.messages if "dial" in line]


@pytest.mark.threat(58)
@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"ema.decay": 0.99}, "ema.decay 0.99 (dial: ema.window 0.04)"),
        ({"ema.decay": 0.0}, "ema.decay 0.0 (dial: ema.window 0.04)"),
        ({"ema.window": 0.1}, "ema.window 0.1 (dial: 0.04)"),
        ({"ema.window": 0.04}, None),
    ],
)
def test_a_notice_names_the_key_that_was_set(
    changes: dict[str, Any], kept: str | None, source: Source, logged: Any
) -> None:
    """Also if it replaces the dialled key."""
    requested = override(load_recipe("best"), {"epochs": LONG, "budget": "50k", "batch_size": 4} | changes)
    fit_to_data(requested, as_32(source), 14)
    notices = [line for line in logged.messages if "you set" in line]
    assert notices == ([f"kept because you set them: {kept}"] if kept else [])


def as_32(source: Source) -> Source:
    """The synthetic data, with the image size of the recipe `best`; only metadata are read."""
    source.image_size = 32
    return source


@pytest.mark.threat(58)
@pytest.mark.parametrize(
    "changes",
    [
        {"model.dropout": 0.2},
        {"model.activation": "relu", "epochs": SHORT},
        {"model.stem_width": 24},
        {"model.num_blocks": (1, 2, 3)},
    ],
)
def test_explicit_network_keys_stay_and_the_dial_fills_the_budget(
    changes: dict[str, Any], tmp_path: Path, source: Source
) -> None:
    """The dial decides the rest of the network."""
    requested = by_toml({"budget": "200k"} | changes, tmp_path, pytest.MonkeyPatch())
    spec = fit_to_data(requested, source, 1000).model
    for key, value in changes.items():
        assert key == "epochs" or getattr(spec, key.removeprefix("model.")) == value
    assert 190_000 <= num_params(spec) <= 200_000


@pytest.mark.threat(58)
def test_explicit_widths_must_fit_the_budget(source: Source) -> None:
    """No dial scales them."""
    requested = override(load_recipe("best"), {"model.widths": (8, 16, 32), "budget": "50k"})
    assert fit_to_data(requested, source, 1000).model.widths == (8, 16, 32)
    with pytest.raises(UsageError, match=r"widths \(8, 16, 32\) has [\d,]+ parameters, over the budget of 10,000"):
        fit_to_data(override(requested, {"budget": "10k"}), source, 1000)


@pytest.mark.threat(58)
def test_a_named_network_is_scaled_as_without_a_dial(tmp_path: Path, source: Source) -> None:
    """Not replaced by another one."""
    (tmp_path / "mine.toml").write_text('base = "best"\nbudget = "200k"\n[model]\nnetwork = "fast"\n')
    spec = fit_to_data(load_recipe(str(tmp_path / "mine.toml")), source, 1000).model
    assert spec.stem == "whitening"
    assert spec.downsample == "pool-late"
    assert 190_000 <= num_params(spec) <= 200_000


@pytest.mark.threat(58)
def test_an_explicit_decay_replaces_the_dials_window() -> None:
    for decay in (0.0, 0.99):
        assert "ema.window" not in follow(Recipe.model_validate({"epochs": LONG, "dial": ALL, "ema": {"decay": decay}}))
    assert "ema.window" in follow(Recipe.model_validate({"epochs": LONG, "dial": ALL, "ema": {}}))


def test_image_sizes_grow_to_full_size() -> None:
    assert growing_image_sizes(32, 20) == (20, 24, 24, 24, 28, 28, 28, 32, 32, 32)
    assert growing_image_sizes(32, 9) == (16, 24, 32)
    assert growing_image_sizes(31, 20) == ()
    for size, epochs in itertools.product(range(32, 100), (1, 10)):
        image_sizes = growing_image_sizes(size, epochs)
        assert list(image_sizes) == sorted(image_sizes)
        assert image_sizes[-1] == size


def test_a_fitted_recipe_has_values_and_no_dial(source: Source, logged: Any) -> None:
    """So recipe.toml records the values, and a resumed run uses the same."""
    recipe = fit_to_data(Recipe(dial=("model", *ALL), budget="50k", epochs=4000, batch_size=4), source, 14)
    assert recipe.dial == ()
    assert recipe.augment.trivial_augment
    assert recipe.ema.window > 0
    assert 48_500 <= num_params(recipe.model) <= 50_000
    assert recipe.model.num_classes == 3
    [line] = [line for line in logged.messages if line.startswith("chosen for this network and number of epochs: ")]
    assert "augment.trivial_augment, augment.random_erasing 0.1, augment.mixup 0.2, " in line
    assert "optim." not in line  # the rates of this network are those of the recipe
    assert fit_to_data(recipe, source, 14) == recipe


def test_fine_tuning_has_lower_rates_unless_they_are_set() -> None:
    """The network is never scaled: it is the model's."""
    untrained, requested = load_recipe("best"), override(load_recipe("finetune"), {"pretrained.model": "m"})
    rates = follow(requested)
    for key in ("optim.lr", "optim.muon_lr"):
        assert 0 < rates[key] < dotted(untrained.model_dump())[key]
        assert follow(override(requested, {key: 0.123})).keys() == rates.keys() - {key}
    assert "optim.lr" not in follow(load_recipe("finetune"))
    assert network(override(requested, {"budget": "5M"}), 7) == replace(requested.model, num_classes=7)
