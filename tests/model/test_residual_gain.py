"""Blocks whose last norm starts with another gain than 1: see `resnet.py::initialise`.

Shapes: B images, C channels, H x W pixels.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pocket_resnet.model.resnet import ResNet, initialise
from pocket_resnet.model.spec import NetworkSpec

SPEC = NetworkSpec(
    num_blocks=(3, 1),
    widths=(8, 16),
    kernel_sizes=(3, 3),
    shortcut_kernel_sizes=(1, 1),
    stem_width=8,
    image_size=16,
)


def started(gain: float | None, **changes: Any) -> ResNet:
    """The network with dirac filters and that gain; None leaves the gain unset."""
    model = ResNet(replace(SPEC, **changes))
    initialise(model, "dirac", torch.Generator().manual_seed(0), *([] if gain is None else [gain]))
    return model


@pytest.mark.parametrize("block", ["basic", "single", "bottleneck"])
@pytest.mark.parametrize("gain", [0.0, 0.5, 1.0])
def test_only_the_last_norm_of_every_block_has_the_gain(block: str, gain: float) -> None:
    gains = {name: value for name, value in started(gain, block=block).named_parameters() if value.dim() == 1}
    last = {"single": 0, "basic": 1, "bottleneck": 2}[block]
    for name, value in gains.items():
        if name.endswith("weight"):
            expected = gain if f".norms.{last}." in name else 1.0
            assert torch.equal(value, torch.full_like(value, expected)), name


@pytest.mark.parametrize("block", ["basic", "single"])
def test_blocks_of_gain_0_start_as_their_shortcuts(block: str) -> None:
    """Dirac blocks of gain 1 add their input to itself, and a deep network starts with a large loss."""
    x_BCHW = torch.rand(4, 8, 16, 16)
    assert torch.equal(started(0.0, block=block).stages[0](x_BCHW), x_BCHW)
    assert started(1.0, block=block).stages[0](x_BCHW).std() > 2 * x_BCHW.std()


def test_a_gain_of_1_changes_nothing() -> None:
    one, other = started(1.0).state_dict(), started(None).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_blocks_of_gain_0_learn() -> None:
    """Also the layers before the norm of gain 0, from the second step on."""
    model, x_BCHW = started(0.0), torch.rand(8, 3, 16, 16)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model.stages[0].blocks[0].convs[0].weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x_BCHW), torch.arange(8)).backward()
        optimizer.step()
    assert not torch.equal(model.stages[0].blocks[0].convs[0].weight, before)
