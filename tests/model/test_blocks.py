"""Blocks and their parts against computations by hand.

Shapes: B images, C channels, H x W pixels.
"""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from pocket_resnet.model.blocks import (
    ACTIVATIONS,
    DropPath,
    PaddedIdentity,
    PostActivationBlock,
    PreActivationBlock,
    Projection,
    SqueezeExcite,
    activation,
    conv2d,
    norm2d,
)
from pocket_resnet.model.spec import NetworkSpec


def spec(**changes: object) -> NetworkSpec:
    return NetworkSpec(**{"stem_width": 8, "widths": (8, 16, 32), **changes})  # type: ignore[arg-type]


def test_squeeze_excite_is_the_gate_computed_by_hand() -> None:
    gate = SqueezeExcite(channels=8, reduction=4)
    x_BCHW = torch.randn(3, 8, 5, 5)
    hidden = torch.relu(x_BCHW.mean((2, 3)) @ gate.squeeze.weight[:, :, 0, 0].T + gate.squeeze.bias)
    gates_BC = torch.sigmoid(hidden @ gate.excite.weight[:, :, 0, 0].T + gate.excite.bias)
    torch.testing.assert_close(gate(x_BCHW), x_BCHW * gates_BC[:, :, None, None])


def test_squeeze_excite_keeps_at_least_one_hidden_unit() -> None:
    assert SqueezeExcite(channels=8, reduction=16).squeeze.out_channels == 1


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean() -> None:
    drop = DropPath(0.25)
    out_BCHW = drop(torch.ones(4_000, 2, 3, 3))
    per_image = out_BCHW.flatten(1)
    assert (per_image == per_image[:, :1]).all()
    assert sorted(set(per_image[:, 0].tolist())) == pytest.approx([0, 1 / 0.75])
    assert (per_image[:, 0] == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert per_image.mean() == pytest.approx(1, abs=0.04)


def test_stochastic_depth_is_off_in_evaluation() -> None:
    x_BCHW = torch.randn(4, 2, 3, 3)
    assert torch.equal(DropPath(0.9).eval()(x_BCHW), x_BCHW)
    assert torch.equal(DropPath(0.0)(x_BCHW), x_BCHW)


@pytest.mark.parametrize("size", [7, 8])
def test_padded_identity_subsamples_and_adds_zero_channels(size: int) -> None:
    x_BCHW = torch.randn(2, 3, size, size)
    y_BCHW = PaddedIdentity(3, 8, stride=2)(x_BCHW)
    assert y_BCHW.shape == (2, 8, 4, 4)
    assert torch.equal(y_BCHW[:, 2:5], x_BCHW[:, :, ::2, ::2])
    assert not y_BCHW[:, :2].any()
    assert not y_BCHW[:, 5:].any()


def test_basic_block_is_two_convolutions_and_the_input() -> None:
    block = PostActivationBlock(spec(), stage=0, in_channels=8).eval()
    x_BCHW = torch.randn(2, 8, 6, 6)
    (first, second), (norm_1, norm_2) = block.convs, block.norms
    expected = F.relu(x_BCHW + norm_2(second(F.relu(norm_1(first(x_BCHW))))))
    torch.testing.assert_close(block(x_BCHW), expected)


def test_single_block_is_one_convolution_and_the_input() -> None:
    block = PostActivationBlock(spec(block="single", activation="gelu"), stage=0, in_channels=8).eval()
    x_BCHW = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(block(x_BCHW), F.gelu(x_BCHW + block.norms[0](block.convs[0](x_BCHW))))


def test_bottleneck_narrows_and_strides_in_the_middle() -> None:
    block = PostActivationBlock(spec(block="bottleneck", groups=4), stage=1, in_channels=32, stride=2)
    shapes = [(conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.groups) for conv in block.convs]
    assert shapes == [(16, 1, 1, 1), (16, 3, 2, 4), (64, 1, 1, 1)]
    assert block(torch.randn(2, 32, 7, 7)).shape == (2, 64, 4, 4)


def test_preactivation_carries_the_input_itself_around_the_branch() -> None:
    block = PreActivationBlock(spec(preactivation=True), stage=0, in_channels=8).eval()
    torch.nn.init.zeros_(block.convs[1].weight)
    x_BCHW = torch.randn(2, 8, 6, 6)
    assert torch.equal(block(x_BCHW), x_BCHW)


def test_preactivation_projects_the_first_activation_without_a_norm() -> None:
    block = PreActivationBlock(spec(preactivation=True), stage=1, in_channels=8, stride=2).eval()
    torch.nn.init.zeros_(block.convs[1].weight)
    x_BCHW = torch.randn(2, 8, 6, 6)
    assert isinstance(block.shortcut, Projection)
    expected = block.shortcut.conv(F.relu(block.norms[0](x_BCHW)))
    torch.testing.assert_close(block(x_BCHW), expected)


def test_preactivation_subsamples_the_input_itself() -> None:
    block = PreActivationBlock(spec(preactivation=True, shortcut="identity"), 1, in_channels=8, stride=2).eval()
    torch.nn.init.zeros_(block.convs[1].weight)
    x_BCHW = torch.randn(2, 8, 6, 6)
    assert torch.equal(block(x_BCHW)[:, 4:12], x_BCHW[:, :, ::2, ::2])


def test_gate_and_drop_path_apply_to_the_branch_only() -> None:
    block = PostActivationBlock(spec(squeeze_excite="block"), 0, in_channels=8, drop_probability=0.95)
    torch.nn.init.constant_(block.squeeze_excite.excite.bias, -100.0)  # the gate shuts
    x_BCHW = torch.randn(4, 8, 6, 6)
    torch.testing.assert_close(block(x_BCHW), x_BCHW.relu())


def test_convolutions_have_a_bias_only_without_norm() -> None:
    assert conv2d(spec(), 8, 8, 3).bias is None
    assert conv2d(spec(batch_norm=False), 8, 8, 3).bias is not None
    assert isinstance(norm2d(spec(batch_norm=False), 8), torch.nn.Identity)
    assert norm2d(spec(batch_norm_momentum=0.6), 8).momentum == 0.6


def test_activations_are_those_of_the_spec() -> None:
    x = torch.linspace(-3, 3, 7)
    assert {name: act(x)[0].item() for name, act in ACTIVATIONS.items()} == pytest.approx(
        {"relu": 0.0, "gelu": -0.00405, "silu": -0.14228}, abs=1e-4
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_only_relu_without_preactivation_works_in_place(name: str) -> None:
    for preactivation in (False, True):
        x = torch.linspace(-3, 3, 7)
        y = activation(spec(activation=name, preactivation=preactivation))(x)
        assert torch.equal(y, ACTIVATIONS[name](torch.linspace(-3, 3, 7)))
        assert (y is x) == (name == "relu" and not preactivation)


@pytest.mark.parametrize("kind", [PostActivationBlock, PreActivationBlock])
@pytest.mark.parametrize("changes", [{}, {"batch_norm": False}, {"block": "single"}, {"squeeze_excite": "block"}])
def test_blocks_do_not_modify_their_input(kind: type, changes: dict[str, object]) -> None:
    """The gradient of the layer before may need it, and the shortcut does."""
    shape = spec(preactivation=kind is PreActivationBlock, **changes)
    x_BCHW = torch.randn(2, 8, 4, 4)
    kept_BCHW = x_BCHW.clone()
    kind(shape, 0, 8)(x_BCHW).sum().backward()
    assert torch.equal(x_BCHW, kept_BCHW)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 8])
def test_strided_1x1_convolution_trains_with_few_channels(channels: int) -> None:
    """In a process of its own: torch's own form corrupts memory on some processors, which may end the process late."""
    code = f"""
import torch
from pocket_resnet.model.blocks import conv2d
from pocket_resnet.model.spec import NetworkSpec
torch.set_num_threads(1)
conv = conv2d(NetworkSpec(batch_norm=False), {channels}, 8, 1, stride=2).to(memory_format=torch.channels_last)
x = torch.randn(8, {channels}, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
for _ in range(20):
    y = conv(x)
    y.sum().backward()
expected = torch.nn.functional.conv2d(x.detach().contiguous(), conv.weight.contiguous(), conv.bias, stride=2)
assert torch.allclose(y, expected, atol=1e-6)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
