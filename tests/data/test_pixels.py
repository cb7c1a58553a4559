"""Pixels of folders: decoded once and kept, read again where a file changed, refused where what was kept is damaged."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pocket_resnet.data.image import decode
from pocket_resnet.data.source import Source, open_source, verify
from pocket_resnet.errors import DataError, EnvironmentFault


def opened(root: Path) -> Source:
    return open_source(str(root), data_dir=root.parent / "data", image_size=8)


def test_pixels_are_the_decoders(make_folder: Any) -> None:
    root = make_folder({"a": 3, "b": 4})
    source = opened(root)
    split = source.split("all")
    pairs = zip(split.images_NCHW, split.labels_N, strict=True)
    images = {image.numpy().tobytes(): int(label) for image, label in pairs}
    for label, name in enumerate(source.class_names):
        for path in (root / name).iterdir():
            pixels = decode(path, 8).transpose(2, 0, 1)
            assert images[pixels.tobytes()] == label


def test_second_start_reads_no_image(make_folder: Any, watch_opens: Any) -> None:
    root = make_folder({"a": 5, "b": 5})
    first = opened(root).split("train")
    with watch_opens() as paths:
        second = opened(root).split("train")
    assert not [path for path in paths if path.endswith(".png")]
    assert torch.equal(first.images_NCHW, second.images_NCHW)
    os.utime(root / "a" / "0.png")
    with watch_opens() as paths:
        opened(root).split("train")
    assert [path for path in paths if path.endswith(".png")] == [str(root / "a" / "0.png")]


def test_pixels_half_written_by_a_killed_process_are_removed(make_folder: Any) -> None:
    root = make_folder({"a": 4})
    opened(root).split("train")
    (cached,) = (root.parent / "data").rglob("images.npy")
    stale, foreign = cached.with_name(".tmp-7-images.npy"), cached.with_name(".tmp-7-other.npy")
    for path in (stale, foreign):
        path.write_bytes(b"half")
    cached.unlink()
    opened(root).split("train")
    assert cached.is_file()
    assert not stale.exists()
    assert foreign.exists()


def test_file_changed_behind_its_time_is_found_by_verify(make_folder: Any) -> None:
    root = make_folder({"a": 4, "b": 4})
    source = opened(root)
    assert len(verify(source)) == 8
    path = root / "a" / "1.png"
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=r"1 of 8 files do not match:\n    a/1\.png: changed while its time stayed"):
        verify(opened(root))


def test_damaged_cache_is_found_by_verify(make_folder: Any) -> None:
    root = make_folder({"a": 4, "b": 4})
    opened(root).split("train")
    (cached,) = (root.parent / "data").rglob("images.npy")
    content = bytearray(cached.read_bytes())
    content[-1] ^= 1
    cached.write_bytes(content)
    with pytest.raises(DataError, match=r"1 of 8 files do not match:.*\n.*other pixels are kept"):
        verify(opened(root))
    cached.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"images\.npy: damaged"):
        opened(root).split("train")
    cached.write_bytes(b"\x80\x04\x95")
    with pytest.raises(DataError, match=r"images\.npy: damaged"):
        opened(root).split("train")


def test_damaged_index_is_ignored(make_folder: Any) -> None:
    root = make_folder({"a": 4})
    before = opened(root).fingerprint
    (index,) = (root.parent / "data").rglob("index/*.json")
    for text in ("", "[]", '{"a/0.png": 7}', '{"a/0.png": [1, 2, 3]}'):
        index.write_text(text)
        assert opened(root).fingerprint == before


def test_data_folder_that_cannot_be_written(make_folder: Any, tmp_path: Path) -> None:
    """Row 13."""
    root = make_folder({"a": 4})
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="cannot write") as raised:
        open_source(str(root), data_dir=tmp_path / "file", image_size=8).split("train")
    assert raised.value.exit_code == 5
