"""Unsupported formats are named, with how to convert them."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, features

from pocket_resnet.data.image import ImageError, decode


def box(brand: bytes, *compatible: bytes) -> bytes:
    content = b"ftyp" + brand + b"\0\0\0\0" + b"".join(compatible)
    return struct.pack(">I", len(content) + 4) + content + bytes(100)


def tiff(tags: dict[int, int]) -> bytes:
    """A thumbnail, as cameras store it before the raw image."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[tag] = value
        directory.tagtype[tag] = 4
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "TIFF", tiffinfo=directory)
    return file.getvalue()


FILES = {
    "AVIF": [box(b"avif"), box(b"mif1", b"mif1", b"avif"), box(b"avis")],
    "HEIC": [box(b"heic", b"mif1"), box(b"mif1", b"heic"), box(b"msf1"), box(b"heix")],
    "JPEG 2000": [b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), b"\xff\x4f\xff\x51" + bytes(50)],
    "JPEG XL": [b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), b"\xff\x0a" + bytes(50)],
    "RAW": [
        box(b"crx "),
        b"FUJIFILMCCD-RAW 0201",
        b"IIRO\x08\0\0\0",
        b"IIU\0\x18\0\0\0",
        b"II*\0\x10\0\0\0CR\x02\0",
        tiff({50706: 0x01040000}),
        tiff({254: 1, 330: 8}),
    ],
    "Photoshop": [b"8BPS\0\1" + bytes(50)],
    "PDF": [b"%PDF-1.7\n"],
}


@pytest.mark.threat(22)
@pytest.mark.parametrize("name", FILES)
def test_named(name: str) -> None:
    for content in FILES[name]:
        with pytest.raises(ImageError, match=f"{name} is not supported: convert it to PNG or JPEG"):
            decode(content, 8)


@pytest.mark.threat(22)
@pytest.mark.parametrize(("kind", "name", "feature"), [("AVIF", "AVIF", "avif"), ("JPEG2000", "JPEG 2000", "jpg_2000")])
def test_real_files_are_named(kind: str, name: str, feature: str) -> None:
    if not features.check(feature):
        pytest.skip(f"Pillow writes no {name} here")
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file, kind)
    with pytest.raises(ImageError, match=f"{name} is not supported"):
        decode(file.getvalue())


def test_plain_tiffs_are_read() -> None:
    assert decode(tiff({})).shape == (4, 4, 3)
    assert decode(tiff({254: 0})).shape == (4, 4, 3)
    with pytest.raises(ImageError, match="not an image"):
        decode(box(b"isom", b"mp41"))
