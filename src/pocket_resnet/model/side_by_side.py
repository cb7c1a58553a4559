"""Gradients of 3 x 3 filters from images that stand side by side, for training in bf16 on processors with AMX.

AMX multiplies matrices in tiles, 32 values of bf16 deep. For the gradient of filters, oneDNN fills that depth with one
row of one image, so small images leave tiles mostly empty. Here several images share a row, with zeros between them.
This sums the same products in another order, so results differ only by rounding.

Shapes: B images, C channels and H x W pixels in, D channels and I x J pixels out; K x L pixels of a filter; R rows of
N images.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Images side by side are faster from these minima on, up to MAX_OUTPUT_WIDTH: docs/log.md.
MIN_CHANNELS = 32  # in and out
MIN_IMAGES = 64
MAX_OUTPUT_WIDTH = 8  # pixels

MAX_ROW_WIDTH = 288  # pixels of an output row
TILE_DEPTH = 32  # row widths are multiples of it: at some others, oneDNN reads uninitialised memory (docs/log.md)


def suits(x_BCHW: Tensor, out_channels: int, stride: int) -> bool:
    """Whether images side by side are faster: on a CPU, under autocast to bf16, many small images, many channels."""
    in_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    num_images, in_channels, _, width = x_BCHW.shape
    has_enough = min(in_channels, out_channels) >= MIN_CHANNELS and num_images >= MIN_IMAGES
    return in_bf16 and x_BCHW.device.type == "cpu" and has_enough and width <= MAX_OUTPUT_WIDTH * stride


def convolve(x_BCHW: Tensor, weight_DCKL: Tensor, stride: int) -> Tensor:
    """The images convolved in bf16, [B, D, I, J], whose filters learn from images side by side."""
    y_BDIJ: Tensor = SideBySideConvolution.apply(x_BCHW.bfloat16(), weight_DCKL.bfloat16(), stride)  # type: ignore[no-untyped-call]
    return y_BDIJ


class SideBySideConvolution(torch.autograd.Function):
    """The convolution of images [B, C, H, W] with filters [D, C, 3, 3], padded by one pixel, and its gradients."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight_DCKL: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_DCKL)
        ctx.stride = stride
        return F.conv2d(x_BCHW, weight_DCKL, stride=stride, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BDIJ: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_BCHW, weight_DCKL = ctx.saved_tensors
        dx_BCHW = dweight_DCKL = None
        if ctx.needs_input_grad[0]:
            dx_BCHW = gradient("images", x_BCHW, dy_BDIJ, weight_DCKL, ctx.stride)
        if ctx.needs_input_grad[1]:
            num_in_row, row_width = fitting_rows(len(dy_BDIJ), dy_BDIJ.shape[3])
            x_RCHW = packed(x_BCHW, num_in_row, ctx.stride * (dy_BDIJ.shape[3] + 1), ctx.stride * row_width)
            dy_RDIJ = packed(dy_BDIJ, num_in_row, dy_BDIJ.shape[3] + 1, row_width)
            dweight_DCKL = gradient("filters", x_RCHW, dy_RDIJ, weight_DCKL, ctx.stride)
        return dx_BCHW, dweight_DCKL, None


def fitting_rows(num_images: int, width: int) -> tuple[int, int]:
    """The number of images in a row, and the row's width in output pixels, for the fewest, evenly filled rows.

    `width` is that of an output image, without the zeros that follow it.
    """
    num_rows = math.ceil(num_images / (MAX_ROW_WIDTH // (width + 1)))
    num_in_row = math.ceil(num_images / num_rows)
    return num_in_row, math.ceil(num_in_row * (width + 1) / TILE_DEPTH) * TILE_DEPTH


def packed(x_BCHW: Tensor, num_in_row: int, width: int, row_width: int) -> Tensor:
    """Rows of images, [R, C, H, row_width]; zeros fill each image up to `width` pixels, and each row."""
    x_BHWC = x_BCHW.permute(0, 2, 3, 1)
    num_images, height, image_width, channels = x_BHWC.shape
    num_full_rows, num_left = divmod(num_images, num_in_row)
    rows_RHWC = x_BHWC.new_zeros(num_full_rows + bool(num_left), height, row_width, channels)
    images_RHNWC = rows_RHWC[:, :, : num_in_row * width].unflatten(2, (num_in_row, width))[:, :, :, :image_width]  # type: ignore[no-untyped-call]
    full_BHWC, left_NHWC = torch.split(x_BHWC, [num_full_rows * num_in_row, num_left])
    full_RNHWC = full_BHWC.view(num_full_rows, num_in_row, height, image_width, channels)
    images_RHNWC[:num_full_rows].copy_(full_RNHWC.transpose(1, 2))
    if num_left:
        images_RHNWC[-1, :, :num_left].copy_(left_NHWC.transpose(0, 1))
    return rows_RHWC.permute(0, 3, 1, 2)


def gradient(
    of: Literal["images", "filters"], x_BCHW: Tensor, dy_BDIJ: Tensor, weight_DCKL: Tensor, stride: int
) -> Tensor:
    """torch's own gradient with respect to the images that are convolved, or to the filters."""
    gradients = torch.ops.aten.convolution_backward(
        dy_BDIJ,
        x_BCHW,
        weight_DCKL,
        bias_sizes=None,
        stride=[stride, stride],
        padding=[1, 1],
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=1,
        output_mask=[of == "images", of == "filters", False],
    )
    result: Tensor = gradients[of == "filters"]
    return result
