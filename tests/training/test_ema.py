"""The moving average of the weights, by hand."""

import pytest
import torch

from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.base import RecipeError
from pocket_resnet.recipe.sections import EmaRecipe
from pocket_resnet.training.ema import Ema, decay_of


def change(model: ResNet, seed: int) -> None:
    """New values in everything that a training step changes."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.randn(value.shape, generator=draws) if value.is_floating_point() else value + 1)


def test_average(tiny_model: ResNet) -> None:
    """Early steps keep (1 + step) / (10 + step) of it, later ones `decay`; batch-norm statistics are averaged too."""
    ema = Ema(tiny_model, decay=0.3)
    expected = {name: value.clone() for name, value in tiny_model.state_dict().items() if value.is_floating_point()}
    assert "stem.norm.running_mean" in expected
    for step in range(12):
        change(tiny_model, step)
        ema.update(step)
        kept = min(0.3, (1 + step) / (10 + step))
        for name, value in expected.items():
            value.mul_(kept).add_(tiny_model.state_dict()[name], alpha=1 - kept)
    averaged = ema.tensors()
    assert averaged.keys() == expected.keys()
    assert all(torch.allclose(averaged[name], value, atol=1e-6) for name, value in expected.items())


def test_averages_are_applied_only_inside_the_block(tiny_model: ResNet) -> None:
    ema = Ema(tiny_model, decay=0.9)
    first = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    change(tiny_model, 1)
    changed = {name: value.clone() for name, value in tiny_model.state_dict().items()}

    def has(values: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(value, values[name]) for name, value in tiny_model.state_dict().items() if value.ndim)

    with ema.applied():
        assert has(first)
    assert has(changed)
    with pytest.raises(RuntimeError), ema.applied():
        raise RuntimeError
    assert has(changed)


def test_without_decay_it_is_the_model_itself(tiny_model: ResNet) -> None:
    ema = Ema(tiny_model, decay=0.0)
    change(tiny_model, 1)
    ema.update(0)
    weight = tiny_model.head.weight.detach().clone()
    with ema.applied():
        assert torch.equal(tiny_model.head.weight, weight)
    assert ema.tensors() == {}
    ema.load_tensors({})


def test_saved_tensors_are_restored(tiny_model: ResNet) -> None:
    ema = Ema(tiny_model, decay=0.9)
    change(tiny_model, 1)
    ema.update(5)
    saved = {name: value.clone() for name, value in ema.tensors().items()}
    other = Ema(tiny_model, decay=0.9)
    assert not torch.equal(other.tensors()["head.weight"], saved["head.weight"])
    other.load_tensors(saved)
    assert all(torch.equal(other.tensors()[name], value) for name, value in saved.items())


def test_a_new_average_starts_from_the_weights(tiny_model: ResNet) -> None:
    """A fork may switch averaging on."""
    ema = Ema(tiny_model, decay=0.9)
    change(tiny_model, 1)
    ema.load_tensors({})
    assert all(torch.equal(ema.tensors()[name], value) for name, value in ema.live.items())


@pytest.mark.parametrize(
    ("recipe", "num_steps", "decay"),
    [
        ({"window": 0.04}, 25_000, 0.999),
        ({"window": 0.04}, 250, 0.9),
        ({"window": 1.0}, 100, 0.99),
        ({"window": 0.04}, 25, 0.0),  # of one step: the weights themselves
        ({"window": 0.04}, 3, 0.0),
        ({"window": 0.0}, 1000, 0.0),
        ({"decay": 0.95}, 1000, 0.95),
        ({}, 1000, 0.0),
    ],
)
def test_a_window_is_a_share_of_the_run(recipe: dict[str, float], num_steps: int, decay: float) -> None:
    """Twice the steps average over twice as many; a decay is unchanged."""
    assert decay_of(EmaRecipe.model_validate(recipe), num_steps) == pytest.approx(decay)


def test_window_and_decay_are_mutually_exclusive() -> None:
    with pytest.raises(RecipeError, match=r"give ema\.window or ema\.decay, not both") as raised:
        EmaRecipe(window=0.04, decay=0.9)
    assert raised.value.key == "ema.decay"
    assert EmaRecipe(window=0.04, decay=0.0).window == 0.04
