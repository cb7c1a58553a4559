"""Recipes: errors name a misspelt key or wrong value with its line; TOML round trips."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pocket_resnet.errors import UsageError
from pocket_resnet.model.catalog import CATALOG, named
from pocket_resnet.recipe.base import RecipeError
from pocket_resnet.recipe.schema import COUNT_FORMS, Recipe, parse_count
from pocket_resnet.recipe.toml import differences, load_recipe, override, parse_recipe, recipes_folder, to_toml

PATH = Path("some.toml")
DEFAULTS = Recipe().model_dump(mode="json")
KEYS = [
    *(f"{section}.{key}" for section, values in DEFAULTS.items() if isinstance(values, dict) for key in values),
    *(key for key, value in DEFAULTS.items() if not isinstance(value, dict)),
]


def toml_with(key: str, literal: str) -> tuple[str, int]:
    """A recipe that sets this key, and the line it does so on."""
    section, _, leaf = key.rpartition(".")
    lines = [
        "# a comment with [brackets] and a = sign",
        "",
        *([f"[{section}]"] if section else []),
        f"{leaf} = {literal}",
    ]
    return "\n".join(lines) + "\n", len(lines)


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as raised:
        parse_recipe(text, PATH)
    assert raised.value.exit_code == 2
    return str(raised.value)


@pytest.mark.threat(18)
@pytest.mark.parametrize("key", KEYS)
def test_misspelt_key(key: str) -> None:
    """File, line, the key as written and the nearest known key."""
    text, line = toml_with(key + key[-1], "1")
    message = f"some.toml:{line}: unknown `{key}{key[-1]}`, did you mean `{key.rpartition('.')[2]}`?"
    assert refusal(text) == f"{message}\n  pocket-resnet train --help explains every key"


@pytest.mark.threat(18)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("literal", ["[[1.5]]", "{ a = 1 }", "1979-05-27", "nan", "-1e999"])
def test_wrong_type(key: str, literal: str) -> None:
    """No key takes any of these; it is named with its line."""
    text, line = toml_with(key, literal)
    assert refusal(text).startswith(f"some.toml:{line}: ")
    assert key.rpartition(".")[2] in refusal(text)


TEXTS = ("name", "budget", "max_macs", "max_bytes", "init_from", "teacher.model", "pretrained.model")


@pytest.mark.threat(18)
@pytest.mark.parametrize("key", [key for key in KEYS if not {key, key.rpartition(".")[2]} & set(TEXTS)])
def test_numbers_and_switches_are_strict(key: str) -> None:
    """ "1" is not 1, true is not 1, 1 is not true."""
    assert key.rpartition(".")[2] in refusal(toml_with(key, '"1"')[0])
    section, _, leaf = key.rpartition(".")
    default = DEFAULTS[section][leaf] if section else DEFAULTS[leaf]
    assert key.rpartition(".")[2] in refusal(toml_with(key, "1" if isinstance(default, bool) else "true")[0])


@pytest.mark.threat(18)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optimm]\nlr = 1.0", "some.toml:1: unknown `optimm`, did you mean `optim`?"),
        ("[optim]\nlerning_rate = 1", "some.toml:2: unknown `optim.lerning_rate`, did you mean `lr`?"),
        ("[augment]\nlearning_rate = 1", "some.toml:2: unknown `augment.learning_rate`"),
        ("optim.lr = 'x'", "some.toml:1: `optim.lr` = 'x': input should be a valid number"),
        ("\noptim = { lr = 'x' }", "some.toml:2: `optim.lr` = 'x'"),
        ("[ 'optim' ]\n\n 'lr'  = 'x'", "some.toml:3: `optim.lr` = 'x'"),
        ("epochs = 2\noptim = 3", "some.toml:2: `optim` = 3"),
        (
            "[optim]\nlookahead_steps = 9223372036854775808",
            "some.toml:2: `optim.lookahead_steps`: a whole number of more",
        ),
        ("epochs = 0", "some.toml:1: `epochs` = 0: input should be greater than or equal to 1"),
        ("[augment]\nflip = 'maybe'", "input should be 'none', 'random' or 'alternating'"),
        ("[augment]\nerasing = 1.1", "less than or equal to 1"),
        ("label_smoothing = 1.0", "some.toml:1: `label_smoothing` = 1.0: input should be less than 1"),
        ("train_image_sizes = [16, 64]", "some.toml:1: train_image_sizes (16, 64) exceed model.image_size 32"),
        (
            "\ntrain_image_sizes = [32, 4]\n[model]\nnetwork = 'fast'",
            "some.toml:2: train_image_sizes: 4 pixels: too small: no pixels are left after",
        ),
        ("[optim]\nnesterov = true\nmomentum = 0.0", "some.toml:2: optim.nesterov needs optim.momentum above 0"),
        ("[model]\nwidths = [1, 2]", "some.toml:1: num_blocks: stages must agree in number"),
        ("[model]\nnum_blocks = [0, 1, 1]", "some.toml:2: num_blocks: a stage without blocks"),
        (
            "[model]\nnetwork = 'resnet21'",
            "some.toml:2: network: no network is named 'resnet21', did you mean `resnet",
        ),
        ("budget = '5X'", f"some.toml:1: budget '5X' is not a number of parameters\n  give {COUNT_FORMS['budget']}"),
        ("epochs = 1\nepochs = 2", "some.toml: not TOML: Cannot overwrite a value (at end of document)"),
        ("a = 1\nb =\n", "some.toml: not TOML: Invalid value (at line 2"),
        ("x = " + 5000 * "[", "some.toml: nested too deeply"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    assert message in refusal(text)


def test_image_sizes_are_checked_against_the_dials_network() -> None:
    """The dial's network is known only with the data; the recipe's own one is too deep for 4 pixels."""
    changes = {"budget": "1M", "epochs": 20, "train_image_sizes": [4, 32]}
    assert override(load_recipe("fast"), changes | {"dial": ["model"]}).train_image_sizes == (4, 32)
    with pytest.raises(RecipeError, match="4 pixels: too small"):
        override(load_recipe("fast"), changes)


def test_recipe_by_name() -> None:
    assert load_recipe("original").name == "original"
    with pytest.raises(UsageError, match="unknown recipe `orignal`, did you mean `original`") as raised:
        load_recipe("orignal")
    assert "fast" in str(raised.value)


def test_name_defaults_to_the_files(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("")
    assert load_recipe(str(tmp_path / "mine.toml")).name == "mine"


def test_network_by_name_with_changes() -> None:
    recipe = parse_recipe("[model]\nnetwork = 'resnet20'\ndropout = 0.5", PATH)
    assert recipe.model.dropout == 0.5
    assert recipe.model.widths == named("resnet20").widths


def test_default_network_is_the_original() -> None:
    assert Recipe().model == named("original")


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        *(load_recipe(path.stem) for path in recipes_folder().glob("*.toml")),
        *(Recipe(model=s) for s in CATALOG.values()),
    ],
)
def test_toml_round_trip(recipe: Recipe) -> None:
    assert parse_recipe(to_toml(recipe), PATH) == recipe


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    name=TEXT,
    data=TEXT,
    lr=st.floats(0, allow_infinity=False),
    seed=st.integers(0, 2**63 - 1),
    image_sizes=st.lists(st.integers(4, 32)),
)
def test_toml_round_trip_of_any_value(name: str, data: str, lr: float, seed: int, image_sizes: list[int]) -> None:
    """Paths with quotes, newlines, control characters and emoji; the smallest and the largest numbers."""
    recipe = override(
        Recipe(), {"name": name, "data.name": data, "optim.lr": lr, "seed": seed, "train_image_sizes": image_sizes}
    )
    again = parse_recipe(to_toml(recipe), PATH)
    assert again == recipe
    assert again.data.name == data


def test_recipes_are_frozen() -> None:
    for target in (Recipe(), Recipe().optim):
        with pytest.raises(ValidationError, match="frozen"):
            target.kind = 1  # type: ignore[union-attr]


def test_override() -> None:
    recipe = override(
        Recipe(), {"optim.lr": 0.5, "epochs": 3, "train_image_sizes": [16, 32], "model.widths": [8, 8, 8]}
    )
    assert (recipe.optim.lr, recipe.epochs, recipe.train_image_sizes) == (0.5, 3, (16, 32))
    assert recipe.model.widths == (8, 8, 8)
    assert recipe.optim.momentum == Recipe().optim.momentum
    for key in ("optim.lrr", "epochs.x", "optimm.lr", "optim.lr.x"):
        with pytest.raises(RecipeError) as raised:
            override(Recipe(), {key: 1})
        assert raised.value.key.startswith(key.split(".")[0])


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield from flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


@pytest.mark.parametrize("key", KEYS)
def test_every_change_is_a_difference(key: str) -> None:
    """Every key except hardware, checkpoints and max_steps; a changed value appears under its key."""
    old = dict(flat(DEFAULTS))[key]
    candidates = [not old] if isinstance(old, bool) else [1, 2, 0.5, "x", "5M", [4], [1, 1, 1], [3, 3, 1], [64, 64, 64]]
    candidates += ["trainval", "reflect", "none", "muon", "linear", "cpu", "fp32", "off", "dirac", "whitening", "pool"]
    candidates += ["identity", "balanced", "single", "stem", "gelu", "max", 5, 64, ["model"], "0" * 64]
    changed = None
    for candidate in candidates:
        with contextlib.suppress(UsageError):
            changed = override(Recipe(), {key: candidate})
            if dict(flat(changed.model_dump(mode="json")))[key] != old:
                break
    assert changed is not None
    different_keys = [line.partition(":")[0] for line in differences(Recipe(), changed)]
    free = key in ("max_steps", "track", "data.num_workers", "teacher.model", "pretrained.model") or key.startswith(
        ("hardware.", "checkpoint.")
    )
    assert different_keys == ([] if free else [key])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("5M", 5_000_000),
        ("500k", 500_000),
        ("1.5M", 1_500_000),
        (" 4_697_742 ", 4_697_742),
        ("2.01M", 2_010_000),
        ("1", 1),
    ],
)
def test_budgets(text: str, count: int) -> None:
    assert parse_count(text) == count


@given(st.integers(1, 10**9))
def test_budgets_in_millions_are_exact(count: int) -> None:
    assert parse_count(f"{count / 1e6:.6f}M") == count


@pytest.mark.threat(16)
@pytest.mark.parametrize(
    "text", ["0", "5X", "", "M", "-5M", "1e6", "0.5", "1.0000001M", "5MM", "5 M", "nan", "inf", "9" * 99]
)
def test_invalid_budgets(text: str) -> None:
    """Field and accepted forms."""
    with pytest.raises(RecipeError, match="budget") as raised:
        parse_count(text)
    assert COUNT_FORMS["budget"] in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hard_fraction": 0.5, "augment": {"mixup": 0.2}}, "cannot be combined with augment.mixup or augment.cutmix"),
        ({"hard_fraction": 0.5, "augment": {"cutmix": 1.0}}, "cannot be combined with augment.mixup or augment.cutmix"),
        ({"hard_fraction": 0.5, "batch_size": 1}, "drops no image from batches of 1"),
        ({"hard_fraction": 0.9, "batch_size": 2}, "hard_fraction 0.9 drops no image from batches of 2"),
    ],
)
def test_invalid_hard_fractions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as raised:
        Recipe.model_validate(changes)
    assert raised.value.key == "hard_fraction"
    assert Recipe.model_validate({"hard_fraction": 0.9, "batch_size": 8}).hard_fraction == 0.9


@pytest.mark.parametrize("model", [{"preactivation": True}, {"batch_norm": False}])
def test_a_residual_gain_needs_a_norm(model: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="residual_gain needs blocks that end in a norm"):
        Recipe.model_validate({"residual_gain": 0.0, "model": model})
    assert Recipe.model_validate({"model": model}).residual_gain == 1


def test_class_weights_need_labels_in_the_loss() -> None:
    with pytest.raises(RecipeError, match=r"class_weights has no effect if teacher\.weight is 1"):
        Recipe.model_validate({"class_weights": "balanced", "teacher": {"model": "m"}})
    section = {"model": "m", "weight": 0.5}
    assert Recipe.model_validate({"class_weights": "balanced", "teacher": section}).class_weights == "balanced"


def test_a_teacher_needs_distorted_epochs() -> None:
    with pytest.raises(RecipeError, match=r"teacher\.model has no effect if augment\.distort_until is 0"):
        Recipe.model_validate({"augment": {"distort_until": 0}, "teacher": {"model": "m"}})
    assert Recipe.model_validate({"augment": {"distort_until": 0}}).augment.distort_until == 0
