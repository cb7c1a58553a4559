"""Gradients of 3 x 3 filters from images that stand side by side, for training in bf16 on processors with AMX.

AMX multiplies matrices in tiles, 32 values of bf16 deep. For the gradient of filters, oneDNN fills that depth with one
row of one image, so small images leave tiles mostly empty. Here several images share a row, with zeros between them.
The products are the same, in another order, so results differ by rounding.

Shapes: B images, C channels and H x W pixels in, D channels and I x J pixels out; K x L pixels of a filter; R rows of
N images.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

WIDEST = 8  # pixels of an output image; up to this width, the gradient is faster (docs/log.md)
ROW_WIDTH = 288  # pixels of an output row. A multiple of 32: beyond the last, oneDNN multiplies memory it never set


class SideBySideConv2d(nn.Conv2d):
    """A 3 x 3 convolution, padded by one pixel, whose filters' gradient comes from images side by side, if faster."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, bias: bool) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=bias)
        self.side_by_side = False

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.side_by_side or torch.compiler.is_compiling() or not self._suits(x_BCHW):
            return super().forward(x_BCHW)
        x_BCHW, weight_DCKL = x_BCHW.bfloat16(), self.weight.bfloat16()
        y_BDIJ: Tensor = SideBySideConvolution.apply(x_BCHW, weight_DCKL, self.stride[0])  # type: ignore[no-untyped-call]
        return y_BDIJ if self.bias is None else y_BDIJ + self.bias.bfloat16().view(-1, 1, 1)

    def _suits(self, x_BCHW: Tensor) -> bool:
        in_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        is_learning = self.training and self.weight.requires_grad and torch.is_grad_enabled()
        return in_bf16 and is_learning and x_BCHW.shape[3] <= WIDEST * self.stride[0]


def use_side_by_side(model: nn.Module, allowed: bool) -> None:
    """Allow or forbid it in a model, which should be laid out channels last. It is used only under autocast to bf16."""
    for module in model.modules():
        if isinstance(module, SideBySideConv2d):
            module.side_by_side = allowed


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
            dx_BCHW = _gradients(x_BCHW, dy_BDIJ, weight_DCKL, ctx.stride, of_images=True)[0]
        if ctx.needs_input_grad[1]:
            width = dy_BDIJ.shape[3] + 1
            x_RCHW = side_by_side(x_BCHW, ctx.stride * width, ctx.stride * ROW_WIDTH)
            dy_RDIJ = side_by_side(dy_BDIJ, width, ROW_WIDTH)
            dweight_DCKL = _gradients(x_RCHW, dy_RDIJ, weight_DCKL, ctx.stride, of_images=False)[1]
        return dx_BCHW, dweight_DCKL, None


def side_by_side(x_BCHW: Tensor, width: int, row_width: int) -> Tensor:
    """Rows of images, each followed by zeros up to `width` pixels, as many as fit: [R, C, H, row_width]."""
    x_BHWC = x_BCHW.permute(0, 2, 3, 1)
    num_images, height, image_width, channels = x_BHWC.shape
    num_in_row = row_width // width
    num_full, num_left = divmod(num_images, num_in_row)
    rows_RHWC = x_BHWC.new_zeros(num_full + bool(num_left), height, row_width, channels)
    images_RHNWC = rows_RHWC[:, :, : num_in_row * width].unflatten(2, (num_in_row, width))[:, :, :, :image_width]  # type: ignore[no-untyped-call]
    full_BHWC, left_NHWC = torch.split(x_BHWC, [num_full * num_in_row, num_left])
    full_RNHWC = full_BHWC.view(num_full, num_in_row, height, image_width, channels)
    images_RHNWC[:num_full].copy_(full_RNHWC.transpose(1, 2))
    if num_left:
        images_RHNWC[-1, :, :num_left].copy_(left_NHWC.transpose(0, 1))
    return rows_RHWC.permute(0, 3, 1, 2)


def _gradients(
    x_BCHW: Tensor, dy_BDIJ: Tensor, weight_DCKL: Tensor, stride: int, *, of_images: bool
) -> tuple[Tensor, Tensor]:
    """torch's own gradient of the images or of the filters; the other is undefined."""
    dx_BCHW, dweight_DCKL, _ = torch.ops.aten.convolution_backward(
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
        output_mask=[of_images, not of_images, False],
    )
    return dx_BCHW, dweight_DCKL
