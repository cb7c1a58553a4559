"""PNGs with too long or damaged metadata: the picture is intact, so it is used."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pocket_resnet.data.image import ImageError, decode
from pocket_resnet.data.png import SIGNATURE, without_metadata

RGB = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
LONG = b"x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1)


def encoded(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes, error: int = 0) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content) ^ error)


def with_chunk(content: bytes, added: bytes, before: bytes) -> bytes:
    at = content.index(before) - 4
    return content[:at] + added + content[at:]


METADATA: dict[str, Callable[[], bytes]] = {
    "long packed text": lambda: chunk(b"zTXt", b"key\0\0" + zlib.compress(LONG)),
    "long packed Unicode text": lambda: chunk(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(LONG)),
    "long profile": lambda: chunk(b"iCCP", b"key\0\0" + zlib.compress(LONG)),
    "very long text": lambda: b"".join(chunk(b"tEXt", b"key\0" + LONG) for _ in range(65)),
    "sum of a text": lambda: chunk(b"tEXt", b"key\0value", error=1),
    "sum of a time": lambda: chunk(b"tIME", b"\7\xd0\1\1\1\1\1", error=1),
    "sum of EXIF": lambda: chunk(b"eXIf", b"MM\0*\0\0\0\x08", error=1),
}


@pytest.mark.threat(48)
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("kind", METADATA)
def test_metadata_do_not_matter(kind: str, before: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 1 MB of it, or a wrong sum, before or behind the pixels."""
    monkeypatch.setattr("pocket_resnet.data.image.MAX_FILE_BYTES", 2**27)
    np.testing.assert_array_equal(decode(with_chunk(encoded(Image.fromarray(RGB)), METADATA[kind](), before)), RGB)


@pytest.mark.threat(48)
def test_chunks_of_the_picture_are_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = with_chunk(encoded(Image.fromarray(RGB), exif=exif), METADATA["long packed text"](), b"IDAT")
    np.testing.assert_array_equal(decode(turned), RGB[::-1, ::-1])
    palette = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2), "L").convert("P")
    palette.putpalette([9, 9, 9] * 4)
    content = with_chunk(encoded(palette, transparency=1), METADATA["long packed text"](), b"IDAT")
    assert decode(content)[..., 0].tolist() == [[9, 255], [9, 9]]


@pytest.mark.threat(47)
@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"tRNS", b"IDAT"])
def test_damage_of_the_picture_is_refused(name: bytes) -> None:
    """With long metadata too."""
    palette = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2), "L").convert("P")
    content = encoded(palette, transparency=1)
    stop = content.index(name) + 4 + int.from_bytes(content[content.index(name) - 4 : content.index(name)])
    damaged = content[:stop] + bytes([content[stop] ^ 1]) + content[stop + 1 :]
    for bad in (damaged, with_chunk(damaged, METADATA["long packed text"](), b"IDAT")):
        with pytest.raises(ImageError):
            decode(bad)


def test_plain_and_damaged_files_are_unchanged() -> None:
    plain = encoded(Image.fromarray(RGB))
    for content in (plain, plain[:40], SIGNATURE, SIGNATURE + b"\xff" * 40, b""):
        assert without_metadata(content) == content
