"""Images as Python programs hold them: converted if unambiguous, else refused."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pocket_resnet.data.conversion import each_image, pixels
from pocket_resnet.data.image import MAX_FILE_BYTES
from pocket_resnet.errors import PocketError, UsageError

SIZE = 8
RGB = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
GREY = RGB[..., 0]
GREY_RGB = np.repeat(GREY[..., None], 3, axis=2)
ALPHA = np.dstack([RGB, np.where(np.arange(SIZE) < 4, 255, 0)[None].repeat(SIZE, 0).astype(np.uint8)])
OVER_WHITE = np.where(ALPHA[..., 3:] == 255, RGB, 255).astype(np.uint8)


def encoded() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, format="PNG")
    return buffer.getvalue()


def at_its_end() -> io.BytesIO:
    """A file object after saving into it."""
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, format="PNG")
    return buffer


CONVERTED: dict[str, tuple[Any, Any]] = {
    "bytes": (encoded(), RGB),
    "bytearray": (bytearray(encoded()), RGB),
    "memoryview": (memoryview(encoded()), RGB),
    "BytesIO": (at_its_end(), RGB),
    "Pillow image": (Image.fromarray(RGB), RGB),
    "Pillow grey": (Image.fromarray(GREY), GREY_RGB),
    "Pillow with alpha": (Image.fromarray(ALPHA), OVER_WHITE),
    "uint8": (RGB, RGB),
    "not contiguous": (RGB[::-1, :, ::-1], RGB[::-1, :, ::-1]),
    "whole numbers": (RGB.astype(np.int64), RGB),
    "fractions": (RGB.astype(np.float32) / 255, RGB),
    "fractions of 64 bits": (RGB / 255, RGB),
    "grey": (GREY, GREY_RGB),
    "grey with an axis": (GREY[..., None], GREY_RGB),
    "grey fractions": (GREY / 255, GREY_RGB),
    "true and false": (GREY > 99, np.where(GREY_RGB > 99, 255, 0)),
    "alpha": (ALPHA, OVER_WHITE),
    "tensor": (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
    "tensor of fractions": (torch.from_numpy(RGB).permute(2, 0, 1) / 255, RGB),
    "tensor with a gradient": ((torch.from_numpy(RGB).permute(2, 0, 1) / 255).requires_grad_(), RGB),
    "tensor, channels last": (torch.from_numpy(RGB), RGB),
    "grey tensor": (torch.from_numpy(GREY.copy())[None], GREY_RGB),
    "alpha tensor": (torch.from_numpy(ALPHA).permute(2, 0, 1), OVER_WHITE),
}


@pytest.mark.threat(57)
@pytest.mark.parametrize("kind", CONVERTED)
def test_converted(kind: str) -> None:
    """Twice, because conversion does not consume the caller's object."""
    image, expected_HWC = CONVERTED[kind]
    for _ in range(2):
        assert np.array_equal(pixels(image, SIZE), expected_HWC)


def test_half_precision_is_near() -> None:
    for kind in (torch.float16, torch.bfloat16):
        pixels_HWC = pixels((torch.from_numpy(RGB) / 255).to(kind), SIZE)
        assert np.abs(pixels_HWC.astype(int) - RGB).max() <= 1


@pytest.mark.threat(57)
def test_paths_and_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    monkeypatch.setenv("HOME", str(tmp_path))
    with (tmp_path / "a.png").open("rb") as file:
        for image in (tmp_path / "a.png", str(tmp_path / "a.png"), np.str_(tmp_path / "a.png"), "~/a.png", file):
            assert np.array_equal(pixels(image, SIZE), RGB)
        assert np.array_equal(pixels(Image.open(tmp_path / "a.png"), SIZE), RGB)


def test_a_pillow_image_stays_as_it_is(tmp_path: Path) -> None:
    """And is rotated by its EXIF orientation, as its file would be."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).resize((400, 300)).save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as opened:
        pixels_HWC = pixels(opened, SIZE)
        assert opened.size == (400, 300)
        assert opened.getexif()[0x0112] == 6
    assert np.abs(pixels_HWC.astype(int) - pixels(tmp_path / "turned.jpg", SIZE)).mean() < 5  # which is drafted


@pytest.mark.threat(57)
def test_16_bit_grey_of_an_opened_picture(tmp_path: Path) -> None:
    """Equal to reading its file, even if only the format states the depth."""
    deep = Image.fromarray(GREY.astype(np.uint16) * 256)
    for kind in ("ppm", "png", "tiff"):
        path = tmp_path / f"deep.{kind}"
        deep.save(path, kind.upper())
        with Image.open(path) as opened:
            assert np.array_equal(pixels(opened, SIZE), pixels(path, SIZE))
            assert np.array_equal(pixels(path, SIZE), GREY_RGB)


class Table:
    """Like pandas' DataFrame: iterating does not give its rows."""

    columns = ("path", "label")

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


REFUSED: dict[str, Any] = {
    "three grey images, or channels first": RGB.transpose(2, 0, 1),
    "fractions above 1": RGB * 1.0,
    "normalised": RGB / 128 - 1,
    "not a number": np.full((4, 4, 3), np.nan),
    "16 bits": RGB.astype(np.uint16),
    "negative": RGB.astype(np.int32) - 1,
    "above 255": RGB.astype(np.int32) + 100,
    "complex": RGB.astype(complex),
    "empty": np.zeros((0, 4, 3), np.uint8),
    "two channels": RGB[..., :2],
    "one axis": GREY[0],
    "no axis": np.uint8(3),
    "text file": io.StringIO("x"),
    "list of numbers": [[1, 2], [3, 4]],
    "none": None,
    "number": 3,
    "table": Table(),
    "dictionary": {"a": RGB},
}


@pytest.mark.threat(57)
@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    """One line on the problem, and one on what is accepted."""
    with pytest.raises(PocketError) as raised:
        [pixels(image, SIZE) for image in each_image(REFUSED[kind])]
    assert raised.value.exit_code in (2, 3)
    assert raised.value.hint is not None


def test_too_large_a_file() -> None:
    with pytest.raises(PocketError, match="over the limit"):
        pixels(io.BytesIO(bytes(MAX_FILE_BYTES + 1)), SIZE)


class Column:
    """Like pandas' Series: iterable, but not a sequence."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def keys(self) -> range:
        return range(len(self.values))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)


@pytest.mark.threat(57)
def test_one_or_several() -> None:
    paths = ["a.png", "b.png"]
    for images in (
        paths,
        tuple(paths),
        iter(paths),
        Column(paths),
        (name for name in paths),
        dict.fromkeys(paths).keys(),
    ):
        assert list(each_image(images)) == paths
    assert list(each_image(np.array(paths))) == paths
    assert list(each_image(np.array(paths, dtype=object))) == paths
    for one in ("a.png", Path("a.png"), b"GIF", io.BytesIO(b""), Image.new("L", (1, 1)), RGB, torch.zeros(3, 8, 8)):
        assert list(each_image(one)) == [one]
    assert [each.shape for each in each_image(np.zeros((2, 4, 4, 3)))] == [(4, 4, 3)] * 2
    assert [each.shape for each in each_image(torch.zeros(2, 3, 4, 4))] == [(3, 4, 4)] * 2
    with pytest.raises(UsageError, match="Table is neither an image nor a list of images"):
        list(each_image(Table()))
