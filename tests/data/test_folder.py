"""Image folders: layouts, classes, the cut, odd names and files, what is read again and what is not."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from painted import opened
from pocket_resnet.errors import DataError, UsageError
from system_calls import watch_opens


def parts(make_folder: Any, name: str, **counts: dict[str, int]) -> Path:
    for part, classes in counts.items():
        make_folder(classes, name=f"{name}/{part}")
    return make_folder({}, name=name)


def test_plain_folder(make_folder: Any, logged: pytest.LogCaptureFixture) -> None:
    root = make_folder({"cat": 30, "dog": 11, "1": 2, "10": 2, "2": 2})
    source = opened(root)
    assert source.class_names == ("1", "10", "2", "cat", "dog")
    train, val = source.split("train"), source.split("val")
    assert torch.bincount(val.labels_N).tolist() == [1, 1, 1, 6, 1]  # a tenth on average, and one at least
    assert torch.bincount(train.labels_N).tolist() == [1, 1, 1, 24, 10]
    assert train.images_NCHW.shape == (37, 3, 8, 8)
    assert (train.images_NCHW.dtype, train.labels_N.dtype) == (torch.uint8, torch.int64)
    assert len(source.split("all")) == len(source.split("trainval")) == 47
    assert {*train.files, *val.files} == {path.relative_to(root).as_posix() for path in root.glob("*/*")}
    for split in (train, val):
        assert [source.class_names[label] for label in split.labels_N] == [file.split("/")[0] for file in split.files]
    [message] = logged.messages
    assert message.endswith("when images are added: 1, 10, 2")
    with pytest.raises(DataError, match="has no test/"):
        source.split("test")


@pytest.mark.threat(19)
def test_given_parts_are_matched_by_name(make_folder: Any) -> None:
    """Mapped by name."""
    root = parts(make_folder, "p", train={"a": 3, "b": 1}, val={"b": 2, "a": 1}, test={"a": 1, "b": 4})
    source = opened(root)
    assert torch.bincount(source.split("train").labels_N).tolist() == [3, 1]
    assert torch.bincount(source.split("val").labels_N).tolist() == [1, 2]
    assert torch.bincount(source.split("test").labels_N).tolist() == [1, 4]
    with pytest.raises(UsageError, match="only a folder without splits can be used as a whole"):
        source.split("all")


@pytest.mark.threat(19)
def test_parts_that_contradict_are_refused(make_folder: Any) -> None:
    """Val misses a class or adds one, or a class is empty; refused with the class named."""
    cases = {
        "misses": ({"a": 2, "b": 2}, {"a": 1}, "val: classes of train/ missing: b"),
        "adds": ({"a": 2, "b": 2}, {"a": 1, "b": 1, "c": 1}, "val: classes that train/ does not have: c"),
        "empty": ({"a": 2, "b": 0}, {"a": 1, "b": 1}, "train: class folders without an image: b"),
    }
    for name, (train, val, message) in cases.items():
        with pytest.raises(DataError, match=message):
            opened(parts(make_folder, name, train=train, val=val))
    with pytest.raises(DataError, match="no train/"):
        opened(parts(make_folder, "no-train", val={"a": 1}))
    with pytest.raises(DataError, match="more/ is next to train/"):
        opened(parts(make_folder, "more", train={"a": 1}, more={"a": 1}))
    with pytest.raises(DataError, match="no class folders"):
        opened(make_folder({"a/only deeper": 1}, name="p2") / "a" / "only deeper")


@pytest.mark.threat(19)
def test_empty_classes_are_all_listed(make_folder: Any) -> None:
    root = make_folder({"a": 1, "b": 0, "c": 0})
    (root / "b" / ".DS_Store").write_bytes(b"x")
    with pytest.raises(DataError, match="class folders without an image: b, c") as raised:
        opened(root)
    assert raised.value.exit_code == 3


def test_a_class_may_be_called_train(make_folder: Any) -> None:
    assert opened(make_folder({"train": 2, "bus": 2})).class_names == ("bus", "train")


@pytest.mark.threat(19)
def test_class_of_one_image_is_trained_on_and_named(make_folder: Any, logged: pytest.LogCaptureFixture) -> None:
    """Named, because it has no validation image."""
    source = opened(make_folder({"a": 1, "b": 5}))
    assert torch.bincount(source.split("train").labels_N).tolist() == [1, 4]
    assert "classes with only one distinct image, used for training only: a" in logged.messages
    alone = opened(make_folder({"a": 1, "b": 1}, name="alone"))
    assert len(alone.split("all")) == 2
    with pytest.raises(DataError, match="too few images"):
        alone.split("val")


@pytest.mark.threat(44)
def test_cut_is_stable_under_renaming_and_adding(make_folder: Any) -> None:
    root = make_folder({"a": 40})
    held = {image.numpy().tobytes() for image in opened(root).split("val").images_NCHW}
    for path in list((root / "a").iterdir()):
        path.rename(path.with_name(f"renamed {path.name}"))
    Image.new("RGB", (9, 9), "red").save(root / "a" / "new.png")
    again = {image.numpy().tobytes() for image in opened(root).split("val").images_NCHW}
    assert held <= again


def test_fingerprint_is_of_content_names_and_split(
    make_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and decoder belong only to the pixels."""
    root = make_folder({"a": 4, "b": 4})
    before = opened(root).fingerprint
    shutil.copytree(root, tmp_path / "moved")
    assert opened(tmp_path / "moved").fingerprint == before
    larger = opened(root, image_size=9)
    assert larger.fingerprint == before
    key = larger.pixels_key
    assert key != opened(root).pixels_key
    assert larger.split("train").images_NCHW.shape[2:] == (9, 9)
    with monkeypatch.context() as patch:
        patch.setattr("pocket_resnet.data.cache.DECODER_VERSION", 3)
        assert opened(root, image_size=9).fingerprint == before
        assert opened(root, image_size=9).pixels_key != key
    with monkeypatch.context() as patch:
        patch.setattr("pocket_resnet.data.folder.VAL_FRACTION", 0.5)
        assert opened(root).fingerprint != before
    Image.new("RGB", (3, 3), "red").save(root / "a" / "0.png")
    assert opened(root).fingerprint != before


def test_earlier_fingerprints_are_recognised(make_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They included size and decoder. Without the pixel cache of that version, changed files are not listed."""
    root = make_folder({"a": 2, "b": 2})
    source = opened(root)
    files = source.split("trainval").files
    lines = [f"{name}\0{hashlib.sha256((root / name).read_bytes()).hexdigest()}" for name in files]
    earlier = hashlib.sha256("\0\0".join(["8 px, decoder 2", *lines]).encode()).hexdigest()
    assert source.fingerprint != earlier
    assert source.has_fingerprint(earlier)
    assert not opened(root, image_size=9).has_fingerprint(earlier)
    assert not source.has_fingerprint(None)
    monkeypatch.setattr("pocket_resnet.data.cache.DECODER_VERSION", 3)
    assert opened(root).has_fingerprint(earlier)
    kept = root.parent / "data" / "folders" / earlier
    kept.mkdir(parents=True)
    (kept / "files.json").write_text('{"a/0.png": "0"}')
    assert "a/0.png (changed)" in source.changes_since(earlier)
    assert source.changes_since("*") == source.changes_since("../index") == []
    Image.new("RGB", (3, 3), "red").save(root / "a" / "0.png")
    assert not opened(root).has_fingerprint(earlier)


@pytest.mark.threat(40)
def test_training_splits_never_open_test_files(make_folder: Any) -> None:
    root = parts(make_folder, "p", train={"a": 5, "b": 5}, test={"a": 2, "b": 2})
    with watch_opens() as paths:
        source = opened(root)
        for which in ("train", "val", "trainval"):
            source.split(which)
        assert source.num_test == 4
        assert any(f"{root}/train/a/0.png" == path for path in paths)
        assert not [path for path in paths if path.startswith(f"{root}/test/") and path.endswith(".png")]
        source.split("test")
        assert any(path.startswith(f"{root}/test/a/") for path in paths)


@pytest.mark.threat(21)
def test_odd_names_work(make_folder: Any) -> None:
    """Unicode, spaces, newlines and long names."""
    names = ["ünïcödé 猫", "two words", "new\nline", "x" * 200, "-rf", "a'b\"c"]
    root = make_folder(dict.fromkeys(names, 2))
    Image.new("RGB", (2, 2)).save(root / "two words" / "bild\n ß 1.png")
    source = opened(root)
    assert source.class_names == tuple(sorted(names))
    assert len(source.split("all")) == 13
    assert len(opened(root).split("all")) == 13


@pytest.mark.threat(21)
def test_names_that_are_no_text(make_folder: Any) -> None:
    """Allowed for files, refused for classes, because a model's card is text."""
    root = make_folder({"a": 2, "b": 2})
    (root / "a" / "0.png").rename(root / "a" / os.fsdecode(b"\xff.png"))
    assert len(opened(root).split("all")) == 4
    assert len(opened(root).split("all")) == 4
    (root / "b").rename(root / os.fsdecode(b"\xfe"))
    with pytest.raises(DataError, match="class names that are not valid text"):
        opened(root)


@pytest.mark.threat(21)
@pytest.mark.timeout(20)
def test_links_fifos_and_hidden_files(make_folder: Any, logged: pytest.LogCaptureFixture) -> None:
    """Loops, escapes and FIFOs are skipped, reported and never waited for."""
    root = make_folder({"a": 2, "b": 2})
    outside = make_folder({"c": 1}, name="outside")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a" / "self")
    (root / "a" / "escape.png").symlink_to(outside / "c" / "0.png")
    (root / "a" / "inside.png").symlink_to(root / "b" / "0.png")
    (root / "c").symlink_to(outside)
    (root / "d").symlink_to(root / "d")
    os.mkfifo(root / "a" / "fifo.png")
    (root / "a" / ".DS_Store").write_bytes(b"junk")
    (root / "b" / "Thumbs.db").write_bytes(b"junk")
    (root / "readme.txt").write_text("not in a class folder")
    (root / "b" / "deeper").mkdir()
    Image.new("RGB", (2, 2), "red").save(root / "b" / "deeper" / "x.PNG")
    source = opened(root)
    assert source.class_names == ("a", "b")
    assert torch.bincount(source.split("all").labels_N).tolist() == [3, 3]
    assert logged.messages[0] == "links that leave the data set are not followed (2): c, a/escape.png"
    assert "5 skipped" in logged.messages[1]
    for what in ("d (broken link)", "a/fifo.png (not a regular file)", "a/loop (link to a parent folder)"):
        assert what in logged.messages[1]


@pytest.mark.threat(22)
def test_all_bad_files_are_in_one_report(make_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content decides; text, empty and truncated files are refused."""
    root = make_folder({"a": 3, "b": 3})
    whole = (root / "a" / "0.png").read_bytes()
    (root / "a" / "0.png").rename(root / "a" / "really a png.jpg")
    (root / "a" / "empty.png").write_bytes(b"")
    (root / "a" / "text.png").write_text("hello")
    (root / "b" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="3 of 9 files are not usable images") as raised:
        opened(root).split("train")
    for name in ("a/empty.png: an empty file", "a/text.png: not an image", "b/cut.png: a damaged image"):
        assert name in str(raised.value)
    assert not list((root.parent / "data").rglob("*.npy"))
    assert not list((root.parent / "data").rglob(".tmp-*"))
    monkeypatch.setattr("pocket_resnet.data.image.MAX_FILE_BYTES", 100)
    monkeypatch.setattr("pocket_resnet.errors.MAX_LISTED", 4)
    os.utime(root / "b" / "cut.png")
    with pytest.raises(DataError, match=r"9 of 9 files .*\n(.*\n){4}.*… and 5 more") as raised:
        opened(root)


@pytest.mark.threat(25)
def test_duplicates_are_counted(make_folder: Any, logged: pytest.LogCaptureFixture) -> None:
    root = parts(make_folder, "p", train={"a": 3, "b": 3}, val={"a": 2, "b": 2})
    shutil.copy(root / "train" / "a" / "0.png", root / "val" / "a" / "copy.png")
    opened(root)
    assert logged.messages == ["1 of 5 validation images are also training images"]


def test_statistics_are_of_the_training_split(make_folder: Any) -> None:
    source = opened(make_folder({"a": 20, "b": 20}))
    pixels = source.split("train").images_NCHW.numpy() / 255
    np.testing.assert_allclose(source.mean, pixels.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(source.std, pixels.std(axis=(0, 2, 3)))


def test_size_must_be_positive(make_folder: Any) -> None:
    with pytest.raises(UsageError, match="image size of 0"):
        opened(make_folder({"a": 2}), image_size=0)
