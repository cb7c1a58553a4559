"""Opening data sets: names, `auto`, splits, descriptions, statistics."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.digits import Digits
from pocket_resnet.data.source import channel_statistics, describe
from pocket_resnet.errors import DataError, EnvironmentFault, UsageError


def test_digits_splits() -> None:
    source = open_source("digits")
    sizes = {which: len(source.split(which)) for which in ("train", "val", "trainval", "test")}
    assert sizes == {"train": 1197, "val": 300, "trainval": 1497, "test": 300}
    assert not source.flip_invariant
    assert source.mean == channel_statistics(source.split("train").images_NCHW)[0]


@pytest.mark.threat(40)
def test_training_splits_never_touch_the_test_digits(monkeypatch: pytest.MonkeyPatch) -> None:

    def refuse(_: Digits) -> None:
        raise AssertionError("the test split was opened")

    monkeypatch.setattr(Digits, "test", refuse)
    source = open_source("digits")
    describe(source)
    for which in ("train", "val", "trainval"):
        source.split(which)
    with pytest.raises(UsageError, match="only a folder without splits"):
        source.split("all")
    with pytest.raises(AssertionError):
        source.split("test")


def test_unknown_names(tmp_path: Path) -> None:
    for name, hint in {"cifar11": "did you mean `cifar10`?", str(tmp_path / "none"): "if the folder has moved"}.items():
        with pytest.raises(UsageError) as raised:
            open_source(name)
        assert hint in str(raised.value)
    with pytest.raises(UsageError, match="no split 'dev'"):
        open_source("digits").split("dev")
    with pytest.raises(UsageError, match="its images are 32 px"):
        open_source("digits", image_size=28)


@pytest.mark.threat(42)
@pytest.mark.parametrize("name", ["digits", "cifar10", "auto"])
def test_a_name_with_a_slash_is_a_folder(
    name: str, make_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative, absolute, with `..` and from the home folder, which all are the same data."""
    root = make_folder({"a": 3, "b": 3}, name=name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(name)
    for spelling in (f"./{name}", f"{name}/", f"{name}/../{name}", str(root), f"~/{name}", "link"):
        source = open_source(spelling, data_dir=tmp_path / "data", image_size=8)
        assert (source.name, source.public_name, source.class_names) == (str(root), f"{name}/", ("a", "b"))
    assert open_source("digits").public_name == "digits"
    with pytest.raises(UsageError, match="x: no such folder"):
        open_source("~no-such-user/x")
    with pytest.raises(UsageError, match=r"0\.png: a file, not a folder"):
        open_source(str(root / "a" / "0.png"))


@pytest.mark.threat(42)
def test_folder_beside_a_built_in_name_is_mentioned(
    make_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any, logged: pytest.LogCaptureFixture
) -> None:
    """Once a command, on standard error."""
    make_folder({"a": 3, "b": 3}, name="digits")
    make_folder({"a": 3, "b": 3}, name="others")
    assert open_source("digits").name == "digits"
    assert logged.messages == []
    monkeypatch.chdir(tmp_path)
    notice = "using the built-in data set digits; to use the folder of this name, give ./digits"
    assert open_source("digits").name == "digits"
    assert logged.messages == [notice]
    code, out, err = run("data", "digits", "--json")
    assert (code, json.loads(out)["name"], err) == (0, "digits", f"warning: {notice}\n")
    assert Path(open_source("others", image_size=8).name) == tmp_path / "others"
    words = ("train", "fast", "--data", "digits", "--budget", "20K", "--max-steps", 1, "--batch-size", 32, "--run", "r")
    assert run(*words, "--norm-images", 8)[2].count(notice) == 1  # though the report opens the data again
    assert notice in run("evaluate", "runs/r", "--data", "digits")[2]


def test_auto_uses_cifar10_on_disk(cifar10: Any, tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    cifar10.write(tmp_path, "cifar-10-batches-py")
    source = open_source("auto", data_dir=tmp_path)
    assert (source.name, logged.messages) == ("cifar10", [])


@pytest.mark.usefixtures("cifar10")
def test_auto_logs_that_it_uses_the_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("POCKET_RESNET_MIRROR", "http://127.0.0.1:9")
    source = open_source("auto", data_dir=tmp_path)
    assert source.name == "digits"
    assert "cannot be downloaded (http://127.0.0.1:9/cifar-10-binary.tar.gz): using digits" in caplog.text


@pytest.mark.usefixtures("cifar10")
def test_auto_downloads_cifar10_when_reachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def note(*_: object) -> None:
        raise EnvironmentFault("was asked for")

    monkeypatch.setattr("pocket_resnet.data.datasets.is_reachable", lambda _: True)
    monkeypatch.setattr("pocket_resnet.io.download.fetch", note)
    with pytest.raises(EnvironmentFault, match="was asked for"):
        open_source("auto", data_dir=tmp_path)
    assert open_source("auto", data_dir=tmp_path, download=False).name == "digits"


def test_auto_does_not_hide_damage(cifar10: Any, tmp_path: Path) -> None:
    cifar10.write(tmp_path, "cifar-10-batches-bin", without=("data_batch_1.bin",))
    with pytest.raises(DataError, match=r"data_batch_1\.bin missing"):
        open_source("auto", data_dir=tmp_path)


def test_describe_is_json_and_counts_the_test_split_unopened(make_folder: Any, tmp_path: Path) -> None:
    source = open_source(str(make_folder({"a": 20, "b\n": 1})), data_dir=tmp_path / "data", image_size=4)
    described = json.loads(json.dumps(asdict(describe(source))))
    assert described["num_images"] == {"train": 19, "val": 2, "test": None}
    assert described["per_class"] == {"a": {"train": 18, "val": 2}, "b\n": {"train": 1, "val": 0}}
    assert described["image_size"] == 4
    assert describe(open_source("digits")).num_images["test"] == 300


def test_std_of_flat_images_is_bounded() -> None:
    mean, std = channel_statistics(torch.full((5, 3, 2, 2), 51, dtype=torch.uint8))
    assert mean == pytest.approx((0.2, 0.2, 0.2))
    assert std == pytest.approx((1 / 255,) * 3)
