"""The decoder's limits: frames, special files, memory."""

import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_files import encoded, png
from pocket_resnet.data import image as image_module
from pocket_resnet.data.image import ImageError, decode, read_file


@pytest.mark.threat(23)
def test_too_many_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "MAX_NUM_FRAMES", 2)
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "lime", "blue")]
    with pytest.raises(ImageError, match="3 frames are over the limit of 2"):
        decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))


@pytest.mark.threat(21)
def test_odd_files_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FIFOs and devices are no images."""
    os.mkfifo(tmp_path / "fifo")
    for path, what in {
        tmp_path / "fifo": "not a regular file",
        Path("/dev/zero"): "not a regular file",
        tmp_path: "a folder, not an image\n  give the files in it",
        tmp_path / "none": "No such file or directory\n  check its path",
    }.items():
        with pytest.raises(ImageError, match=what):
            decode(path)
    monkeypatch.setattr(image_module, "MAX_FILE_BYTES", 10)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(ImageError, match="over the limit of 10 bytes"):
        decode(tmp_path / "large")


def patched(content: bytes, after: bytes, skipped: int, value: bytes) -> bytes:
    """The file with other bytes a little after a marker."""
    at = content.index(after) + len(after) + skipped
    return content[:at] + value + content[at + len(value) :]


def crafted_headers() -> list[bytes]:
    """Small files whose headers claim a huge size: one of each format, a bilevel one, and one of 1,200 frames."""
    tiny, side = np.zeros((2, 2, 3), np.uint8), 20_000
    webp = encoded(tiny, "WEBP", lossless=True)
    tiff = encoded(tiny, "TIFF")
    for tag in (256, 257):  # width, height
        kind = tiff[tiff.index(struct.pack("<H", tag)) :][2:8]
        tiff = patched(tiff, struct.pack("<H", tag) + kind, 0, struct.pack("<H", side))
    frames = [Image.new("1", (8, 8), number % 2) for number in range(1_200)]
    return [
        png(side, side, 8, 2),
        png(10_000, 10_000, 1, 0),
        patched(
            webp, b"VP8L", 5, struct.pack("<I", struct.unpack_from("<I", webp, webp.index(b"VP8L") + 9)[0] | 2**28 - 1)
        ),
        patched(encoded(tiny, "JPEG"), b"\xff\xc0", 3, struct.pack(">HH", side, side)),
        patched(encoded(tiny, "BMP"), b"BM", 16, struct.pack("<ii", side, side)),
        patched(encoded(tiny, "GIF"), b"GIF87a", 0, struct.pack("<HH", side, side)),
        b"P6 20000 20000 255\n" + bytes(100),
        tiff,
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    ]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_small_file_takes_little_memory(picture: Path) -> None:
    """Not the 64 MiB that a file may have."""
    tracemalloc.start()
    assert read_file(picture) == picture.read_bytes()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.threat(23)
def test_refusals_take_less_than_100_mb(tmp_path: Path) -> None:
    """A process of its own that does nothing else; getrusage would start from the peak of this one."""
    for number, content in enumerate(crafted_headers()):
        (tmp_path / str(number)).write_bytes(content)
    script = """
import re, sys
from pathlib import Path
from pocket_resnet.data.image import ImageError, decode
for path in sorted(Path(sys.argv[1]).iterdir()):
    try: decode(path, 32)
    except ImageError as error: print(error)
    else: sys.exit(f"{path} was taken")
peak_kb = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(f"took {peak_kb} kB" if peak_kb > 100_000 else 0)
"""
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("over the limit") == 9, ended.stdout
