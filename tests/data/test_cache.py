"""Pixels of folders: decoded once and kept, read again where a file changed, refused where what was kept is damaged."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from painted import opened
from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.image import decode
from pocket_resnet.data.source import Verification
from pocket_resnet.errors import DataError, EnvironmentFault
from system_calls import watch_opens


def test_cached_pixels_match_the_decoder(make_folder: Any) -> None:
    root = make_folder({"a": 3, "b": 4})
    source = opened(root)
    split = source.split("all")
    pairs = zip(split.images_NCHW, split.labels_N, strict=True)
    images = {image.numpy().tobytes(): int(label) for image, label in pairs}
    for label, name in enumerate(source.class_names):
        for path in (root / name).iterdir():
            pixels = decode(path, 8).transpose(2, 0, 1)
            assert images[pixels.tobytes()] == label


def test_second_start_reads_from_the_cache(make_folder: Any) -> None:
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


@pytest.mark.threat(70)
@pytest.mark.parametrize("how", ["written over", "replaced"])
def test_changed_image_of_the_same_size_and_time_is_read_again(how: str, make_folder: Any) -> None:
    """The new pixels are used; `verify` on the source opened before names the file."""
    root = make_folder({"a": 4, "b": 4})
    source = opened(root)
    assert source.verify() == Verification(num_files=8, num_recorded=8)
    assert opened(root).verify() == Verification(num_files=8)
    path = root / "a" / "1.png"
    status, whole = path.stat(), path.read_bytes()
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    content = path.read_bytes()
    content += bytes(max(0, len(whole) - len(content)))  # bytes after the image are ignored
    path.write_bytes(whole + bytes(len(content) - len(whole)))  # the content at first
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    source = opened(root)
    before = source.split("all").images_NCHW.clone()
    if how == "replaced":
        path.with_name("new").write_bytes(content)
        path.with_name("new").rename(path)
    else:
        path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (len(content), status.st_mtime_ns)
    with pytest.raises(DataError, match=r"1 of 8 files do not match:\n    a/1\.png: changed since it was listed"):
        source.verify()
    after = opened(root)
    assert after.fingerprint != source.fingerprint
    assert not torch.equal(after.split("all").images_NCHW, before)
    assert after.verify() == Verification(num_files=8, num_recorded=1)


def kept(root: Path) -> set[str]:
    return {path.parent.name for path in (root.parent / "data" / "folders").glob("*/images.npy")}


@pytest.mark.threat(70)
def test_cache_size_is_bounded(
    make_folder: Any, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    """The least recently used sets are removed, with a log message; sets that are open stay."""
    monkeypatch.setattr("pocket_resnet.data.cache.MAX_KEPT_BYTES", 2 * 4 * 3 * 8 * 8 + 300)  # two sets, not three
    roots = [make_folder({"a": 4}, name=name) for name in ("first", "second", "third", "fourth")]
    keys = []
    for number, root in enumerate(roots[:2]):
        source = opened(root)
        source.split("all")
        keys.append(source.pixels_key)
        os.utime(root.parent / "data" / "folders" / keys[-1] / "files.json", (number, number))
        assert "limited" not in logged.text
    del source  # closes the second
    opened(roots[0]).split("all")  # used again, so that the second goes first
    third = opened(roots[2])
    assert "the pixel cache is limited to" in logged.messages[-1]
    assert "removed the 1 least recently used set(s)" in logged.messages[-1]
    third.split("all")
    assert kept(roots[0]) == {keys[0], third.pixels_key}
    first = opened(roots[0])
    images_NCHW = first.split("all").images_NCHW
    fourth = opened(roots[3])
    fourth.split("all")
    assert kept(roots[0]) == {keys[0], third.pixels_key, fourth.pixels_key}  # two are open
    assert torch.equal(opened(roots[0]).split("all").images_NCHW, images_NCHW)


@pytest.mark.threat(70)
def test_pixels_that_another_process_removes_meanwhile(make_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder({"a": 4})
    gone = root.parent / "data" / "folders" / "other" / "images.npy"
    monkeypatch.setattr(Path, "glob", lambda *_: iter([gone]))
    assert len(opened(root).split("all")) == 4


@pytest.mark.threat(70)
def test_a_data_set_larger_than_the_limit_is_cached(
    make_folder: Any, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pocket_resnet.data.cache.MAX_KEPT_BYTES", 10)
    root = make_folder({"a": 4})
    for _ in range(2):
        source = opened(root)
        assert len(source.split("all")) == 4
        assert kept(root) == {source.pixels_key}
        assert "limited" not in logged.text


def test_damaged_cache_is_found_by_verify(make_folder: Any) -> None:
    root = make_folder({"a": 4, "b": 4})
    opened(root).split("train")
    (cached,) = (root.parent / "data").rglob("images.npy")
    content = bytearray(cached.read_bytes())
    content[-1] ^= 1
    cached.write_bytes(content)
    with pytest.raises(DataError, match=r"1 of 8 files do not match:.*\n.*the cached pixels differ"):
        opened(root).verify()
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
    for text in ("", "[]", '{"a/0.png": 7}', '{"a/0.png": [1, 2, 3]}', '{"a/0.png": [1, 2, 3, 4, 5]}'):
        index.write_text(text)
        assert opened(root).fingerprint == before


@pytest.mark.threat(13)
def test_data_folder_that_cannot_be_written(make_folder: Any, tmp_path: Path) -> None:
    root = make_folder({"a": 4})
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="cannot write") as raised:
        open_source(str(root), data_dir=tmp_path / "file", image_size=8).split("train")
    assert raised.value.exit_code == 5
