"""Winograd's algorithm against torch's own convolution.

Shapes: B images, C channels in, D out, H x W pixels.
"""

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pocket_resnet.model import winograd
from pocket_resnet.model.conv3x3 import Conv3x3, allow_algorithms
from pocket_resnet.model.winograd import suits

WIDE = 96


def convolution(in_channels: int = WIDE, out_channels: int = WIDE, bias: bool = False) -> Conv3x3:
    """A convolution that uses Winograd's algorithm in training."""
    conv = Conv3x3(in_channels, out_channels, bias=bias)
    conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    allow_algorithms(conv, winograd_in="training")
    return conv


def images(*shape: int) -> Tensor:
    return torch.randn(shape).relu().to(memory_format=torch.channels_last)


def relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the images that Winograd's algorithm has convolved; filled during the test."""
    shapes: list[torch.Size] = []
    apply = winograd.WinogradConvolution.apply

    def noted(x_BCHW: Tensor, weight_DCKL: Tensor) -> Tensor:
        shapes.append(x_BCHW.shape)
        result: Tensor = apply(x_BCHW, weight_DCKL)  # type: ignore[no-untyped-call]
        return result

    monkeypatch.setattr(winograd.WinogradConvolution, "apply", noted)
    return shapes


@pytest.mark.parametrize("size", [(8, 8), (16, 12), (7, 7), (14, 16), (4, 31)])
@pytest.mark.parametrize("channels", [(64, 128), (96, 96), (130, 72)])
def test_is_the_plain_convolution_and_its_gradients(
    size: tuple[int, int], channels: tuple[int, int], calls: list[torch.Size]
) -> None:
    torch.manual_seed(0)
    conv, x_BCHW = convolution(*channels, bias=True), images(16, channels[0], *size)
    x_BCHW.requires_grad_()
    plain_BDHW = F.conv2d(x_BCHW, conv.weight, conv.bias, padding=1)
    dy_BDHW = torch.randn_like(plain_BDHW)
    of = (x_BCHW, *conv.parameters())
    got_BDHW = conv(x_BCHW)
    assert calls == [x_BCHW.shape]
    assert got_BDHW.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(got_BDHW, plain_BDHW) < 1e-5
    for got, expected in zip(
        torch.autograd.grad(got_BDHW, of, dy_BDHW), torch.autograd.grad(plain_BDHW, of, dy_BDHW), strict=True
    ):
        assert relative_error(got, expected) < 1e-5
        assert got.stride() == expected.stride()


def test_blocks_of_images_give_what_the_whole_batch_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """19 images in blocks of three: the last block has one."""
    conv, x_BCHW = convolution(), images(19, WIDE, 8, 8)
    whole_BDHW = conv(x_BCHW)
    whole = torch.autograd.grad(whole_BDHW.square().sum(), conv.weight)[0]
    patches_of_an_image = 4
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(winograd, "BLOCK_BYTES", 3 * patches_of_an_image * winograd.PATCH**2 * WIDE * 4)
    blocks_BDHW = conv(x_BCHW)
    torch.testing.assert_close(blocks_BDHW, whole_BDHW)
    assert relative_error(torch.autograd.grad(blocks_BDHW.square().sum(), conv.weight)[0], whole) < 1e-5


def test_computes_only_the_gradients_asked_for() -> None:
    conv, x_BCHW = convolution(), images(16, WIDE, 8, 8)
    conv(x_BCHW).sum().backward()
    assert x_BCHW.grad is None
    assert conv.weight.grad is not None
    conv.weight.grad = None
    conv.weight.requires_grad_(False)
    conv(x_BCHW.requires_grad_()).sum().backward()
    assert x_BCHW.grad is not None
    assert conv.weight.grad is None


def test_accepts_images_and_gradients_in_another_layout() -> None:
    conv, x_BCHW = convolution(), torch.randn(16, WIDE, 8, 8, requires_grad=True)
    expected = torch.autograd.grad(F.conv2d(x_BCHW, conv.weight, padding=1).sum(), x_BCHW)[0]
    got = torch.autograd.grad(conv(x_BCHW).sum(), x_BCHW)[0]  # the gradient of a sum is one expanded value
    assert relative_error(got, expected) < 1e-5


def test_its_output_may_be_changed_in_place() -> None:
    conv, x_BCHW = convolution(), images(16, WIDE, 8, 8)
    plain_BDHW = F.conv2d(x_BCHW, conv.weight, padding=1)
    got, expected = (
        torch.autograd.grad(F.relu_(y_BDHW).sum(), conv.weight)[0] for y_BDHW in (conv(x_BCHW), plain_BDHW)
    )
    assert relative_error(got, expected) < 1e-3  # a value near 0 may be rounded to the other side


@pytest.mark.parametrize(
    ("shape", "out_channels", "expected"),
    [
        ((16, 88, 8, 8), 88, True),
        ((16, 64, 8, 8), 128, True),
        ((16, 64, 8, 8), 64, False),
        ((16, 32, 8, 8), 512, False),
        ((15, 88, 8, 8), 88, False),  # 60 tiles
        ((1, 88, 32, 32), 88, True),
        ((16, 88, 7, 7), 88, True),
        ((99, 88, 6, 6), 88, False),  # four tiles of 16 pixels for 36
    ],
)
def test_suits_many_channels_and_many_tiles_that_fit(shape: tuple[int, ...], out_channels: int, expected: bool) -> None:
    assert suits(torch.empty(shape), out_channels) == expected
    assert not suits(torch.empty(shape, dtype=torch.bfloat16), out_channels)
    assert not suits(torch.empty(shape, device="meta"), out_channels)
    with torch.autocast("cpu", torch.bfloat16):
        assert not suits(torch.empty(shape), out_channels)


def test_does_not_depend_on_the_callers_defaults() -> None:
    """Constants are made when the module is imported, so this needs a process of its own."""
    code = """
import torch
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
from pocket_resnet.model.conv3x3 import Conv3x3, allow_algorithms
conv = Conv3x3(96, 96, bias=False).to_empty(device="cpu").float()
allow_algorithms(conv, winograd_in="training")
x = torch.zeros(16, 96, 8, 8, dtype=torch.float32, device="cpu")
y = conv(x)
y.backward(torch.ones_like(y))
print(y.dtype, y.device, conv.weight.grad.dtype)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch.float32", "cpu", "torch.float32"]
