"""The decoder: golden pixels for every kind of picture, and a clear refusal of everything else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from image_files import encoded, png
from pocket_resnet.data.image import ImageError, decode

pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL", r"ignore::PIL.Image.DecompressionBombWarning")

RGB = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
GREY = RGB[..., 0]


def over_white(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.float64]:
    weight = alpha[..., None] / 255
    return rgb * weight + 255 * (1 - weight)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF"])
def test_lossless_formats(kind: str) -> None:
    few = (RGB // 128) * 255  # 8 colours, so that GIF is lossless too
    np.testing.assert_array_equal(decode(encoded(few, kind, **({"lossless": True} if kind == "WEBP" else {}))), few)


def test_jpeg() -> None:
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert np.abs(decode(encoded(flat, "JPEG", quality=95)).astype(int) - flat).max() <= 2


@pytest.mark.threat(24)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_and_deep_grey_are_scaled(kind: str) -> None:
    """Grey of 8 and 16 bits."""
    expected = np.repeat(GREY[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode(encoded(GREY, kind)), expected)
    np.testing.assert_array_equal(decode(encoded(GREY.astype(np.uint16) * 257, kind)), expected)


@pytest.mark.threat(24)
def test_deep_colour_is_scaled() -> None:
    """Colour of 16 bits."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RGB.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode(png(4, 5, 16, 2, rows)), RGB)


def test_one_bit() -> None:
    bits = GREY > 127
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(bits)))[..., 1], bits * 255)


@pytest.mark.threat(24)
def test_alpha_lies_over_white() -> None:
    """RGBA, and grey with alpha."""
    alpha = RGB[..., 2]
    decoded = decode(encoded(np.dstack([RGB, alpha])))
    assert np.abs(decoded - over_white(RGB, alpha)).max() <= 1
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    expected = over_white(np.repeat(GREY[..., None], 3, axis=2), alpha)
    assert np.abs(decode(encoded(grey_alpha)) - expected).max() <= 1


@pytest.mark.threat(24)
def test_palette_with_and_without_transparency() -> None:
    """Palettes."""
    picture = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2), "L").convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]], np.uint8)
    np.testing.assert_array_equal(decode(encoded(picture)), colours)
    colours[0, 1] = 255
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(decode(encoded(picture, kind, transparency=1)), colours)
    halves = over_white(decode(encoded(picture)), np.array([[128, 255], [255, 0]], np.uint8))
    decoded = decode(encoded(picture, transparency=bytes([128, 255, 255, 0])))
    assert np.abs(decoded - halves).max() <= 1


@pytest.mark.parametrize("depth", [8, 16])
def test_one_transparent_grey_becomes_white(depth: int) -> None:
    scale, dtype = (1, np.uint8) if depth == 8 else (257, np.uint16)
    grey = np.array([[0, 100], [200, 255]], dtype) * dtype(scale)
    decoded = decode(encoded(grey, transparency=100 * scale))
    assert decoded[..., 0].tolist() == [[0, 255], [200, 255]]


@pytest.mark.threat(24)
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    options = {"quality": 100} if kind == "JPEG" else {}
    assert np.abs(decode(encoded(cyan, kind, **options)).astype(int) - (0, 255, 255)).max() <= 3


@pytest.mark.threat(24)
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame(kind: str) -> None:
    """Animations."""
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (decode(content) == (255, 0, 0)).all()


@pytest.mark.threat(24)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    """All eight orientations, in every format that knows them."""
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12], upright[:8, 12:], upright[8:, :12] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    undo: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo[orientation](upright))
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    decoded = decode(encoded(stored, kind, exif=exif.tobytes() if kind != "TIFF" else exif, **options))
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).max() <= 3


def test_damaged_exif_does_not_matter() -> None:
    content = encoded(np.zeros((8, 8, 3), np.uint8), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert decode(content).shape == (8, 8, 3)


def test_size_takes_the_centre_square_with_antialiasing() -> None:
    wide = np.random.default_rng(2).integers(0, 256, (16, 48, 3), np.uint8)
    np.testing.assert_array_equal(decode(encoded(wide), 16), wide[:, 16:32])
    tall = np.ascontiguousarray(wide.swapaxes(0, 1))
    for picture, square in ((wide, wide[:, 16:32]), (tall, tall[16:32])):
        shrunk = Image.fromarray(square).resize((8, 8), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(decode(encoded(picture), 8), np.asarray(shrunk))
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(decode(encoded(stripes), 8).astype(int) - 127).max() < 20  # without antialiasing: 0 or 255
    np.testing.assert_array_equal(decode(encoded(stripes), 64), stripes)


@pytest.mark.parametrize(("width", "left"), [(17, 0), (18, 1), (19, 1), (21, 2)])
def test_centre_square_has_whole_pixels(width: int, left: int) -> None:
    """Where the margins cannot be equal, the left or upper one has a pixel less; nothing outside has an influence."""
    wide = np.random.default_rng(4).integers(0, 256, (16, width, 3), np.uint8)
    tall = np.ascontiguousarray(wide.swapaxes(0, 1))
    for picture, square in ((wide, wide[:, left : left + 16]), (tall, tall[left : left + 16])):
        for size in (8, 16, 24):
            expected = decode(encoded(np.ascontiguousarray(square)), size)
            np.testing.assert_array_equal(decode(encoded(picture), size), expected)


def test_draft_of_a_large_jpeg_is_close_to_the_full_decode() -> None:
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    picture = np.dstack([np.tile(ramp, (512, 1)), np.tile(ramp[:, None], (1, 512)), np.full((512, 512), 90, np.uint8)])
    full = Image.fromarray(picture).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.abs(decode(encoded(picture, "JPEG", quality=95), 16).astype(int) - np.asarray(full)).max() <= 4


@pytest.mark.threat(23)
@pytest.mark.parametrize("size", [None, 1, 32])
def test_one_pixel(size: int | None) -> None:
    """1 x 1 works."""
    assert (decode(encoded(np.full((1, 1, 3), 77, np.uint8)), size) == 77).all()


@pytest.mark.threat(22)
@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF", "JPEG"])
def test_content_decides_the_format_and_truncated_files_are_refused(kind: str, tmp_path: Path) -> None:
    """Wrong extension; no grey fill at any truncation."""
    pixels = np.random.default_rng(3).integers(0, 256, (16, 16, 3), np.uint8)
    content = encoded(pixels, kind)
    (tmp_path / "wrong.txt").write_bytes(content)
    whole = decode(tmp_path / "wrong.txt")
    for length in range(0, len(content) - 1, 7):
        try:
            cut = decode(content[:length])
        except ImageError:
            continue
        np.testing.assert_array_equal(cut, whole)


@pytest.mark.threat(22, 23)
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file"),
        (b"hello", "not an image"),
        (b"\x80\x04\x95cos\nsystem\n", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),
        (encoded(RGB)[:80], "a damaged image|not an image"),
        (png(20_000, 20_000, 8, 2), "over the limit of 50,000,000 pixels"),
        (png(10_000, 10_000, 1, 0), "over the limit of 50,000,000 pixels"),
        (png(30_001, 1, 8, 0), "pixels per side"),
        (encoded(np.zeros((2, 2), np.float32), "TIFF"), "no defined white"),
    ],
    ids=["empty", "text", "pickle", "svg", "eps", "cut", "huge", "bomb", "long", "float"],
)
def test_refused(content: bytes, what: str, tmp_path: Path) -> None:
    """Files that are not images, or exceed the limits by their header; the file is named."""
    path = tmp_path / "some picture.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=what):
        decode(content)
    with pytest.raises(ImageError, match=rf"some picture\.png: .*({what})") as raised:
        decode(path)
    assert raised.value.exit_code == 3
