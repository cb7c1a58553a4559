"""Augmentation against slow loops over single images; draws depend on seed, epoch and sample alone.

Shapes: N samples, B images per batch, C channels, H x W pixels.
"""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pocket_resnet.data.augment import (
    Augmenter,
    Targets,
    crop_and_flip,
    cutout_boxes,
    random_erasing_boxes,
    resize,
    to_float,
)
from pocket_resnet.recipe.sections import AugmentRecipe

N, SIZE = 40, 9
FILL_C = torch.tensor([1, 2, 3], dtype=torch.uint8)
ALL = torch.arange(N)
OFF: dict[str, Any] = {"crop_px": 0, "flip": "none"}


@pytest.fixture(name="images_NCHW")
def _images() -> Tensor:
    return torch.randint(4, 256, (N, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def augmenter(seed: int = 0, **recipe: Any) -> Augmenter:
    return Augmenter(AugmentRecipe(**(OFF | recipe)), N, seed, FILL_C)


def mirrored_index(index: int, size: int) -> int:
    """The index after reflection at the border pixels."""
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index


@pytest.mark.parametrize("reach", [1, 2, 4, 12])
@pytest.mark.parametrize("fill", ["zero", "reflect"])
def test_crop(fill: str, reach: int, images_NCHW: Tensor) -> None:
    draws_N2 = torch.randint(0, 2 * reach + 1, (N, 2))
    draws_N2[0], draws_N2[1] = torch.tensor([0, 2 * reach]), torch.tensor([reach, reach])
    cropped_NCHW = crop_and_flip(images_NCHW, draws_N2, torch.zeros(N, dtype=torch.bool), reach, fill)
    for image, result, (down, right) in zip(
        images_NCHW.tolist(), cropped_NCHW.tolist(), draws_N2.tolist(), strict=True
    ):
        for y in range(SIZE):
            for x in range(SIZE):
                from_y, from_x = y + down - reach, x + right - reach
                inside = 0 <= from_y < SIZE and 0 <= from_x < SIZE
                if fill == "reflect":
                    from_y, from_x, inside = mirrored_index(from_y, SIZE), mirrored_index(from_x, SIZE), True
                for c in range(3):
                    assert result[c][y][x] == (image[c][from_y][from_x] if inside else 0)
    assert torch.equal(cropped_NCHW[1], images_NCHW[1])


def test_crops_reach_every_offset() -> None:
    drawn = augmenter(crop_px=1).draws(0).shift_N2
    assert {tuple(row) for row in drawn.tolist()} == {(y, x) for y in range(3) for x in range(3)}


def test_flip(images_NCHW: Tensor) -> None:
    chosen_N = torch.arange(N) % 3 == 0
    for fill in ("zero", "reflect"):
        flipped_NCHW = crop_and_flip(images_NCHW, torch.zeros(N, 2, dtype=torch.int64), chosen_N, 0, fill)
        for index in range(N):
            expected = images_NCHW[index].flip(-1) if chosen_N[index] else images_NCHW[index]
            assert torch.equal(flipped_NCHW[index], expected)


@pytest.mark.parametrize("fill", ["zero", "reflect"])
def test_the_crop_is_flipped(fill: str, images_NCHW: Tensor) -> None:
    draws_N2 = torch.randint(0, 5, (N, 2))
    plain, flipped = (crop_and_flip(images_NCHW, draws_N2, torch.full((N,), flip), 2, fill) for flip in (False, True))
    assert torch.equal(flipped, plain.flip(-1))


def is_mirrored(augment: Augmenter, images_NCHW: Tensor, epoch: int) -> list[bool]:
    augmented_NCHW = augment(images_NCHW, ALL, epoch)
    same_N = (augmented_NCHW == images_NCHW).all(-1).all(-1).all(-1)
    assert torch.equal(augmented_NCHW[~same_N], images_NCHW[~same_N].flip(-1))
    return (~same_N).tolist()


def test_alternating_flip_mirrors_each_image_in_every_other_epoch(images_NCHW: Tensor) -> None:
    augment = augmenter(flip="alternating")
    first, *later = (is_mirrored(augment, images_NCHW, epoch) for epoch in range(6))
    assert 0.2 < np.mean(first) < 0.8
    for epoch, flipped in enumerate(later, 1):
        assert flipped == [value != bool(epoch % 2) for value in first]


def test_alternating_flip_counts_visits_when_images_are_skipped(images_NCHW: Tensor) -> None:
    """An image that is trained every second epoch is still flipped at every second visit."""
    augment, visit_N = augmenter(flip="alternating"), torch.arange(len(images_NCHW)) % 5
    unseen = torch.tensor(is_mirrored(augment, images_NCHW, epoch=0))
    for epoch in (0, 3):
        augmented_NCHW = augment(images_NCHW, ALL, epoch, visit_N)
        mirrored_N = (augmented_NCHW != images_NCHW).flatten(1).any(1)
        assert torch.equal(mirrored_N, unseen ^ (visit_N % 2 == 1))


def test_visits_affect_only_alternating_flips(images_NCHW: Tensor) -> None:
    augment = augmenter(flip="random", crop_px=2, cutout_px=4)
    assert torch.equal(augment(images_NCHW, ALL, 0, ALL % 3), augment(images_NCHW, ALL, 0))


def test_random_flip_draws_again_in_each_epoch(images_NCHW: Tensor) -> None:
    augment = augmenter(flip="random")
    shown = torch.tensor([is_mirrored(augment, images_NCHW, epoch) for epoch in range(20)]).double()
    assert shown.mean() == pytest.approx(0.5, abs=0.06)  # 800 coins: three standard deviations are 0.053
    assert shown.unique(dim=0).shape[0] == 20


def test_without_augmentation_images_stay_the_same(images_NCHW: Tensor) -> None:
    assert torch.equal(augmenter()(images_NCHW, ALL, 0), images_NCHW)


EVERYTHING: dict[str, Any] = {
    "crop_px": 2,
    "flip": "random",
    "trivial_augment": True,
    "cutout_px": 3,
    "random_erasing": 0.5,
}


def test_augmentation_does_not_depend_on_the_batch(images_NCHW: Tensor) -> None:
    """In any order, batch, process and after any other epoch; another epoch or seed gives others."""
    whole = augmenter(**EVERYTHING)
    expected = whole(images_NCHW, ALL, 3)
    again = augmenter(**EVERYTHING)
    again.draws(7)
    order = torch.randperm(N)
    for indices_B in order.split(7):
        assert torch.equal(again(images_NCHW[indices_B], indices_B, 3), expected[indices_B])
    assert not torch.equal(again(images_NCHW, ALL, 4), expected)
    other = augmenter(seed=1, **EVERYTHING)
    assert not torch.equal(other(images_NCHW, ALL, 3), expected)


@pytest.mark.parametrize("key", EVERYTHING)
def test_every_augmentation_has_an_effect_and_its_own_draws(key: str, images_NCHW: Tensor) -> None:
    """Switching one on changes pictures; the others' draws are unchanged."""
    alone = augmenter(**{key: EVERYTHING[key]})
    assert not torch.equal(alone(images_NCHW, ALL, 0), images_NCHW)
    assert torch.equal(alone.draws(0).shift_N2, augmenter(crop_px=alone.recipe.crop_px).draws(0).shift_N2)
    assert torch.equal(alone.draws(0).flip_N, augmenter(flip=alone.recipe.flip).draws(0).flip_N)


def test_input_is_not_written_to(images_NCHW: Tensor) -> None:
    before = images_NCHW.clone()
    augmenter(**EVERYTHING, mixup=1.0)(images_NCHW, ALL, 0)
    assert torch.equal(images_NCHW, before)


def test_cutout(images_NCHW: Tensor) -> None:
    """A square of that size around a pixel, clipped at the border, in the fill colour; nothing else changes."""
    augmented_NCHW = augmenter(cutout_px=4)(images_NCHW, ALL, 0)
    blank_NHW = (augmented_NCHW == FILL_C.view(3, 1, 1)).all(1)
    assert torch.equal(torch.where(blank_NHW[:, None], images_NCHW, augmented_NCHW), images_NCHW)
    sizes = set()
    for blank in blank_NHW:
        rows, columns = blank.any(1).nonzero(), blank.any(0).nonzero()
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert blank.sum() == height * width
        assert 2 <= height <= 4
        assert 2 <= width <= 4
        sizes.add((height, width))
    assert (4, 4) in sizes
    assert len(sizes) > 1


@pytest.mark.parametrize("side", [3, 4])
def test_cutout_is_centred(side: int, images_NCHW: Tensor) -> None:
    low, high = cutout_boxes(images_NCHW[:2], torch.tensor([[0.5, 0.5], [0.0, 0.999]]), side)
    assert (high - low).tolist() == [[side, side]] * 2
    assert low.tolist() == [[4 - side // 2] * 2, [-(side // 2), 8 - side // 2]]


def test_erasing() -> None:
    """The given share of the images; area and ratio as published, up to rounding; inside the image."""
    images_BCHW = torch.zeros(4_000, 3, 32, 32, dtype=torch.uint8)
    low, high = random_erasing_boxes(images_BCHW, torch.rand(4_000, 5, generator=torch.Generator().manual_seed(0)), 0.3)
    assert (low >= 0).all()
    assert (high <= 32).all()
    height, width = (high - low).double().unbind(1)
    erased = (height > 0) & (width > 0)
    assert erased.double().mean() == pytest.approx(0.3, abs=0.025)
    area, ratio = (height * width)[erased] / 32**2, (height / width)[erased]
    assert area.min() > 0.01
    assert area.max() < 0.36
    assert area.mean() == pytest.approx((0.02 + 0.33) / 2, abs=0.02)
    assert ratio.min() >= 0.2
    assert ratio.max() <= 5
    assert ratio.log().mean() == pytest.approx(0, abs=0.1)


def mix(augment: Augmenter, x_BCHW: Tensor, labels_B: Tensor, step: int) -> tuple[Tensor, Targets]:
    """The whole batch mixed with itself."""
    return augment.mix(x_BCHW, labels_B, augment.partners(len(labels_B), step), step)


def test_no_mixing(images_NCHW: Tensor) -> None:
    labels_N = ALL % 3
    mixed, targets = mix(augmenter(), to_float(images_NCHW), labels_N, step=5)
    assert torch.equal(mixed, to_float(images_NCHW))
    assert targets.label_weight == 1
    assert torch.equal(targets.labels_B, labels_N)


def test_mixup_shares(images_NCHW: Tensor) -> None:
    x_NCHW, augment = to_float(images_NCHW), augmenter(mixup=1.0)
    shares = []
    for step in range(200):
        mixed, targets = mix(augment, x_NCHW, ALL, step)
        expected = targets.label_weight * x_NCHW + (1 - targets.label_weight) * x_NCHW[targets.others_B]
        assert torch.allclose(mixed, expected, atol=1e-6)
        assert torch.equal(targets.others_B.sort().values, ALL)
        shares.append(targets.label_weight)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.08)  # uniform for alpha 1
    assert np.std(shares) == pytest.approx(12**-0.5, abs=0.05)


def test_cutmix_shares(images_NCHW: Tensor) -> None:
    """Each pixel is the image's own or its partner's; the share is exactly that of its own pixels."""
    x_NCHW, augment = to_float(images_NCHW), augmenter(cutmix=1.0)
    shares = []
    for step in range(100):
        mixed, targets = mix(augment, x_NCHW, ALL, step)
        pasted_HW = (mixed != x_NCHW).any(0).any(0)
        expected = torch.where(pasted_HW, x_NCHW[targets.others_B], x_NCHW)
        assert torch.equal(mixed, expected)
        assert targets.label_weight == pytest.approx(1 - pasted_HW.double().mean().item(), abs=1e-9)
        shares.append(targets.label_weight)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


def test_mixing_is_a_function_of_seed_and_step(images_NCHW: Tensor) -> None:
    x_NCHW = to_float(images_NCHW)
    both = augmenter(mixup=0.3, cutmix=0.3)
    first, again = (mix(both, x_NCHW, ALL, 7) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert first[1].label_weight == again[1].label_weight
    assert not torch.equal(first[0], mix(both, x_NCHW, ALL, 8)[0])
    assert not torch.equal(first[0], mix(augmenter(seed=1, mixup=0.3, cutmix=0.3), x_NCHW, ALL, 7)[0])
    kinds = {bool((mix(both, x_NCHW, ALL, step)[0][..., 0, 0] == x_NCHW[..., 0, 0]).all()) for step in range(20)}
    assert kinds == {True, False}


def test_resize_matches_pillow(images_NCHW: Tensor) -> None:
    """Bilinear with antialiasing, to one level; the same size is the same tensor."""
    for side in (6, 8, 20):
        resized_NCHW = resize(images_NCHW, side)
        assert resized_NCHW.dtype == torch.uint8
        for image, result in zip(images_NCHW, resized_NCHW, strict=True):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BILINEAR)
            difference = np.abs(np.asarray(picture).astype(int) - result.permute(1, 2, 0).numpy())
            assert difference.max() <= 1
    assert resize(images_NCHW, SIZE) is images_NCHW
    assert torch.allclose(resize(to_float(images_NCHW), 6), resize(images_NCHW, 6) / 255, atol=1 / 255)


def test_to_float() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert to_float(images).flatten().tolist() == pytest.approx([0, 0.2, 1])
    floats_NCHW = to_float(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.channels_last)
    assert floats_NCHW.is_contiguous(memory_format=torch.channels_last)
    assert images.dtype == torch.uint8
