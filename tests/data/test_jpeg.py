"""JPEGs: damage inside the scan is refused, damage after it is not, very large ones need little memory."""

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocket_resnet.data import image as image_module
from pocket_resnet.data.image import ImageError, decode
from pocket_resnet.data.jpeg import is_read_by_rows, read_pixels

END = b"\xff\xd9"
KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "fine": {"quality": 95, "subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 2},
}

pytestmark = pytest.mark.filterwarnings(r"ignore::PIL.Image.DecompressionBombWarning")


def picture(height: int = 96, width: int = 128) -> Image.Image:
    rng = np.random.default_rng(4)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(smooth).astype(int) + rng.integers(-9, 9, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.threat(47)
@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_inside_is_refused(kind: str, size: int | None) -> None:
    """Zeros over a third of the scan, a hole, an end marker too early; at full and reduced size."""
    content = encoded(picture(), **KINDS[kind])
    half, third = len(content) // 2, len(content) // 3
    damaged = {
        "zeros": content[:half] + bytes(third) + content[half + third :],
        "zeros up to the end": content[:half] + bytes(len(content) - half - 2) + END,
        "hole": content[:half] + content[half + 300 :],
        "cut": content[:half] + END,
        "cut by little": content[:-40] + END,
        "cut without end": content[:half],
    }
    for name, bad in damaged.items():
        with pytest.raises(ImageError, match="a damaged image"):
            pytest.fail(f"{name}: {decode(bad, size).shape}")


@pytest.mark.threat(47)
@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_with_complete_scans_are_used(kind: str, size: int | None) -> None:
    """Only the end marker is missing, or other bytes follow it."""
    content = encoded(picture(), **KINDS[kind])
    whole = decode(content, size)
    for same in (content[:-2], content[:-1], content + b"trailing " * 99, content + END, content + content):
        np.testing.assert_array_equal(decode(same, size), whole)


def with_version(content: bytes, version: bytes) -> bytes:
    at = content.index(b"JFIF\0") + 5
    return content[:at] + version + content[at + 2 :]


@pytest.mark.threat(47)
@pytest.mark.parametrize("kind", KINDS)
def test_odd_bytes_outside_of_the_picture_do_not_matter(kind: str) -> None:
    """An unknown JFIF version, stray bytes in the header or before the end marker; all at once too."""
    content = encoded(picture(), **KINDS[kind])
    whole = decode(content)
    table = content.index(b"\xff\xdb")
    stray_in_header = content[:table] + b"\x12\0\x34" + content[table:]
    for same in (
        with_version(content, b"\0\0"),
        with_version(content, b"\2\1"),
        stray_in_header,
        content[:-2] + bytes(9) + END,
        content[:-2] + bytes(5_000) + END + b"trailing",
        content[:-2] + b"\x12\x34\x56\x78" * 3 + END,
        with_version(stray_in_header[:-2] + b"\x12" * 9 + bytes(99) + END, b"\0\0"),
        with_version(stray_in_header[:-2], b"\0\0"),
    ):
        np.testing.assert_array_equal(decode(same), whole)


@pytest.mark.threat(47)
@pytest.mark.parametrize("kind", KINDS)
def test_stray_bytes_do_not_hide_damage(kind: str) -> None:
    """Bytes that damage leaves before the end marker do not count as stray bytes."""
    content = with_version(encoded(picture(), **KINDS[kind]), b"\0\0")
    half, third = len(content) // 2, len(content) // 3
    for bad in (
        content[:half] + bytes(third) + content[half + third :],
        content[:half] + bytes(len(content) - half) + bytes(9_000) + END,
        content[:half] + END,
        content[:half],
        content[:-2] + content[half:],
        content[: content.index(b"\xff\xda")] + END,
    ):
        with pytest.raises(ImageError, match="a damaged image"):
            decode(bad)


@pytest.mark.threat(47)
@pytest.mark.parametrize("kind", ["baseline", "progressive"])
def test_truncated_anywhere(kind: str) -> None:
    """Refused, also between two scans of a progressive file, unless only the end marker is missing."""
    content = encoded(picture(24, 32), **KINDS[kind])
    whole, num_whole = decode(content), 0
    for length in range(content.index(b"\xff\xda"), len(content)):
        try:
            pixels_HWC = decode(content[:length])
        except ImageError:
            continue
        np.testing.assert_array_equal(pixels_HWC, whole, err_msg=f"cut at {length} of {len(content)}")
        num_whole += 1
    assert num_whole >= 2


@pytest.mark.threat(47)
def test_unknown_chroma_sampling_is_named() -> None:
    """It is not damage: one colour has half the columns, the other half the rows."""
    content = bytearray(encoded(picture(), subsampling=0))
    frame = content.index(b"\xff\xc0")
    content[frame + 11], content[frame + 14], content[frame + 17] = 0x22, 0x21, 0x12
    with pytest.raises(ImageError, match=r"^its chroma sampling is not supported"):
        decode(bytes(content))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image_size", [(1, 1), (1, 9), (17, 33), (65, 63), (129, 200)])
def test_pixels_are_those_of_pillow(image_size: tuple[int, int], kind: str, mode: str) -> None:
    """At every scale that its draft mode chooses."""
    content = encoded(picture(*image_size).convert(mode), **(KINDS[kind] if mode == "RGB" else {}))
    for size in (1, 2, 4, 8):
        with Image.open(io.BytesIO(content)) as image:
            image.draft(None, (4 * size, 4 * size))
            image.load()
        scale = max((s for s in (1, 2, 4, 8) if min(image_size) // (4 * size) >= s), default=1)
        pixels_HWC = read_pixels(content, image_size[1], image_size[0], scale=scale, is_cmyk=mode == "CMYK")
        expected = 255 - np.asarray(image) if mode == "CMYK" else np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(pixels_HWC, expected)


def test_first_of_several_pictures() -> None:
    """An MPO, as phones make them, is a JPEG with another one behind it."""
    file, first = io.BytesIO(), picture()
    first.save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))], quality=95, subsampling=0)
    np.testing.assert_array_equal(decode(file.getvalue()), decode(encoded(first, quality=95, subsampling=0)))
    with pytest.raises(ImageError, match="a damaged image"):
        decode(file.getvalue()[:3000] + bytes(2000) + file.getvalue()[5000:])


def test_which_jpegs_are_read_by_rows() -> None:
    by_rows = {kind: is_read_by_rows(encoded(picture(), **options)) for kind, options in KINDS.items()}
    assert by_rows == {"baseline": True, "fine": True, "progressive": False, "restarts": True}
    content = encoded(picture())
    scan = content.index(b"\xff\xda")
    assert not is_read_by_rows(content[: scan + 4] + b"\1" + content[scan + 5 :])  # one component, others follow
    for odd in (b"", b"\xff\xd8", content[:scan], content[:30], b"\xff\xd8\xff\xff\xff\xda\0\0\0", content[2:]):
        assert not is_read_by_rows(odd)


def grey(width: int, height: int) -> bytes:
    """A grey JPEG of any size, a multiple of 32: each block says `no difference, end` in 6 bits."""
    small = encoded(Image.new("L", (8, 8), 128))
    frame, scan = small.index(b"\xff\xc0"), small.index(b"\xff\xda") + 10
    dimensions = height.to_bytes(2) + width.to_bytes(2)
    blocks = b"\x28\xa2\x8a" * (width * height // 64 // 4)
    return small[: frame + 5] + dimensions + small[frame + 9 : scan] + blocks + END


@pytest.mark.threat(48)
def test_limits_of_large_jpegs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded at a scale that keeps them within the limit for pixels."""
    content, progressive = grey(640, 320), encoded(picture(320, 640), progressive=True)
    monkeypatch.setattr(image_module, "MAX_PIXELS", 60_000)
    for size in (8, 32, 64, 160):
        assert (decode(content, size) == 128).all()
    for size in (None, 161):
        with pytest.raises(ImageError, match=r"640 x 320 is over the limit of 60,000 pixels"):
            decode(content, size)
    with pytest.raises(ImageError, match=r"640 x 320 is over the limit of 60,000 pixels"):
        decode(progressive, 8)
    monkeypatch.setattr(image_module, "MAX_JPEG_PIXELS", 100_000)
    with pytest.raises(ImageError, match=r"640 x 320 is over the limit of 100,000 pixels"):
        decode(content, 8)


@pytest.mark.threat(48)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_phones_108_megapixels_take_little_memory(tmp_path: Path) -> None:
    (tmp_path / "phone.jpg").write_bytes(grey(12_000, 9_024))
    script = """
import re, sys
from pathlib import Path
from pocket_resnet.data.image import decode
assert (decode(Path(sys.argv[1]), 32) == 128).all()
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    command = [sys.executable, "-c", script, str(tmp_path / "phone.jpg")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert int(re.findall(r"\d+", ended.stdout)[-1]) < 150_000
