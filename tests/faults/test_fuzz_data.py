"""Any bytes as images, CIFAR's files or archives give a valid result or a DataError, and leave no file behind."""

import contextlib
import gzip
import io
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import FUZZING, SLOW, changed, names, other_values
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pocket_resnet.data.archive import extract
from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.image import ImageError, decode
from pocket_resnet.data.records import parse_binary, parse_python
from pocket_resnet.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's and pickletools', of damaged files


# Images


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


FRAMES: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (12, 9), "red")] * 2}
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
PICTURES = [
    *(encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF")),
    *(encoded(kind, **FRAMES) for kind in ("GIF", "WEBP", "PNG", "TIFF")),
    *(encoded(kind, "CMYK") for kind in ("JPEG", "TIFF")),
    *(encoded("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")),
    encoded("PNG", "P", transparency=1),
    encoded("JPEG", exif=EXIF),
    encoded("JPEG", progressive=True),
    *(encoded("TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
    encoded("WEBP", lossless=True),
]


@pytest.mark.threat(22, 23)
@given(changed(*PICTURES))
@FUZZING
def test_image(content: bytes) -> None:
    """RGB pixels of the requested size, or a refusal."""
    with contextlib.suppress(ImageError):
        pixels_HWC = decode(content, 8)
        assert (pixels_HWC.shape, pixels_HWC.dtype) == ((8, 8, 3), np.uint8)


# CIFAR's records and archives

NUM_CLASSES = 10
IMAGES_NX = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
LABELS = [3, 0, 9]
BINARY = b"".join(bytes([label]) + image.tobytes() for label, image in zip(LABELS, IMAGES_NX, strict=True))
PICKLES = [
    pickle.dumps({key.encode(): value for key, value in batch.items()}, protocol=protocol)
    for batch in ({"data": IMAGES_NX, "labels": LABELS, "filenames": ["a.png"] * 3},)
    for protocol in (2, 3, 5)
]


def check_records(images: Any, labels: Any) -> None:
    assert (images.dtype, images.shape[1:]) == (np.uint8, (3, 32, 32))
    assert (labels.dtype, labels.shape) == (np.int64, images.shape[:1])
    assert ((labels >= 0) & (labels < NUM_CLASSES)).all()


@pytest.mark.threat(26)
@given(changed(BINARY), st.integers(1, 2))
@FUZZING
def test_binary_records(content: bytes, num_label_bytes: int) -> None:
    with contextlib.suppress(DataError):
        check_records(*parse_binary(content, NUM_CLASSES, "x", num_label_bytes))


@pytest.mark.threat(26, 29)
@given(changed(*PICKLES))
@example(b"\x80\x02}r\xff\xff\xff\xff.")
@example(b"}p4294967295\n.")
@FUZZING
def test_python_records(content: bytes) -> None:
    """A few bytes cannot request much memory."""
    with contextlib.suppress(DataError):
        check_records(*parse_python(content, NUM_CLASSES, "x", "labels"))


def tar(compress: bool) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:") as archive:
        for name, content in {"data/a.bin": BINARY[:700], "readme.html": b"hello"}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0) if compress else packed.getvalue()


@pytest.mark.threat(28)
@given(st.one_of(changed(tar(compress=True)), changed(tar(compress=False)).map(gzip.compress)))
@FUZZING
def test_archive(tmp_path: Path, content: bytes) -> None:
    """The named file is extracted, or nothing is."""
    (tmp_path / "x.tar.gz").write_bytes(content)
    target = tmp_path / "a.bin"
    target.unlink(missing_ok=True)
    try:
        extract(tmp_path / "x.tar.gz", {"data/a.bin": target})
    except DataError:
        assert names(tmp_path) == {tmp_path / "x.tar.gz"}
    else:
        assert names(tmp_path) == {tmp_path / "x.tar.gz", target}


# What is kept of a folder of images


@given(st.data())
@SLOW
def test_kept_pixels(tmp_path: Path, data: st.DataObject) -> None:
    """A damaged index is rebuilt, damaged pixels are refused; their number and size are always right."""
    root, kept_in = tmp_path / "pictures", tmp_path / "data"
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            (root / name / f"{number}.png").write_bytes(PICTURES[0] + bytes([number]))

    def opened() -> torch.Tensor:
        return open_source(str(root), data_dir=kept_in, image_size=8, num_workers=1).split("all").images_NCHW

    opened()
    [path] = kept_in.rglob(data.draw(st.sampled_from(["images.npy", "index/*.json"])))
    content = path.read_bytes()
    careful = [other_values(content)] if path.suffix == ".json" else []
    path.write_bytes(data.draw(st.one_of(changed(content), *careful)))
    with contextlib.suppress(DataError):
        images_NCHW = opened()
        assert (images_NCHW.shape, images_NCHW.dtype) == ((4, 3, 8, 8), torch.uint8)
    assert not list(tmp_path.rglob(".tmp-*"))
