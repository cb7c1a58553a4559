"""CIFAR on disk: both layouts, MD5s, missing files, recorded checks."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.source import Verification, channel_statistics, describe
from pocket_resnet.errors import DataError, EnvironmentFault, UsageError
from system_calls import watch_opens

REAL_DATA = os.environ.get("POCKET_RESNET_DATA")  # before a fixture hides it
FOLDERS = ["cifar-10-batches-bin", "cifar-10-batches-py"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_official_order_and_splits(cifar10: Any, tmp_path: Path, folder: str) -> None:
    cifar10.write(tmp_path, folder)
    source = open_source("cifar10", data_dir=tmp_path)
    images = np.concatenate([part[0] for part in cifar10.parts])
    labels = np.concatenate([part[1] for part in cifar10.parts])
    for which, rows in {"train": slice(0, 90), "val": slice(90, 100), "trainval": slice(0, 100)}.items():
        split = source.split(which)
        np.testing.assert_array_equal(split.images_NCHW.numpy(), images[rows])
        np.testing.assert_array_equal(split.labels_N.numpy(), labels[rows])
        assert split.images_NCHW.dtype == torch.uint8
        assert split.labels_N.dtype == torch.int64
        assert len(split) == len(labels[rows])
    np.testing.assert_array_equal(source.split("test").images_NCHW.numpy(), cifar10.test_part[0])
    assert source.class_names[3] == "cat"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_statistics_are_of_the_training_split(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    """Validation images are not in them."""
    made = request.getfixturevalue(name)
    made.write(tmp_path, made.family.layouts[0].folder)
    source = open_source(name, data_dir=tmp_path)
    pixels = np.concatenate([images for images, _ in made.parts])[: -made.family.num_val] / 255
    np.testing.assert_allclose(source.mean, pixels.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(source.std, pixels.std(axis=(0, 2, 3)))
    assert describe(source).mean == source.mean


@pytest.mark.parametrize("folder", ["cifar-100-binary", "cifar-100-python"])
def test_cifar100_has_fine_labels_and_computed_statistics(cifar100: Any, tmp_path: Path, folder: str) -> None:
    cifar100.write(tmp_path, folder)
    source = open_source("cifar100", data_dir=tmp_path)
    np.testing.assert_array_equal(source.split("trainval").labels_N.numpy(), cifar100.parts[0][1])
    assert source.mean == channel_statistics(source.split("train").images_NCHW)[0]
    assert len(source.class_names) == 100
    assert list(source.class_names) == sorted(source.class_names)


def test_train_and_val_share_memory(cifar10: Any, tmp_path: Path) -> None:
    cifar10.write(tmp_path, FOLDERS[0])
    source = open_source("cifar10", data_dir=tmp_path)
    storages = {source.split(which).images_NCHW.untyped_storage().data_ptr() for which in ("train", "val", "trainval")}
    assert len(storages) == 1


def test_both_layouts_have_one_fingerprint(cifar10: Any, tmp_path: Path) -> None:
    for folder in FOLDERS:
        cifar10.write(tmp_path / folder, folder)
    prints = {open_source("cifar10", data_dir=tmp_path / folder).fingerprint for folder in FOLDERS}
    assert len(prints) == 1


def test_data_dir_may_be_the_folder_itself_and_binary_comes_first(cifar10: Any, tmp_path: Path) -> None:
    for folder in FOLDERS:
        cifar10.write(tmp_path, folder)
    assert open_source("cifar10", data_dir=tmp_path).where.endswith("bin")
    assert len(open_source("cifar10", data_dir=tmp_path / FOLDERS[1]).split("val")) == 10


@pytest.mark.threat(26)
@pytest.mark.parametrize("folder", FOLDERS)
def test_wrong_md5_shows_both(cifar10: Any, tmp_path: Path, folder: str) -> None:
    """Exit code 3."""
    path = cifar10.write(tmp_path, folder) / cifar10.family.layouts[FOLDERS.index(folder)].train[2]
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    damaged_md5, published_md5 = (
        hashlib.md5(content).hexdigest(),
        hashlib.md5(cifar10.files[folder][path.name]).hexdigest(),
    )
    with pytest.raises(
        DataError, match=f"{path.name}: wrong MD5: it is {damaged_md5}, {published_md5} is published"
    ) as raised:
        open_source("cifar10", data_dir=tmp_path).split("val")
    assert raised.value.exit_code == 3


@pytest.mark.threat(70)
def test_md5_is_checked_once_and_by_verify(cifar10: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cifar10.write(tmp_path, FOLDERS[0])
    open_source("cifar10", data_dir=tmp_path).split("train")
    hashed = []
    real = hashlib.md5
    monkeypatch.setattr(hashlib, "md5", lambda *a, **k: hashed.append(1) or real(*a, **k))
    open_source("cifar10", data_dir=tmp_path).split("train")
    assert not hashed
    source = open_source("cifar10", data_dir=tmp_path)
    assert source.verify() == Verification(num_files=6)
    assert len(hashed) == 6
    status = (folder / "data_batch_1.bin").stat()
    content = bytearray((folder / "data_batch_1.bin").read_bytes())
    content[9] ^= 1
    (folder / "data_batch_1.bin").write_bytes(content)
    os.utime(folder / "data_batch_1.bin", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match="wrong MD5"):
        source.verify()
    with pytest.raises(DataError, match="wrong MD5"):  # the same size and time, but not the same file
        open_source("cifar10", data_dir=tmp_path).split("train")


def test_damaged_record_of_checks_is_ignored(cifar10: Any, tmp_path: Path) -> None:
    folder = cifar10.write(tmp_path, FOLDERS[0])
    for text in ("", "[1]", '{"data_batch_1.bin": 3}', '{"data_batch_1.bin": ["a", 1, 2]}'):
        (folder / ".verified.json").write_text(text)
        assert len(open_source("cifar10", data_dir=tmp_path).split("train")) == 90
    assert len(json.loads((folder / ".verified.json").read_text())) == 5


@pytest.mark.threat(13)
def test_read_only_folder_works(cifar10: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are already there can be used."""

    def refuse(path: Path, _content: bytes) -> None:
        raise EnvironmentFault("cannot write", where=path)

    monkeypatch.setattr("pocket_resnet.io.files.write_bytes", refuse)
    cifar10.write(tmp_path, FOLDERS[0])
    assert len(open_source("cifar10", data_dir=tmp_path).split("train")) == 90


def test_missing_test_batch_matters_only_for_the_test_split(cifar10: Any, tmp_path: Path) -> None:
    cifar10.write(tmp_path, FOLDERS[0], without=("test_batch.bin",))
    source = open_source("cifar10", data_dir=tmp_path)
    assert len(source.split("trainval")) == 100
    assert source.num_test is None
    with pytest.raises(DataError, match=r"test_batch\.bin: missing"):
        source.split("test")


def test_missing_training_file_is_named(cifar10: Any, tmp_path: Path) -> None:
    cifar10.write(tmp_path, FOLDERS[0], without=("data_batch_3.bin",))
    with pytest.raises(DataError, match=r"data_batch_3\.bin missing"):
        open_source("cifar10", data_dir=tmp_path)


def test_first_seen_md5_is_recorded_where_none_is_published(cifar100: Any, tmp_path: Path) -> None:
    path = cifar100.write(tmp_path, "cifar-100-binary") / "train.bin"
    open_source("cifar100", data_dir=tmp_path).split("train")
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"wrong MD5: .* was recorded first"):
        open_source("cifar100", data_dir=tmp_path).split("train")


@pytest.mark.threat(26)
def test_too_few_or_many_images(cifar100: Any, tmp_path: Path) -> None:
    """A file cut between two records, where no MD5 is published."""
    path = cifar100.write(tmp_path, "cifar-100-binary") / "train.bin"
    whole = path.read_bytes()
    for content in (whole[: -3 * 3074], whole + whole[:3074]):
        path.write_bytes(content)
        (path.parent / ".verified.json").unlink(missing_ok=True)
        with pytest.raises(DataError, match="instead of 20"):
            open_source("cifar100", data_dir=tmp_path).split("train")


@pytest.mark.threat(40)
@pytest.mark.parametrize("folder", FOLDERS)
def test_training_splits_never_open_the_test_file(cifar10: Any, tmp_path: Path, folder: str) -> None:
    cifar10.write(tmp_path, folder)
    with watch_opens() as opened:
        source = open_source("cifar10", data_dir=tmp_path)
        for which in ("train", "val", "trainval"):
            source.split(which)
        assert any("data_batch_5" in path for path in opened)
        assert not any("test_batch" in path for path in opened)
        source.split("test")
        assert any("test_batch" in path for path in opened)


def test_other_sizes_are_refused(cifar10: Any, tmp_path: Path) -> None:
    cifar10.write(tmp_path, FOLDERS[0])
    with pytest.raises(UsageError, match="its images are 32 px, not 64"):
        open_source("cifar10", data_dir=tmp_path, image_size=64)


@pytest.mark.skipif(not REAL_DATA, reason="POCKET_RESNET_DATA is not set")
def test_statistics_of_the_50000_real_images_are_those_of_the_literature() -> None:
    source = open_source("cifar10", data_dir=Path(str(REAL_DATA)), download=False)
    mean, std = channel_statistics(source.split("trainval").images_NCHW)
    assert mean == pytest.approx((0.49140, 0.48216, 0.44653), abs=6e-6)
    assert std == pytest.approx((0.24703, 0.24348, 0.26159), abs=6e-6)
    assert source.mean == pytest.approx(mean, abs=1e-3)
    assert source.mean != mean
