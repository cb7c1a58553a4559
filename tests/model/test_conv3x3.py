"""Which algorithm convolves images with 3 x 3 filters.

Shapes: B images, C channels, H x W pixels.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pocket_resnet.model import side_by_side, winograd
from pocket_resnet.model.conv3x3 import Conv3x3, allow_algorithms
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import NetworkSpec

WIDE = 96

WINOGRAD = winograd.WinogradConvolution
SIDE_BY_SIDE = side_by_side.SideBySideConvolution


def convolution(stride: int = 1, bias: bool = False) -> Conv3x3:
    """A convolution for images that suit both algorithms."""
    conv = Conv3x3(WIDE, WIDE, stride=stride, bias=bias)
    return conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def images(size: int = 8) -> Tensor:
    return torch.randn(64, WIDE, size, size).to(memory_format=torch.channels_last)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """The algorithms that were used, in order; filled during the test."""
    used: list[type] = []
    for algorithm in (WINOGRAD, SIDE_BY_SIDE):

        def noted(*args: Any, algorithm: type = algorithm, apply: Any = algorithm.apply) -> Any:
            used.append(algorithm)
            return apply(*args)

        monkeypatch.setattr(algorithm, "apply", noted)
    return used


def convolve(conv: Conv3x3, x_BCHW: Tensor, in_bf16: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        y_BCHW: Tensor = conv(x_BCHW)
    return y_BCHW


@pytest.mark.parametrize("in_bf16", [False, True])
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_is_torchs_own_by_default(mode: str, in_bf16: bool, calls: list[type]) -> None:
    conv, x_BCHW = convolution().train(mode == "training"), images()
    expected = nn.Conv2d.forward
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        assert torch.equal(conv(x_BCHW), expected(conv, x_BCHW))
    assert not calls


@pytest.mark.parametrize(
    ("winograd_in", "side_by_side", "in_bf16", "in_training", "expected"),
    [
        ("training", False, False, True, [WINOGRAD]),
        ("training", False, False, False, []),
        ("evaluation", False, False, False, [WINOGRAD]),
        ("evaluation", False, False, True, []),
        ("training", False, True, True, []),
        (None, True, True, True, [SIDE_BY_SIDE]),
        (None, True, True, False, []),
        (None, True, False, True, []),
        ("training", True, False, True, [WINOGRAD]),
        ("training", True, True, True, [SIDE_BY_SIDE]),
    ],
)
def test_uses_what_is_allowed_and_suits(
    winograd_in: Any, side_by_side: bool, in_bf16: bool, in_training: bool, expected: list[type], calls: list[type]
) -> None:
    conv, x_BCHW = convolution(bias=True).train(in_training), images()
    plain_BCHW = convolve(conv, x_BCHW, in_bf16)
    allow_algorithms(conv, winograd_in=winograd_in, side_by_side=side_by_side)
    got_BCHW = convolve(conv, x_BCHW, in_bf16)
    assert calls == expected
    assert got_BCHW.dtype == plain_BCHW.dtype
    assert (got_BCHW - plain_BCHW).norm() <= (0.01 if in_bf16 else 1e-5) * plain_BCHW.norm()


def test_winograd_is_for_stride_1_alone(calls: list[type]) -> None:
    conv = convolution(stride=2)
    allow_algorithms(conv, winograd_in="training", side_by_side=True)
    convolve(conv, images(16), in_bf16=False)
    assert not calls
    convolve(conv, images(16), in_bf16=True)
    assert calls == [SIDE_BY_SIDE]


def test_filters_that_do_not_learn_need_no_images_side_by_side(calls: list[type]) -> None:
    conv, x_BCHW = convolution(), images()
    allow_algorithms(conv, side_by_side=True)
    with torch.no_grad():
        convolve(conv, x_BCHW, in_bf16=True)
    convolve(conv.requires_grad_(False), x_BCHW, in_bf16=True)
    assert not calls
    convolve(conv.requires_grad_(True), x_BCHW, in_bf16=True)
    assert calls == [SIDE_BY_SIDE]


@pytest.mark.parametrize("in_bf16", [False, True])
def test_compiled_networks_and_a_later_ban_leave_all_to_torch(
    in_bf16: bool, calls: list[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    conv, x_BCHW = convolution(), images()
    allow_algorithms(conv, winograd_in="training", side_by_side=True)
    with monkeypatch.context() as compiling:
        compiling.setattr(torch.compiler, "is_compiling", lambda: True)
        convolve(conv, x_BCHW, in_bf16)
    allow_algorithms(conv)
    convolve(conv, x_BCHW, in_bf16)
    assert not calls


@pytest.mark.parametrize("changes", [{}, {"block": "single"}, {"block": "bottleneck"}, {"groups": 4}])
def test_networks_use_it_for_their_3_x_3_convolutions(changes: dict[str, Any]) -> None:
    spec = NetworkSpec(
        stem_width=8, num_blocks=(2, 1), widths=(8, 16), kernel_sizes=(3, 3), shortcut_kernel_sizes=(1, 1), **changes
    )
    model = ResNet(spec)
    allow_algorithms(model, winograd_in="training", side_by_side=True)
    for conv in (module for module in model.modules() if isinstance(module, nn.Conv2d)):
        suited = (conv.kernel_size, conv.groups) == ((3, 3), 1)
        assert isinstance(conv, Conv3x3) == suited
        assert getattr(conv, "side_by_side", False) == suited
