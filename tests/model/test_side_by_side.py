"""Gradients of filters from images that stand side by side, against torch's own.

Shapes: B images, C channels in, D out, H x W pixels.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocket_resnet import device
from pocket_resnet.model import side_by_side
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.side_by_side import SideBySideConv2d, SideBySideConvolution, use_side_by_side
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.torch_settings import own_settings


def convolution(in_channels: int = 16, out_channels: int = 32, stride: int = 1, bias: bool = False) -> SideBySideConv2d:
    conv = SideBySideConv2d(in_channels, out_channels, stride=stride, bias=bias)
    conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    use_side_by_side(conv, allowed=True)
    return conv


def images(*shape: int) -> Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last)


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the images that were convolved this way; filled during the test."""
    shapes: list[torch.Size] = []
    apply = SideBySideConvolution.apply

    def noted(x_BCHW: Tensor, weight_DCKL: Tensor, stride: int) -> Tensor:
        shapes.append(x_BCHW.shape)
        result: Tensor = apply(x_BCHW, weight_DCKL, stride)  # type: ignore[no-untyped-call]
        return result

    monkeypatch.setattr(SideBySideConvolution, "apply", noted)
    return shapes


@pytest.mark.parametrize("num_images", [1, 5, 32, 64, 67])
@pytest.mark.parametrize(
    ("stride", "size"), [(1, (8, 8)), (1, (7, 5)), (1, (1, 1)), (1, (9, 2)), (2, (16, 16)), (2, (15, 13)), (3, (9, 24))]
)
def test_is_the_plain_convolution_and_its_gradients(
    num_images: int, stride: int, size: tuple[int, int], calls: list[torch.Size]
) -> None:
    """Whole numbers below 2048 are exact in sums of fp32, and up to 256 in bf16: nothing but layout can differ."""
    torch.manual_seed(0)
    conv = convolution(3, 4, stride)
    x_BCHW = torch.randint(-1, 2, (num_images, 3, *size)).float().to(memory_format=torch.channels_last).requires_grad_()
    with torch.no_grad():
        conv.weight.copy_(torch.randint(-1, 2, conv.weight.shape))
    plain_BDHW = F.conv2d(x_BCHW, conv.weight, stride=stride, padding=1)
    dy_BDHW = torch.randint(-1, 2, plain_BDHW.shape).float() * (torch.rand(plain_BDHW.shape) < 0.05)
    expected = torch.autograd.grad(plain_BDHW, (x_BCHW, conv.weight), dy_BDHW)
    with torch.autocast("cpu", torch.bfloat16):
        got_BDHW = conv(x_BCHW)
    assert calls == [x_BCHW.shape]
    torch.testing.assert_close(got_BDHW.float(), plain_BDHW, atol=0, rtol=0)
    for mine, of_torch in zip(
        torch.autograd.grad(got_BDHW, (x_BCHW, conv.weight), dy_BDHW.bfloat16()), expected, strict=True
    ):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, of_torch, atol=0, rtol=0)


def test_a_bias_is_added_and_learns() -> None:
    conv, x_BCHW = convolution(bias=True), images(32, 16, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        got_BDHW = conv(x_BCHW).float()
    expected_BDHW = F.conv2d(x_BCHW, conv.weight, conv.bias, padding=1)
    assert relative_error(got_BDHW, expected_BDHW) < 0.01
    assert conv.bias is not None
    of = (conv.weight, conv.bias)
    for mine, of_torch in zip(
        torch.autograd.grad(got_BDHW.square().sum(), of),
        torch.autograd.grad(expected_BDHW.square().sum(), of),
        strict=True,
    ):
        assert relative_error(mine, of_torch) < 0.01


def test_computes_only_the_gradients_asked_for(calls: list[torch.Size]) -> None:
    conv, x_BCHW = convolution(), images(32, 16, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        conv(x_BCHW).sum().backward()
        assert x_BCHW.grad is None
        conv.weight.requires_grad_(False)
        conv(x_BCHW.requires_grad_()).sum().backward()
    assert x_BCHW.grad is not None
    assert len(calls) == 1  # frozen filters have no gradient to compute


def test_rows_hold_every_image_followed_by_zeros() -> None:
    x_BCHW = images(7, 2, 3, 4)
    rows_RCHW = side_by_side.side_by_side(x_BCHW, 5, 17)
    assert rows_RCHW.shape == (3, 2, 3, 17)
    assert rows_RCHW.is_contiguous(memory_format=torch.channels_last)
    for image in range(9):
        place_CHW = rows_RCHW[image // 3, :, :, image % 3 * 5 :][:, :, :5]
        assert torch.equal(place_CHW[:, :, :4], x_BCHW[image] if image < 7 else torch.zeros(2, 3, 4))
        assert not place_CHW[:, :, 4].any()
    assert not rows_RCHW[:, :, :, 15:].any()


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("stride", [1, 2])
@own_settings()
def test_depends_on_no_memory_that_others_have_left(stride: int, width: int) -> None:
    """With rows of 285 pixels, oneDNN's gradients for AMX did: 4 x 4 pixels, 64 channels, two threads."""
    torch.set_num_threads(2)
    conv, x_BCHW = convolution(64, 64, stride), images(512, 64, stride * width, stride * width)
    dy_BDHW = images(512, 64, width, width)
    for _ in range(3):
        sizes = [factor * 2**power for power in range(8, 20) for factor in (1, 3, 7)]
        junk = [torch.full((size,), float("nan"), dtype=dtype) for size in sizes for dtype in (torch.bfloat16, None)]
        del junk
        with torch.autocast("cpu", torch.bfloat16):
            y_BDHW = conv(x_BCHW)
        (gradient_DCKL,) = torch.autograd.grad(y_BDHW, conv.weight, dy_BDHW.bfloat16())
        assert torch.isfinite(gradient_DCKL).all()


@pytest.mark.parametrize(
    ("stride", "width", "expected"), [(1, 8, True), (1, 9, False), (2, 16, True), (2, 18, False), (1, 1, True)]
)
def test_only_small_images_stand_side_by_side(stride: int, width: int, expected: bool, calls: list[torch.Size]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        convolution(stride=stride)(images(2, 16, 4, width))
    assert bool(calls) == expected


def test_leaves_fp32_evaluation_and_compiled_networks_to_torch(
    calls: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    conv, x_BCHW = convolution(), images(4, 16, 8, 8)
    assert conv(x_BCHW).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        conv.eval()(x_BCHW)
        conv.train()
        with torch.no_grad():
            conv(x_BCHW)
        with monkeypatch.context() as compiling:
            compiling.setattr(torch.compiler, "is_compiling", lambda: True)
            conv(x_BCHW)
        use_side_by_side(conv, allowed=False)
        conv(x_BCHW)
    assert not calls


@pytest.mark.parametrize("changes", [{}, {"block": "single"}, {"block": "bottleneck"}, {"groups": 4}])
def test_networks_use_it_for_3_x_3_convolutions(changes: dict[str, Any]) -> None:
    spec = NetworkSpec(
        stem_width=8, num_blocks=(2, 1), widths=(8, 16), kernel_sizes=(3, 3), shortcut_kernel_sizes=(1, 1), **changes
    )
    for conv in (module for module in ResNet(spec).modules() if isinstance(module, nn.Conv2d)):
        suited = (conv.kernel_size, conv.groups) == ((3, 3), 1)
        assert isinstance(conv, SideBySideConv2d) == suited


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_amx_is_used_in_bf16(precision: device.Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = device.choose("cpu", precision)
    for features in ({"avx512_bf16"}, {"avx512_bf16", "amx_bf16"}):
        monkeypatch.setattr(device, "_cpu_features", lambda features=features: features)
        assert hardware.has_amx == (precision == "bf16" and "amx_bf16" in features)
