"""TrivialAugment: one random operation of random strength for each image of a batch.

Source: Müller & Hutter 2021 (arXiv:2103.10158), the wide space of table 1. Each operation runs once, on all
images of the batch that drew it.

Shapes: B images, C = 3 channels, H x W pixels, uint8.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pocket_resnet.device import sent

NUM_STRENGTHS = 31
MAX_ROTATION_DEGREES = 135.0
MAX_TRANSLATION_PX = 32.0
MAX_SHEAR = 0.99
MAX_BLEND = 0.99
MIN_BITS = 2


def trivial_augment(images_BCHW: Tensor, operation_B: Tensor, strength_B: Tensor, sign_B: Tensor) -> Tensor:
    """The batch with each image's operation applied; draws are on the CPU, strengths in 0..30, signs ±1."""
    result_BCHW = images_BCHW.clone()
    for number, operation in enumerate(OPERATIONS):
        chosen_b = (operation_B == number).nonzero().squeeze(1)
        if len(chosen_b):
            share_b = strength_B[chosen_b] / (NUM_STRENGTHS - 1)
            signed_b = share_b * sign_B[chosen_b]
            chosen_b, share_b, signed_b = (sent(x, images_BCHW.device) for x in (chosen_b, share_b, signed_b))
            changed = operation(images_BCHW[chosen_b], share_b, signed_b)
            result_BCHW[chosen_b] = changed
    return result_BCHW


def _identity(x: Tensor, _share_b: Tensor, _signed_b: Tensor) -> Tensor:
    return x


def _shear_x(x: Tensor, _share_b: Tensor, signed_b: Tensor) -> Tensor:
    return _affine(x, shear_x=signed_b * MAX_SHEAR)


def _shear_y(x: Tensor, _share_b: Tensor, signed_b: Tensor) -> Tensor:
    return _affine(x, shear_y=signed_b * MAX_SHEAR)


def _translate_x(x: Tensor, _share_b: Tensor, signed_b: Tensor) -> Tensor:
    return _affine(x, right_px=signed_b * MAX_TRANSLATION_PX)


def _translate_y(x: Tensor, _share_b: Tensor, signed_b: Tensor) -> Tensor:
    return _affine(x, down_px=signed_b * MAX_TRANSLATION_PX)


def _rotate(x: Tensor, _share_b: Tensor, signed_b: Tensor) -> Tensor:
    return _affine(x, angle=signed_b * math.radians(MAX_ROTATION_DEGREES))


def _affine(
    x: Tensor,
    *,
    angle: Tensor | float = 0.0,
    shear_x: Tensor | float = 0.0,
    shear_y: Tensor | float = 0.0,
    right_px: Tensor | float = 0.0,
    down_px: Tensor | float = 0.0,
) -> Tensor:
    """Nearest-neighbour warp about the centre; black beyond the border."""
    b, _, H, W = x.shape
    angle, shear_x, shear_y, right_px, down_px = (
        value if isinstance(value, Tensor) else torch.full((b,), value, device=x.device)
        for value in (angle, shear_x, shear_y, right_px, down_px)
    )
    # grid_sample needs the source position of each output pixel, in units of half an image
    to_source = torch.stack(
        [
            torch.stack([angle.cos(), angle.sin() * H / W - shear_x * H / W, -2 * right_px / W], 1),
            torch.stack([-angle.sin() * W / H - shear_y * W / H, angle.cos(), -2 * down_px / H], 1),
        ],
        dim=1,
    )
    grid = F.affine_grid(to_source, [b, 1, H, W], align_corners=False)
    return F.grid_sample(x.float(), grid, mode="nearest", align_corners=False).to(torch.uint8)


def _blend(degenerate: Tensor, x: Tensor, signed_b: Tensor) -> Tensor:
    """Pillow's enhancement: (1 + signed) of the way from the degenerate image to the original."""
    factor = (1 + signed_b * MAX_BLEND).view(-1, 1, 1, 1)
    return (degenerate + factor * (x.float() - degenerate)).round().clamp(0, 255).to(torch.uint8)


def _brightness(x: Tensor, _share_b: Tensor, signed_b: Tensor) -> Tensor:
    return _blend(torch.zeros((), device=x.device), x, signed_b)


def _grey(x: Tensor) -> Tensor:
    """Luma [b, 1, H, W] with the weights of ITU-R 601, as Pillow's."""
    red_BHW, green_BHW, blue_BHW = x.float().unbind(dim=1)
    grey_BHW: Tensor = 0.299 * red_BHW + 0.587 * green_BHW + 0.114 * blue_BHW
    return grey_BHW.unsqueeze(1)


def _color(x: Tensor, _share_b: Tensor, signed_b: Tensor) -> Tensor:
    return _blend(_grey(x), x, signed_b)


def _contrast(x: Tensor, _share_b: Tensor, signed_b: Tensor) -> Tensor:
    return _blend(_grey(x).mean(dim=(2, 3), keepdim=True).round(), x, signed_b)


def _sharpness(x: Tensor, _share_b: Tensor, signed_b: Tensor) -> Tensor:
    kernel = torch.ones(3, 1, 3, 3, device=x.device)
    kernel[:, :, 1, 1] = 5
    smooth = x.float().clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(x.float(), kernel / 13, groups=3)
    return _blend(smooth, x, signed_b)


def _posterize(x: Tensor, share_b: Tensor, _signed_b: Tensor) -> Tensor:
    dropped_b = (share_b * (8 - MIN_BITS)).round().to(torch.uint8).view(-1, 1, 1, 1)
    return (x >> dropped_b) << dropped_b


def _solarize(x: Tensor, share_b: Tensor, _signed_b: Tensor) -> Tensor:
    threshold_b = (256 * (1 - share_b)).view(-1, 1, 1, 1)  # strength 0 changes nothing, not even white
    return torch.where(x >= threshold_b, 255 - x, x)


def _autocontrast(x: Tensor, _share_b: Tensor, _signed_b: Tensor) -> Tensor:
    low, high = x.float().amin((2, 3), keepdim=True), x.float().amax((2, 3), keepdim=True)
    stretched = ((x.float() - low) * (255 / (high - low).clamp(min=1))).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, x)


def _equalize(x: Tensor, _share_b: Tensor, _signed_b: Tensor) -> Tensor:
    """Pillow's histogram equalisation of each channel."""
    b, C, H, W = x.shape
    flat = x.reshape(b * C, H * W).long()
    counts = torch.zeros(b * C, 256, dtype=torch.long, device=x.device).scatter_add_(1, flat, torch.ones_like(flat))
    last_count = counts.gather(1, flat.amax(dim=1, keepdim=True))
    step = (H * W - last_count) // 255
    before = counts.cumsum(1) - counts
    table = torch.where(step > 0, (before + step // 2) // step.clamp(min=1), torch.arange(256, device=x.device))
    return table.clamp(max=255).gather(1, flat).reshape(b, C, H, W).to(torch.uint8)


OPERATIONS: tuple[Callable[[Tensor, Tensor, Tensor], Tensor], ...] = (
    _identity,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
    _rotate,
    _brightness,
    _color,
    _contrast,
    _sharpness,
    _posterize,
    _solarize,
    _autocontrast,
    _equalize,
)
NUM_OPERATIONS = len(OPERATIONS)
