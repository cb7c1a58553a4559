"""The cost of training against its closed form."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pocket_resnet.model.catalog import named
from pocket_resnet.model.counts import layers, num_macs
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training.flops import flops_per_image, training_flops


def closed_form(spec: NetworkSpec, side: int) -> int:
    """Two a multiply-add; forward, gradient of weights, gradient of inputs; the image itself needs no gradient."""
    stem, first = layers(spec, side)[:2]
    whole = 3 * 2 * num_macs(spec, side)
    if spec.stem == "whitening":  # frozen filters need no gradient either, nor does what they put out
        return whole - 2 * 2 * stem.num_macs - 2 * first.num_macs
    return whole - 2 * stem.num_macs


@pytest.mark.threat(74)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"squeeze_excite": "block"},
        {"preactivation": True},
        {"batch_norm": False, "activation": "silu"},
        {"block": "bottleneck", "groups": 4},
    ],
)
def test_one_image(changes: dict[str, object], tiny_spec: NetworkSpec) -> None:
    spec = replace(tiny_spec, **changes)  # type: ignore[arg-type]
    for side in (8, 6):
        assert flops_per_image(ResNet(spec), side) == closed_form(spec, side)


def test_one_image_of_the_fast_network() -> None:
    spec = named("fast")
    assert flops_per_image(ResNet(spec), 32) == closed_form(spec, 32)


@pytest.mark.parametrize(
    "changes",
    [
        {"block": "bottleneck"},
        {"block": "single", "downsample": "pool", "stem": "whitening"},
        {"squeeze_excite": "stem", "preactivation": True, "shortcut": "identity"},
        {"drop_path": 0.5, "stem": "whitening", "squeeze_excite": "stem"},
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_torch_counts_the_same(frozen: bool, changes: dict[str, object], tiny_spec: NetworkSpec) -> None:
    model = ResNet(replace(tiny_spec, **changes))  # type: ignore[arg-type]
    for part in model.body() if frozen else ():
        part.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(2, 3, 8, 8)).sum().backward()
    assert flops_per_image(model, 8, frozen=frozen) == counter.get_total_flops() // 2


def test_one_image_of_a_network_whose_body_is_frozen(tiny_spec: NetworkSpec) -> None:
    """Forward through everything, and the gradient of the head's weights alone."""
    head = layers(tiny_spec, 8)[-1]
    expected = 2 * num_macs(tiny_spec, 8) + 2 * head.num_macs
    assert flops_per_image(ResNet(tiny_spec), 8, frozen=True) == expected


def test_counting_does_not_change_the_model(tiny_model: ResNet) -> None:
    tiny_model.eval()
    before = tiny_model.stem.norm.num_batches_tracked.item()
    flops_per_image(tiny_model, 8)
    assert not tiny_model.training
    assert tiny_model.stem.norm.num_batches_tracked.item() == before
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


@pytest.mark.parametrize("num_steps", [0, 1, 3, 4])
def test_whole_run(num_steps: int, make_recipe: Callable[..., Recipe], tiny_spec: NetworkSpec) -> None:
    """14 images in batches of 8 and 6, the first epoch at 6 pixels and the second at 8."""
    images = [(8, 6), (6, 6), (8, 8), (6, 8)][:num_steps]
    expected = sum(count * closed_form(tiny_spec, side) for count, side in images)
    counted = training_flops(ResNet(tiny_spec), make_recipe(model=tiny_spec), 14, num_steps)
    assert counted == (sum(count for count, _ in images), expected)


@pytest.mark.parametrize(("until", "later"), [(1.0, [(8, 8), (3, 8)]), (0.5, [(10, 8), (4, 8)])])
def test_whole_run_with_hard_fraction(
    until: float, later: list[tuple[int, int]], make_recipe: Callable[..., Recipe], tiny_spec: NetworkSpec
) -> None:
    """14 images: 10 and 4 candidates, of which 8 and 3 are trained, or all from half of the run on."""
    images = [(8, 6), (3, 6), *later]
    expected = sum(count * closed_form(tiny_spec, side) for count, side in images)
    recipe = make_recipe(model=tiny_spec, hard_fraction=0.8, hard_until=until, augment={"mixup": 0.0})
    num_images = sum(count for count, _ in images)
    assert training_flops(ResNet(tiny_spec), recipe, 14, 4) == (num_images, expected)
