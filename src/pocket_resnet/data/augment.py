"""Augmentation of a whole batch at once, on the device, with draws that depend only on (seed, epoch, sample).

Every epoch draws one table per random quantity, with one row per training sample; a batch looks up its rows. A sample
is therefore augmented the same way in any process, batch or order, and a resumed run continues exactly. Hard-example
mining skips samples, so its alternating flips follow how often each sample was trained instead of the epoch, and both
orientations are trained equally often.

Shapes: N samples, B images per batch, M images that a batch needs, C channels, H x W pixels. Images are uint8 until
`to_float`.
"""

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pocket_resnet.data.trivial_augment import NUM_OPERATIONS, NUM_STRENGTHS, trivial_augment
from pocket_resnet.device import sent
from pocket_resnet.recipe.sections import AugmentRecipe
from pocket_resnet.seeds import derive, generator

ERASED_AREA = (0.02, 0.33)
ERASED_RATIO = (0.3, 3.3)


@dataclass(frozen=True)
class Targets:
    """Training targets of a batch."""

    labels_B: Tensor
    """Class of each image, int64."""
    others_B: Tensor
    """Class of the image that is mixed into it, int64; its own class without mixing."""
    label_weight: float
    """Weight of `labels_B`, 0 to 1; `others_B` have the rest."""
    teacher_BK: Tensor | None = None
    """The teacher's probabilities at the recipe's temperature, float; None without a teacher."""


@dataclass(frozen=True)
class EpochDraws:
    """The random choices of one epoch, a row per sample of the training set."""

    shift_N2: Tensor
    """Row and column of the crop, int64 from 0 to 2 x crop_px."""
    flip_N: Tensor
    """Whether to mirror, bool."""
    operation_N: Tensor
    """TrivialAugment's operation, int64."""
    strength_N: Tensor
    """Its strength, int64."""
    sign_N: Tensor
    """Its direction, -1 or 1."""
    centre_N2: Tensor
    """Row and column of cutout's centre, 0 to 1."""
    erase_N5: Tensor
    """Random erasing, 0 to 1: whether, area, ratio, row, column."""


class Augmenter:
    """Applies a recipe's augmentation to batches of the training set: a function of seed, epoch and sample."""

    def __init__(self, recipe: AugmentRecipe, num_samples: int, seed: int, fill_C: Tensor) -> None:
        """`fill_C` is the colour of blanked pixels, uint8 per channel."""
        self.recipe, self.num_samples, self.seed = recipe, num_samples, seed
        self.fill_1C11 = fill_C.view(1, -1, 1, 1)
        self.first_flip_N = torch.rand(num_samples, generator=generator(seed, "flip")) < 0.5
        self._latest: tuple[int, EpochDraws] | None = None  # kept until another epoch is requested

    def draws(self, epoch: int) -> EpochDraws:
        """The epoch's random choices."""
        if self._latest is None or self._latest[0] != epoch:
            self._latest = epoch, self._draw(epoch)
        return self._latest[1]

    def _draw(self, epoch: int) -> EpochDraws:
        N, num_shifts = self.num_samples, 2 * self.recipe.crop_px + 1

        def of(purpose: str) -> torch.Generator:
            return generator(self.seed, purpose, epoch)

        if self.recipe.flip == "none":
            flip_N = torch.zeros(N, dtype=torch.bool)
        elif self.recipe.flip == "alternating":
            flip_N = self.first_flip_N ^ bool(epoch % 2)
        else:
            flip_N = torch.rand(N, generator=of("flip")) < 0.5
        return EpochDraws(
            shift_N2=torch.randint(0, num_shifts, (N, 2), generator=of("crop")),
            flip_N=flip_N,
            operation_N=torch.randint(0, NUM_OPERATIONS, (N,), generator=of("operation")),
            strength_N=torch.randint(0, NUM_STRENGTHS, (N,), generator=of("strength")),
            sign_N=torch.randint(0, 2, (N,), generator=of("sign")) * 2 - 1,
            centre_N2=torch.rand(N, 2, generator=of("cutout")),
            erase_N5=torch.rand(N, 5, generator=of("erase")),
        )

    def __call__(self, images_BCHW: Tensor, indices_B: Tensor, epoch: int, visit_B: Tensor | None = None) -> Tensor:
        """The batch of samples `indices_B` (on the CPU) as augmented in that epoch: uint8 [B, C, H, W].

        `visit_B` counts how often each was trained before; None if each is trained once per epoch.
        """
        x_BCHW, draws = images_BCHW, self.draws(epoch)
        if self.recipe.crop_px or self.recipe.flip != "none":
            shift_B2, flip_B = draws.shift_N2[indices_B], draws.flip_N[indices_B]
            if visit_B is not None and self.recipe.flip == "alternating":
                flip_B = self.first_flip_N[indices_B] ^ (visit_B % 2 == 1)
            x_BCHW = crop_and_flip(x_BCHW, shift_B2, flip_B, self.recipe.crop_px, self.recipe.crop_fill)
        if self.recipe.trivial_augment:
            x_BCHW = trivial_augment(
                x_BCHW, draws.operation_N[indices_B], draws.strength_N[indices_B], draws.sign_N[indices_B]
            )
        if self.recipe.cutout_px:
            x_BCHW = self._blank(x_BCHW, *cutout_boxes(x_BCHW, draws.centre_N2[indices_B], self.recipe.cutout_px))
        if self.recipe.random_erasing:
            x_BCHW = self._blank(
                x_BCHW, *random_erasing_boxes(x_BCHW, draws.erase_N5[indices_B], self.recipe.random_erasing)
            )
        return x_BCHW

    def _blank(self, x_BCHW: Tensor, low_B2: Tensor, high_B2: Tensor) -> Tensor:
        """Fill each image's box [low, high) (row, column) with the fill colour."""
        inside_B1HW = _inside(x_BCHW, low_B2, high_B2)
        return torch.where(inside_B1HW, self.fill_1C11, x_BCHW)

    def partners(self, num_images: int, step: int) -> Tensor | None:
        """The image of the step's batch that each is mixed with, a permutation int64 [B]; None without mixing."""
        if not (self.recipe.mixup or self.recipe.cutmix):
            return None
        return torch.randperm(num_images, generator=generator(self.seed, "partner", step))

    def mix(
        self, x_MCHW: Tensor, labels_M: Tensor, partner_B: Tensor | None, step: int, teacher_MK: Tensor | None = None
    ) -> tuple[Tensor, Targets]:
        """Mix each of the first B float images with its partner among the M, by mixup or CutMix.

        A teacher's probabilities are mixed by the same share. Returns images, float [B, C, H, W], and their targets.
        """
        if partner_B is None:
            return x_MCHW, Targets(labels_M, labels_M, 1.0, teacher_MK)
        alphas = {"mixup": self.recipe.mixup, "cutmix": self.recipe.cutmix}
        draws = random.Random(derive(self.seed, "mix", step))
        kind = draws.choice([kind for kind, alpha in alphas.items() if alpha])
        share = draws.betavariate(alphas[kind], alphas[kind])
        B, partner_B = len(partner_B), sent(partner_B, x_MCHW.device)
        if kind == "mixup":
            mixed_BCHW = x_MCHW[:B] * share + x_MCHW[partner_B] * (1 - share)
        else:
            mixed_BCHW, share = _cut_and_paste(x_MCHW[:B], x_MCHW[partner_B], share, draws)
        teacher_BK = None if teacher_MK is None else teacher_MK[:B] * share + teacher_MK[partner_B] * (1 - share)
        return mixed_BCHW, Targets(labels_M[:B], labels_M[partner_B], share, teacher_BK)


def crop_and_flip(images_BCHW: Tensor, shift_B2: Tensor, flip_B: Tensor, reach: int, fill: str) -> Tensor:
    """Pad each image by `reach`, crop it at (row, column) `shift_B2` in 0..2 x reach, and mirror those in `flip_B`.

    One gather of rows and one of columns take a fifth of the time of padding, windows and a `where` (docs/log.md).
    """
    (B, C, H, W), device = images_BCHW.shape, images_BCHW.device
    shift_B2, flip_B = sent(shift_B2, device), sent(flip_B, device)
    rows_BH = torch.arange(H, device=device) + shift_B2[:, :1]
    columns_BW = torch.arange(W, device=device) + shift_B2[:, 1:]
    if fill == "reflect":
        rows_BH, columns_BW = _reflected(H, reach, device)[rows_BH], _reflected(W, reach, device)[columns_BW]
    else:
        images_BCHW = F.pad(images_BCHW, (reach, reach, reach, reach))
    columns_BW = torch.where(flip_B.view(B, 1), columns_BW.flip(1), columns_BW)
    padded_H, padded_W = images_BCHW.shape[2:]
    first_row_BC1 = padded_H * torch.arange(B * C, device=device).view(B, C, 1)
    every_row = (first_row_BC1 + rows_BH.view(B, 1, H)).flatten()
    x_BCHW = images_BCHW.reshape(-1, padded_W).index_select(0, every_row).view(B, C, H, padded_W)
    return x_BCHW.gather(3, columns_BW.view(B, 1, 1, W).expand(B, C, H, W))


def _reflected(size: int, reach: int, device: torch.device) -> Tensor:
    """Indices -reach .. size + reach - 1, folded back into 0 .. size - 1 without repeating the border."""
    period = max(1, 2 * (size - 1))
    folded = torch.arange(-reach, size + reach, device=device) % period
    return torch.minimum(folded, period - folded)


def resize(images_BCHW: Tensor, size: int) -> Tensor:
    """The batch at `size` x `size` pixels, bilinear with antialiasing; uint8 stays uint8."""
    if images_BCHW.shape[-1] == size and images_BCHW.shape[-2] == size:
        return images_BCHW
    if images_BCHW.device.type == "cpu":  # it has a uint8 kernel: 2.1 instead of 5.3 ms for 512 images to 24 px
        return F.interpolate(images_BCHW, (size, size), mode="bilinear", antialias=True)
    resized_BCHW = F.interpolate(images_BCHW.float(), (size, size), mode="bilinear", antialias=True)
    return resized_BCHW.round().to(images_BCHW.dtype)


def to_float(images_BCHW: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """The uint8 batch on the 0..1 scale."""
    return images_BCHW.to(torch.float32, memory_format=memory_format).div_(255)


def cutout_boxes(images_BCHW: Tensor, centre_B2: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Squares around uniformly drawn centres, cut at the border as in the paper."""
    size_2 = torch.tensor(images_BCHW.shape[-2:])
    low_B2 = (centre_B2 * size_2).long() - size // 2
    return low_B2, low_B2 + size


def random_erasing_boxes(images_BCHW: Tensor, draws_B5: Tensor, chance: float) -> tuple[Tensor, Tensor]:
    """Rectangles of random area and ratio for a `chance` of the images, empty ones for the others."""
    size_2 = torch.tensor(images_BCHW.shape[-2:])
    area_B = size_2.prod() * (ERASED_AREA[0] + draws_B5[:, 1] * (ERASED_AREA[1] - ERASED_AREA[0]))
    log_low, log_high = torch.tensor(ERASED_RATIO).log()
    ratio_B = torch.exp(log_low + draws_B5[:, 2] * (log_high - log_low))
    size_B2 = torch.stack([(area_B * ratio_B).sqrt(), (area_B / ratio_B).sqrt()], dim=1).round()
    size_B2 = torch.minimum(size_B2, size_2 - 1) * (draws_B5[:, :1] < chance)
    low_B2 = (draws_B5[:, 3:] * (size_2 - size_B2 + 1)).floor()
    return low_B2.long(), (low_B2 + size_B2).long()


def _inside(images_BCHW: Tensor, low_B2: Tensor, high_B2: Tensor) -> Tensor:
    """Mask [B, 1, H, W] of the pixels in each image's box."""
    device = images_BCHW.device
    low_B2, high_B2 = sent(low_B2, device), sent(high_B2, device)
    masks = []
    for axis, size in enumerate(images_BCHW.shape[-2:]):
        position = torch.arange(size, device=device)
        masks.append((position >= low_B2[:, axis : axis + 1]) & (position < high_B2[:, axis : axis + 1]))
    return masks[0][:, None, :, None] & masks[1][:, None, None, :]


def _cut_and_paste(x_BCHW: Tensor, other_BCHW: Tensor, share: float, draws: random.Random) -> tuple[Tensor, float]:
    """Paste one box, the same for the whole batch, from the partners; returns the exact share kept (CutMix)."""
    H, W = x_BCHW.shape[-2:]
    height, width = round(H * (1 - share) ** 0.5), round(W * (1 - share) ** 0.5)
    top, left = draws.randint(0, H - height), draws.randint(0, W - width)
    mixed_BCHW = x_BCHW.clone()
    box = (..., slice(top, top + height), slice(left, left + width))
    mixed_BCHW[box] = other_BCHW[box]
    return mixed_BCHW, 1 - height * width / (H * W)
