"""Gradients of filters from images that stand side by side, against torch's own.

Shapes: B images, C channels in, D out, H x W pixels.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pocket_resnet.model import side_by_side
from pocket_resnet.model.conv3x3 import Conv3x3, allow_algorithms
from pocket_resnet.model.side_by_side import (
    MAX_ROW_WIDTH,
    TILE_DEPTH,
    SideBySideConvolution,
    fitting_rows,
    packed,
    suits,
)
from pocket_resnet.torch_settings import own_settings


def convolution(in_channels: int = 32, out_channels: int = 48, stride: int = 1, bias: bool = False) -> Conv3x3:
    conv = Conv3x3(in_channels, out_channels, stride=stride, bias=bias)
    conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    allow_algorithms(conv, side_by_side=True)
    return conv


def images(*shape: int) -> Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last)


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float(((got - expected).norm() / expected.norm()).detach())


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images stand side by side for any number of channels and images, also where this is slower."""
    for name in ("MIN_CHANNELS", "MIN_IMAGES"):
        monkeypatch.setattr(side_by_side, name, 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the images that SideBySideConvolution has convolved; filled during the test."""
    shapes: list[torch.Size] = []
    apply = SideBySideConvolution.apply

    def noted(x_BCHW: Tensor, weight_DCKL: Tensor, stride: int) -> Tensor:
        shapes.append(x_BCHW.shape)
        result: Tensor = apply(x_BCHW, weight_DCKL, stride)  # type: ignore[no-untyped-call]
        return result

    monkeypatch.setattr(SideBySideConvolution, "apply", noted)
    return shapes


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("num_images", [1, 5, 32, 64, 67])
@pytest.mark.parametrize(
    ("stride", "size"), [(1, (8, 8)), (1, (7, 5)), (1, (1, 1)), (1, (9, 2)), (2, (16, 16)), (2, (15, 13)), (3, (9, 24))]
)
def test_is_the_plain_convolution_and_its_gradients(
    num_images: int, stride: int, size: tuple[int, int], calls: list[torch.Size]
) -> None:
    """bf16 holds whole numbers up to 256 exactly, and all sums here are smaller: nothing but the layout can differ."""
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


def test_a_bias_is_added_and_learns(calls: list[torch.Size]) -> None:
    conv, x_BCHW = convolution(bias=True), images(64, 32, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        got_BDHW = conv(x_BCHW).float()
    expected_BDHW = F.conv2d(x_BCHW, conv.weight, conv.bias, padding=1)
    assert len(calls) == 1
    assert relative_error(got_BDHW, expected_BDHW) < 0.01
    assert conv.bias is not None
    of = (conv.weight, conv.bias)
    for mine, of_torch in zip(
        torch.autograd.grad(got_BDHW.square().sum(), of),
        torch.autograd.grad(expected_BDHW.square().sum(), of),
        strict=True,
    ):
        assert relative_error(mine, of_torch) < 0.01


@pytest.mark.parametrize(
    ("of_images", "of_filters", "expected"),
    [(False, True, ["filters"]), (True, False, ["images"]), (True, True, ["images", "filters"])],
)
def test_computes_only_the_gradients_asked_for(
    of_images: bool, of_filters: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, gradient = [], side_by_side.gradient
    monkeypatch.setattr(side_by_side, "gradient", lambda of, *rest: computed.append(of) or gradient(of, *rest))
    x_BCHW = images(64, 32, 4, 4).bfloat16().requires_grad_(of_images)
    weight_DCKL = images(48, 32, 3, 3).bfloat16().requires_grad_(of_filters)
    y_BDHW = SideBySideConvolution.apply(x_BCHW, weight_DCKL, 1)  # type: ignore[no-untyped-call]
    y_BDHW.sum().backward()  # the gradient of a sum is one expanded value
    assert computed == expected
    assert (x_BCHW.grad is not None, weight_DCKL.grad is not None) == (of_images, of_filters)


def test_accepts_images_in_another_layout() -> None:
    conv, x_BCHW = convolution(), torch.randn(64, 32, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.autograd.grad(conv(x_BCHW).sum(), conv.weight)[0]
    expected = torch.autograd.grad(F.conv2d(x_BCHW, conv.weight, padding=1).sum(), conv.weight)[0]
    assert relative_error(got, expected) < 0.01


def test_rows_hold_every_image_followed_by_zeros() -> None:
    x_BCHW = images(7, 2, 3, 4)
    rows_RCHW = packed(x_BCHW, 3, 5, 17)
    assert rows_RCHW.shape == (3, 2, 3, 17)
    assert rows_RCHW.is_contiguous(memory_format=torch.channels_last)
    for image in range(9):
        place_CHW = rows_RCHW[image // 3, :, :, image % 3 * 5 :][:, :, :5]
        assert torch.equal(place_CHW[:, :, :4], x_BCHW[image] if image < 7 else torch.zeros(2, 3, 4))
        assert not place_CHW[:, :, 4].any()
    assert not rows_RCHW[:, :, :, 15:].any()


@pytest.mark.parametrize("width", range(1, 9))
def test_rows_are_few_and_evenly_filled(width: int) -> None:
    for num_images in range(1, 600):
        num_in_row, row_width = fitting_rows(num_images, width)
        assert row_width % TILE_DEPTH == 0
        assert num_in_row * (width + 1) <= row_width <= MAX_ROW_WIDTH
        num_rows = -(-num_images // num_in_row)
        assert num_rows == -(-num_images // (MAX_ROW_WIDTH // (width + 1)))
        assert num_rows * num_in_row - num_images < num_rows


@own_settings()
@pytest.mark.parametrize("num_images", [128, 500])
def test_reads_no_uninitialised_memory(num_images: int) -> None:
    """With rows of 285 pixels and two threads, oneDNN's gradient for AMX did so for these shapes."""
    torch.set_num_threads(2)
    conv, x_BCHW = convolution(64, 64), images(num_images, 64, 4, 4)
    dy_BDHW = images(num_images, 64, 4, 4).bfloat16()
    for _ in range(6):
        sizes = [factor * 2**power for power in range(8, 20) for factor in (1, 3, 7)]
        junk = [torch.full((size,), float("nan"), dtype=dtype) for size in sizes for dtype in (torch.bfloat16, None)]
        del junk
        with torch.autocast("cpu", torch.bfloat16):
            y_BDHW = conv(x_BCHW)
        assert torch.isfinite(torch.autograd.grad(y_BDHW, conv.weight, dy_BDHW)[0]).all()


@pytest.mark.parametrize(
    ("shape", "out_channels", "stride", "expected"),
    [
        ((64, 32, 8, 8), 32, 1, True),
        ((64, 31, 8, 8), 32, 1, False),
        ((64, 32, 8, 8), 31, 1, False),
        ((63, 32, 8, 8), 32, 1, False),
        ((64, 32, 8, 9), 32, 1, False),
        ((64, 32, 99, 1), 32, 1, True),
        ((64, 32, 16, 16), 32, 2, True),
        ((64, 32, 17, 17), 32, 2, False),
    ],
)
def test_suits_many_channels_and_many_small_images(
    shape: tuple[int, ...], out_channels: int, stride: int, expected: bool
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert suits(torch.empty(shape), out_channels, stride) == expected
        assert not suits(torch.empty(shape, device="meta"), out_channels, stride)
    with torch.autocast("cpu", torch.float16):
        assert not suits(torch.empty(shape), out_channels, stride)
    assert not suits(torch.empty(shape), out_channels, stride)
