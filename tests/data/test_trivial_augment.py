"""TrivialAugment's operations against Pillow's, on batches with one strength per image.

Shapes: B images, C channels, H x W pixels.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor

from pocket_resnet.data.trivial_augment import NUM_OPERATIONS, NUM_STRENGTHS, OPERATIONS, trivial_augment

SIZE = 32
STRENGTHS = tuple(range(NUM_STRENGTHS))
SIGNS = (-1, 1)
NAMES = [operation.__name__.removeprefix("_") for operation in OPERATIONS]


@pytest.fixture
def picture() -> Image.Image:
    """Gradients, edges and noise, with black and white in it."""
    rng = np.random.default_rng(0)
    pixels_HWC = np.linspace(20, 230, SIZE)[:, None, None] + rng.normal(0, 12, (SIZE, SIZE, 3)) + [0, 10, -15]
    picture = Image.fromarray(pixels_HWC.clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(picture).ellipse((8, 5, 24, 15), fill=(200, 40, 90))
    ImageDraw.Draw(picture).rectangle((3, 20, 9, 28), fill="white", outline="black")
    return picture


def as_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def augmented(name: str, picture: Image.Image, strengths: tuple[int, ...], sign: int) -> Tensor:
    B = len(strengths)
    images_BCHW = as_tensor(picture).expand(B, -1, -1, -1).contiguous()
    operation_B = torch.full((B,), NAMES.index(name))
    return trivial_augment(images_BCHW, operation_B, torch.tensor(strengths), torch.full((B,), sign))


def affine(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Pillow's warp by an inverse matrix about the centre of the picture."""
    a, b, c, d, e, f = matrix
    centre = SIZE / 2
    shifted = (a, b, c + centre - a * centre - b * centre, d, e, f + centre - d * centre - e * centre)
    return picture.transform((SIZE, SIZE), Image.Transform.AFFINE, shifted, Image.Resampling.NEAREST)


def rotation(angle: float) -> tuple[float, ...]:
    return math.cos(angle), math.sin(angle), 0, -math.sin(angle), math.cos(angle), 0


Reference = Callable[[Image.Image, float], Image.Image]
WARPS: dict[str, Reference] = {
    "shear_x": lambda p, s: affine(p, (1, -0.99 * s, 0, 0, 1, 0)),
    "shear_y": lambda p, s: affine(p, (1, 0, 0, -0.99 * s, 1, 0)),
    "translate_x": lambda p, s: affine(p, (1, 0, -32 * s, 0, 1, 0)),
    "translate_y": lambda p, s: affine(p, (1, 0, 0, 0, 1, -32 * s)),
    "rotate": lambda p, s: affine(p, rotation(math.radians(135 * s))),
}
BLENDS: dict[str, Reference] = {
    "brightness": lambda p, s: ImageEnhance.Brightness(p).enhance(1 + 0.99 * s),
    "color": lambda p, s: ImageEnhance.Color(p).enhance(1 + 0.99 * s),
    "contrast": lambda p, s: ImageEnhance.Contrast(p).enhance(1 + 0.99 * s),
    "sharpness": lambda p, s: ImageEnhance.Sharpness(p).enhance(1 + 0.99 * s),
}
EXACT: dict[str, Reference] = {
    "identity": lambda p, _: p,
    "posterize": lambda p, s: ImageOps.posterize(p, 8 - round(6 * abs(s))),
    "solarize": lambda p, s: ImageOps.solarize(p, math.ceil(256 * (1 - abs(s)) - 1e-9)),
    "autocontrast": lambda p, _: ImageOps.autocontrast(p),
    "equalize": lambda p, _: ImageOps.equalize(p),
}


def test_every_operation_has_a_reference() -> None:
    assert {*WARPS, *BLENDS, *EXACT} == set(NAMES)
    assert NUM_OPERATIONS == len(NAMES) == 14


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("name", EXACT)
def test_exact(name: str, sign: int, picture: Image.Image) -> None:
    augmented_NCHW = augmented(name, picture, STRENGTHS, sign)
    for strength, result in zip(STRENGTHS, augmented_NCHW, strict=True):
        expected = as_tensor(EXACT[name](picture, sign * strength / 30))
        difference = (result.int() - expected.int()).abs()
        assert difference.max() <= (name == "autocontrast"), f"strength {strength}"  # its float rounding


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("name", BLENDS)
def test_blends(name: str, sign: int, picture: Image.Image) -> None:
    """To two levels: Pillow rounds the degenerate image, and cuts what it blends."""
    augmented_NCHW = augmented(name, picture, STRENGTHS, sign)
    for strength, result in zip(STRENGTHS, augmented_NCHW, strict=True):
        expected = as_tensor(BLENDS[name](picture, sign * strength / 30))
        assert (result.int() - expected.int()).abs().max() <= 2, f"strength {strength}"


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("name", WARPS)
def test_warps(name: str, sign: int, picture: Image.Image) -> None:
    """Nearest pixel, black beyond the border: the same but where a source lies between two pixels (4% at most)."""
    augmented_NCHW = augmented(name, picture, STRENGTHS, sign)
    for strength, result in zip(STRENGTHS, augmented_NCHW, strict=True):
        expected = as_tensor(WARPS[name](picture, sign * strength / 30))
        share = (result != expected).any(0).double().mean()
        assert share <= 0.04, f"strength {strength}"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("autocontrast", "equalize")])
def test_strength_0_changes_nothing(name: str, picture: Image.Image) -> None:
    for sign in SIGNS:
        assert torch.equal(augmented(name, picture, (0,), sign)[0], as_tensor(picture))


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "contrast"])
def test_flat_pictures(name: str) -> None:
    for colour in ((0, 0, 0), (255, 255, 255), (7, 100, 200)):
        flat = Image.new("RGB", (SIZE, SIZE), colour)
        reference = (EXACT | BLENDS)[name](flat, 1.0)
        assert (augmented(name, flat, (30,), 1)[0].int() - as_tensor(reference).int()).abs().max() <= 1


def test_each_image_has_its_own_operation(picture: Image.Image) -> None:
    """A mixed batch equals each image processed alone; the input is unchanged."""
    draws = torch.Generator().manual_seed(0)
    B = 100
    images_BCHW = torch.randint(0, 256, (B, 3, SIZE, SIZE), generator=draws).to(torch.uint8)
    images_BCHW[0] = as_tensor(picture)
    before = images_BCHW.clone()
    operation_B, strength_B = torch.arange(B) % NUM_OPERATIONS, torch.arange(B) % NUM_STRENGTHS
    sign_B = torch.arange(B) % 2 * 2 - 1
    augmented_BCHW = trivial_augment(images_BCHW, operation_B, strength_B, sign_B)
    for b in range(B):
        alone = trivial_augment(
            images_BCHW[b : b + 1], *(draw[b : b + 1] for draw in (operation_B, strength_B, sign_B))
        )
        assert torch.equal(augmented_BCHW[b], alone[0])
    assert torch.equal(images_BCHW, before)
    assert augmented_BCHW.dtype == torch.uint8
