"""3 x 3 convolutions by Winograd's algorithm, with a quarter of the multiplications, for training on a CPU.

A tile of 4 x 4 output pixels depends on a patch of 6 x 6 input pixels. Small fixed matrices, which only add and scale,
transform patches and tiles; between them, one product of matrices for each position in the patch takes the place of
nine for each pixel. In fp32, results differ from those of a plain convolution by a few millionths.

Shapes: B images of H x W pixels, N of them at once; C channels in, D out; positions P x Q in a patch, I x J in a tile;
R rows of S tiles an image; K x L pixels of a filter. Source: Lavin and Gray 2015 (arXiv:1509.09308), F(4 x 4, 3 x 3).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Parts = Sequence[Tensor] | Tensor  # one for each position

TILE, PATCH = 4, 6

# From these values on, the algorithm is faster: docs/log.md.
MIN_MEAN_CHANNELS = 85  # harmonic mean of those in and out
MIN_SHARE = 0.75  # of the image in the tiles that cover it
MIN_TILES = 64  # of all images

BLOCK_BYTES = 9 * 2**19  # of patches at once, for each thread, so that they stay in the cache

# G of the source, once for the rows of a filter and once for its columns: [Q P, K L].
_ROWS = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
_G = torch.tensor(_ROWS, dtype=torch.float32, device="cpu") / 24
FILTER_TRANSFORM = torch.einsum("pk,ql->qpkl", _G, _G).reshape(PATCH**2, 9)


def suits(x_BCHW: Tensor, out_channels: int) -> bool:
    """Whether the algorithm is faster: in fp32 on a CPU, for many channels and many tiles that cover little else."""
    num_images, in_channels, height, width = x_BCHW.shape
    is_fp32_on_cpu = x_BCHW.device.type == "cpu" and x_BCHW.dtype == torch.float32
    if not is_fp32_on_cpu or torch.is_autocast_enabled("cpu"):
        return False
    rows, columns = _covered(height, width)
    is_wide = 2 / (1 / in_channels + 1 / out_channels) >= MIN_MEAN_CHANNELS
    has_many_tiles = num_images * rows * columns >= MIN_TILES * TILE**2
    return is_wide and has_many_tiles and height * width >= MIN_SHARE * rows * columns


def convolve(x_BCHW: Tensor, weight_DCKL: Tensor) -> Tensor:
    """The convolved images, [B, D, H, W]."""
    y_BDHW: Tensor = WinogradConvolution.apply(x_BCHW, weight_DCKL)  # type: ignore[no-untyped-call]
    return y_BDHW


class WinogradConvolution(torch.autograd.Function):
    """The convolution of images [B, C, H, W] with filters [D, C, 3, 3], padded by one pixel, and its gradients."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight_DCKL: Tensor) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_DCKL)
        return _convolve(x_BCHW, weight_DCKL)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BDHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_BCHW, weight_DCKL = ctx.saved_tensors
        dx_BCHW = dweight_DCKL = None
        if ctx.needs_input_grad[0]:
            turned_CDKL = weight_DCKL.flip(2, 3).transpose(0, 1)
            dx_BCHW = _convolve(dy_BDHW, turned_CDKL)
        if ctx.needs_input_grad[1]:
            dweight_DCKL = _filter_gradient(x_BCHW.permute(0, 2, 3, 1), dy_BDHW.permute(0, 2, 3, 1))
        return dx_BCHW, dweight_DCKL


def _convolve(x_BCHW: Tensor, weight_DCKL: Tensor) -> Tensor:
    """The convolved images, [B, D, H, W]."""
    num_images, num_in, height, width = x_BCHW.shape
    num_out = len(weight_DCKL)
    filters = (FILTER_TRANSFORM @ weight_DCKL.permute(2, 3, 1, 0).reshape(9, -1)).view(PATCH**2, num_in, num_out)
    shape = (num_images, num_out, *_covered(height, width))
    y_BDHW = torch.empty(shape, dtype=x_BCHW.dtype, device=x_BCHW.device, memory_format=torch.channels_last)
    x_BHWC, y_BHWD = x_BCHW.permute(0, 2, 3, 1), y_BDHW.permute(0, 2, 3, 1)
    for images, memory in _blocks(x_BHWC, num_out):
        torch.bmm(memory.read_patches(x_BHWC[images]), filters, out=memory.products)
        memory.write_tiles(y_BHWD[images])
    if (height, width) == shape[2:]:
        return y_BDHW
    return y_BDHW[:, :, :height, :width].clone(memory_format=torch.channels_last)


def _filter_gradient(x_BHWC: Tensor, dy_BHWD: Tensor) -> Tensor:
    """The gradient of the filters, [D, C, 3, 3]; `dy_BHWD` is that of the convolved images."""
    _, height, width, num_in = x_BHWC.shape
    num_out = dy_BHWD.shape[-1]
    rows, columns = _covered(height, width)
    if (rows, columns) != (height, width):
        dy_BHWD = F.pad(dy_BHWD, (0, 0, 0, columns - width, 0, rows - height))
    dfilters = x_BHWC.new_zeros(PATCH**2, num_in, num_out)
    for images, memory in _blocks(x_BHWC, num_out):
        patches = memory.read_patches(x_BHWC[images])
        dfilters.baddbmm_(patches.transpose(1, 2), memory.read_tiles(dy_BHWD[images]))
    dweight_KLCD = (FILTER_TRANSFORM.T @ dfilters.flatten(1)).view(3, 3, num_in, num_out)
    return dweight_KLCD.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)


def _covered(height: int, width: int) -> tuple[int, int]:
    """Height and width of the tiles that cover an image."""
    return height + -height % TILE, width + -width % TILE


def _blocks(x_BHWC: Tensor, num_out: int) -> Iterator[tuple[slice, "_Memory"]]:
    """The images in blocks: their place in the batch, and memory to compute with, which all but the last share."""
    num_images, height, width, num_in = x_BHWC.shape
    rows, columns = _covered(height, width)
    bytes_per_image = PATCH**2 * max(num_in, num_out) * x_BHWC.element_size() * rows * columns // TILE**2
    num_at_once = max(1, torch.get_num_threads() * BLOCK_BYTES // bytes_per_image)
    memory = None
    for first in range(0, num_images, num_at_once):
        block_NHWC = x_BHWC[first : first + num_at_once]
        if memory is None or len(block_NHWC) < num_at_once:
            memory = _Memory(block_NHWC, num_out)
        yield slice(first, first + len(block_NHWC)), memory


class _Memory:
    """Buffers for a block of images: padded pixels, patches, products, and what is transformed along one side."""

    def __init__(self, x_NHWC: Tensor, num_out: int) -> None:
        num_images, height, width, num_in = x_NHWC.shape
        rows, columns = _covered(height, width)
        num_rows, num_columns = rows // TILE, columns // TILE
        self.padded_NHWC = x_NHWC.new_zeros(num_images, rows + 2, columns + 2, num_in)
        self.inside = (slice(None), slice(1, height + 1), slice(1, width + 1))
        self.strips_PNRWC = x_NHWC.new_empty(PATCH, num_images, num_rows, columns + 2, num_in)
        self.patches_QPNRSC = x_NHWC.new_empty(PATCH, PATCH, num_images, num_rows, num_columns, num_in)
        self.products_QPNRSD = x_NHWC.new_empty(PATCH, PATCH, num_images, num_rows, num_columns, num_out)
        self.strips_JPNRSD = x_NHWC.new_empty(TILE, PATCH, num_images, num_rows, num_columns, num_out)

    @property
    def products(self) -> Tensor:
        """The products, [36, tiles, D]."""
        return _matrices(self.products_QPNRSD)

    def read_patches(self, x_NHWC: Tensor) -> Tensor:
        """The images' transformed patches, [36, tiles, C]."""
        self.padded_NHWC[self.inside].copy_(x_NHWC)
        num_rows, num_columns = self.patches_QPNRSC.shape[3:5]
        rows_P = [self.padded_NHWC[:, position::TILE][:, :num_rows] for position in range(PATCH)]
        _transform_patches(rows_P, self.strips_PNRWC)
        columns_Q = [self.strips_PNRWC[:, :, :, position::TILE][:, :, :, :num_columns] for position in range(PATCH)]
        _transform_patches(columns_Q, self.patches_QPNRSC)
        return _matrices(self.patches_QPNRSC)

    def write_tiles(self, y_NHWD: Tensor) -> None:
        """Transform the products to pixels of the convolved images."""
        _transform_products(self.products_QPNRSD, self.strips_JPNRSD)
        _transform_products(self.strips_JPNRSD.unbind(1), _tiles(y_NHWD))

    def read_tiles(self, dy_NHWD: Tensor) -> Tensor:
        """The gradient of the products, [36, tiles, D], from that of the convolved images."""
        _transform_tiles(_tiles(dy_NHWD), self.strips_JPNRSD.unbind(1))
        _transform_tiles(self.strips_JPNRSD, self.products_QPNRSD)
        return self.products


def _matrices(x_QPNRSC: Tensor) -> Tensor:
    """A view as one matrix per position in a patch, [36, tiles, C]."""
    return x_QPNRSC.flatten(2, 4).flatten(0, 1)


def _tiles(y_NHWD: Tensor) -> Tensor:
    """A view of images by position in a tile, [I, J, N, R, S, D]."""
    num_images, rows, columns, num_out = y_NHWD.shape
    tiles_NRISJD = y_NHWD.view(num_images, rows // TILE, TILE, columns // TILE, TILE, num_out)
    return tiles_NRISJD.permute(2, 4, 0, 1, 3, 5)


def _transform_patches(parts_P: Parts, results_P: Parts) -> None:
    """Along one side of the patches, multiply by B', in fewer operations than its 22 factors."""
    a, b, c, d, e, f = parts_P
    torch.sub(e, c, alpha=5, out=results_P[0]).add_(a, alpha=4)  # 4 0 -5 0 1 0
    torch.sub(e, c, alpha=4, out=results_P[1])
    torch.sub(d, b, alpha=4, out=results_P[2])
    _add_and_subtract(results_P[1], results_P[2])  # 0 -4 -4 1 1 0 and 0 4 -4 -1 1 0
    torch.sub(e, c, out=results_P[3])
    torch.sub(d, b, out=results_P[4])
    _add_and_subtract(results_P[3], results_P[4], factor=2)  # 0 -2 -1 2 1 0 and 0 2 -1 -2 1 0
    torch.sub(f, d, alpha=5, out=results_P[5]).add_(b, alpha=4)  # 0 4 0 -5 0 1


def _transform_products(parts_P: Parts, results_I: Parts) -> None:
    """Along one side of the patches, multiply by A'; overwrites the parts."""
    a, b, c, d, e, f = parts_P
    _add_and_subtract(b, c)
    _add_and_subtract(d, e)
    torch.add(a, b, out=results_I[0]).add_(d)  # 1 1 1 1 1 0
    torch.add(c, e, alpha=2, out=results_I[1])  # 0 1 -1 2 -2 0
    torch.add(b, d, alpha=4, out=results_I[2])  # 0 1 1 4 4 0
    torch.add(c, e, alpha=8, out=results_I[3]).add_(f)  # 0 1 -1 8 -8 1


def _transform_tiles(parts_I: Parts, results_P: Parts) -> None:
    """Along one side of the tiles, multiply by A."""
    a, b, c, d = parts_I
    results_P[0].copy_(a)  # 1 0 0 0
    torch.add(a, c, out=results_P[1])
    torch.add(b, d, out=results_P[2])
    _add_and_subtract(results_P[1], results_P[2])  # 1 1 1 1 and 1 -1 1 -1
    torch.add(a, c, alpha=4, out=results_P[3])
    torch.add(b, d, alpha=4, out=results_P[4])
    _add_and_subtract(results_P[3], results_P[4], factor=2)  # 1 2 4 8 and 1 -2 4 -8
    results_P[5].copy_(d)  # 0 0 0 1


def _add_and_subtract(a: Tensor, b: Tensor, factor: int = 1) -> None:
    """Replace a and b by a + factor b and a - factor b."""
    a.add_(b, alpha=factor)
    torch.sub(a, b, alpha=2 * factor, out=b)
