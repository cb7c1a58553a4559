"""The search space: what its file may contain, and what is refused by name."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from pocket_resnet.errors import UsageError
from pocket_resnet.recipe.toml import load_recipe, override
from pocket_resnet.tuning.space import Choices, Range, load_space

GOOD = """
label_smoothing = { low = 0, high = 0.3 }
[optim]
lr = { low = 0.02, high = 1.0, log = true }
name = { choices = ["sgd", "muon"] }
[augment.crop_px]
low = 0
high = 4
step = 2
[model]
num_blocks = { choices = [[1, 1, 1], [2, 2, 2]] }
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Any]:
    def parse(text: str, recipe: str = "fast") -> Any:
        path = tmp_path / "a.space.toml"
        path.write_text(text)
        return load_space(path, load_recipe(recipe))

    return parse


def test_a_space_looks_like_a_recipe(load: Any) -> None:
    space = load(GOOD)
    assert space.dimensions == {
        "label_smoothing": Range(low=0.0, high=0.3),
        "optim.lr": Range(low=0.02, high=1.0, log=True),
        "optim.name": Choices(choices=["sgd", "muon"]),
        "augment.crop_px": Range(low=0, high=4, step=2),
        "model.num_blocks": Choices(choices=[[1, 1, 1], [2, 2, 2]]),
    }
    assert space.to_json()["optim.lr"] == {"low": 0.02, "high": 1.0, "log": True}


def test_every_drawn_value_makes_a_recipe(load: Any) -> None:
    space, recipe = load(GOOD), load_recipe("fast")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        values = space.suggest(trial)
        changed = override(recipe, values)
        assert changed.augment.crop_px in (0, 2, 4)
        assert 0.02 <= changed.optim.lr <= 1
        assert changed.model.num_blocks == tuple(values["model.num_blocks"])
        assert space.values(trial.params) == values
        assert space.params(changed) == trial.params


def test_values_that_the_space_lacks_are_not_its_first_trial(load: Any) -> None:
    recipe = override(load_recipe("fast"), {"augment.crop_px": 3, "optim.lr": 5.0})
    assert not {"augment.crop_px", "optim.lr"} & set(load(GOOD).params(recipe))
    assert load(GOOD).params(recipe)["optim.name"] == "muon"


@pytest.mark.threat(77)
@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("lable_smoothing = { low = 0, high = 1 }", 1, "unknown `lable_smoothing`, did you mean `label_smoothing`?"),
        ("[optim]\nlearnrate = { low = 0, high = 1 }", 2, "unknown `optim.learnrate`"),
        ("[optim]\n\nlr = { low = 1.0, high = 0.1 }", 3, "`optim.lr`: low 1.0 is not below high 0.1"),
        ("[optim]\nlr = { low = 0.0, high = 1.0, log = true }", 2, "`optim.lr`: a log scale needs low above 0"),
        ("[optim]\nlr = { low = -1.0, high = 1.0 }", 2, "`optim.lr` cannot be -1.0"),
        ("[optim]\nlr = { low = 0.1, high = 1.0, step = 2.0 }", 2, "`optim.lr`: step 2.0"),
        ("[optim]\nlr = { low = 0.1, high = 1.0, log = true, step = 0.1 }", 2, "log and step"),
        ("[optim]\nlr = { low = 0.1, high = 1.0, stepp = 1.0 }", 2, "unknown `optim.lr.stepp`, did you mean `step`?"),
        ("[optim]\nlr = { low = 0.1 }", 2, "optim.lr.high"),
        ("[optim]\nlr = { low = nan, high = 1.0 }", 2, "optim.lr.low"),
        ("[optim]\nlr = { low = '1', high = 1.0 }", 2, "optim.lr.low"),
        ("[optim]\nlr = 0.1", 2, "`optim.lr` = 0.1 is neither"),
        ("label_smoothing = { low = 0.5, high = 1.0 }", 1, "`label_smoothing` cannot be 1.0"),
        ("[augment]\nflip = { choices = ['none', 'twice'] }", 2, '`augment.flip` cannot be "twice"'),
        ("[augment]\nflip = { choices = ['none'] }", 2, "augment.flip.choices"),
        ("[augment]\nflip = { choices = ['none', 'none'] }", 2, 'the choice "none" occurs twice'),
        ("[augment]\ncrop_px = { low = 0.5, high = 2.5 }", 2, "`augment.crop_px` cannot be 0.5"),
        ("train_image_sizes = { choices = [[], [64]] }", 1, "`train_image_sizes` cannot be [64]"),
        ("[model]\nnum_blocks = { choices = [[1, 1], [2, 2, 2]] }", 2, "`model.num_blocks` cannot be [1, 1]"),
        ("budget = { choices = ['1M', '100M'] }", 1, "`budget` cannot be searched"),
        ("epochs = { low = 1, high = 9 }", 1, "`epochs` cannot be searched"),
        ("[model]\nimage_size = { low = 16, high = 64 }", 2, "`model.image_size` cannot be searched"),
        ("[model]\nwidths = { choices = [[8, 16, 32], [16, 32, 64]] }", 2, "`model.widths` cannot be searched"),
        ("[data]\nname = { choices = ['digits', '/etc'] }", 2, "`data.name` cannot be searched"),
        ("[hardware]\nnum_threads = { low = 1, high = 900 }", 2, "`hardware.num_threads` cannot be searched"),
    ],
)
def test_refused_by_file_line_and_key(load: Any, text: str, line: int, what: str) -> None:
    with pytest.raises(UsageError, match=re.escape(what)) as refused:
        load(text)
    assert f"a.space.toml:{line}: " in str(refused.value)
    assert "docs/search.md" in str(refused.value)


@pytest.mark.threat(77)
@pytest.mark.parametrize("text", ["", "[optim\n", "a." * 5000 + "b = 1", "x = 1" + "0" * 5000, "optim = 1", "\x00"])
def test_hostile_files(load: Any, text: str) -> None:
    with pytest.raises(UsageError):
        load(text)


@pytest.mark.threat(77)
def test_too_many_choices_and_too_large_a_file(load: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"optim\.lr\.choices"):
        load(f"[optim]\nlr = {{ choices = {[index / 1000 for index in range(101)]} }}")
    path = tmp_path / "large.toml"
    path.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(UsageError, match="not a search space"):
        load_space(path, load_recipe("fast"))
    with pytest.raises(UsageError, match="no such search space file"):
        load_space(tmp_path / "none.toml", load_recipe("fast"))


@pytest.mark.parametrize("name", ["fast", "cpu94", "best", "original", "pocket-5m"])
def test_the_default_space_suits_every_recipe(name: str, logged: pytest.LogCaptureFixture) -> None:
    """All of the recipe's own values are in it."""
    recipe = load_recipe(name)
    space = load_space(None, recipe)
    assert 5 <= len(space.dimensions) <= 8
    assert ("optim.muon_lr" in space.dimensions) == (recipe.optim.name == "muon")
    assert space.params(recipe).keys() == space.dimensions.keys()
    left_out = set(re.findall(r"not searched: ([\w.]+) ", logged.text))
    assert len(space.dimensions) + len(left_out) == 8


def test_the_default_image_sizes_are_for_32_pixels(logged: pytest.LogCaptureFixture) -> None:
    """Another network would end its training, and be judged, far from its own size."""
    recipe = override(load_recipe("fast"), {"model.image_size": 64, "train_image_sizes": ()})
    assert "train_image_sizes" not in load_space(None, recipe).dimensions
    assert "its default choices are for 32 pixels" in logged.text


def test_the_default_space_is_extended_to_the_recipe_s_own_values() -> None:
    changes = {"optim.lr": 2.0, "augment.crop_px": 6, "train_image_sizes": (8, 32), "optim.weight_decay": 0.0}
    dimensions = load_space(None, override(load_recipe("fast"), changes)).dimensions
    assert dimensions["optim.lr"] == Range(low=0.02, high=2.0, log=True)
    assert dimensions["augment.crop_px"] == Range(low=0, high=6)
    assert dimensions["train_image_sizes"] == Choices(choices=[[8, 32], [], [24, 28, 32], [16, 24, 32]])
    assert dimensions["optim.weight_decay"] == Range(low=1e-4, high=1e-2, log=True)  # a logarithm has no 0
