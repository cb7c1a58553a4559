"""Listing a folder: skips files of systems and of this package; follows links only inside the data set."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from painted import opened
from pocket_resnet.data.listing import Listing
from pocket_resnet.errors import DataError

FOLDERS = [
    "@eaDir",
    "@EADIR",
    "lost+found",
    "__MACOSX",
    "$RECYCLE.BIN",
    "System Volume Information",
    "#recycle",
    ".git",
]
FILES = ["thumbs.db", "Thumbs.db", "Desktop.ini", "DESKTOP.INI", "Icon\r", "ehthumbs.db", ".DS_Store", "._0.png"]


def litter(folder: Path) -> None:
    for name in FOLDERS:
        (folder / name / "inside").mkdir(parents=True)
        (folder / name / "0.png").write_bytes(b"no image")
        (folder / name / "inside" / "1.png").write_bytes(b"no image")
    for name in FILES:
        (folder / name).write_bytes(b"no image")


def messages(logged: pytest.LogCaptureFixture) -> list[str]:
    """The messages, but for the one on small classes."""
    return [message for message in logged.messages if "may switch between" not in message]


@pytest.mark.threat(46)
@pytest.mark.parametrize("split", ["", "train/"])
def test_remains_of_systems(make_folder: Any, split: str, logged: pytest.LogCaptureFixture) -> None:
    """At every depth, they are neither images nor classes, and not reported."""
    root = make_folder({f"{split}cat": 3, f"{split}dog": 3})
    for folder in (root, root / split, root / split / "cat"):
        if not (folder / ".git").exists():
            litter(folder)
    (root / split / "dog" / "deeper").mkdir()
    litter(root / split / "dog" / "deeper")
    source = opened(root)
    assert source.class_names == ("cat", "dog")
    assert len(source.split("trainval")) == 6
    assert messages(logged) == []
    assert len(Listing(root.resolve()).images()) == 6


OURS = {
    "runs": [
        "runs/a/recipe.toml",
        "runs/a/plots/0.png",
        "runs/report/report.html",
        "runs/report/plots/0.png",
        "runs/failed/.lock",
    ],
    "out": ["out/recipe.toml", "out/plots/0.png"],
    "failed": ["failed/at-once/.lock"],
    "models": ["models/small/model.safetensors", "models/small/config.json"],
    "cache": ["cache/folders/index/0.json", "cache/folders/0/images.npy"],
}


@pytest.mark.threat(46)
@pytest.mark.parametrize("beside", ["", "train/", "train/cat/"])
@pytest.mark.parametrize("name", OURS)
def test_our_own_folders(make_folder: Any, name: str, beside: str, logged: pytest.LogCaptureFixture) -> None:
    """`--data .` with runs beside the classes; recognised by their content."""
    split = "train/" if beside else ""
    root = make_folder({f"{split}cat": 3, f"{split}dog": 3})
    for path in OURS[name]:
        (root / beside / path).parent.mkdir(parents=True, exist_ok=True)
        (root / beside / path).write_bytes(b"no image")
    source = opened(root)
    assert source.class_names == ("cat", "dog")
    assert messages(logged) == [f"1 skipped: {beside}{name} (written by pocket-resnet)"]
    assert len(Listing(root.resolve()).images()) == 6


@pytest.mark.threat(46)
def test_a_class_may_be_called_runs(make_folder: Any) -> None:
    """A name alone decides nothing."""
    assert opened(make_folder({"runs": 2, "models/deeper": 2, "cache": 2})).class_names == ("cache", "models", "runs")


@pytest.mark.threat(46)
@pytest.mark.parametrize(
    "path", ["recipe.toml", "model.safetensors", "report.html", "report.html plots/1.png", "recipe.toml checkpoints/1"]
)
def test_a_class_with_a_file_named_like_ours_stays(make_folder: Any, path: str) -> None:
    """Its images count, and the file is named like any other that is not an image."""
    root = make_folder({"cat": 3, "dog": 3})
    for name in path.split():
        (root / "cat" / name).parent.mkdir(exist_ok=True)
        (root / "cat" / name).write_bytes(b"no image")
    listing = Listing(root.resolve())
    assert list(listing.classes(root)) == ["cat", "dog"]
    with pytest.raises(DataError, match=rf"cat/{path.split()[0]}: not an image"):
        opened(root).split("all")


@pytest.mark.threat(49)
def test_links_inside_the_data_set_are_followed(make_folder: Any, logged: pytest.LogCaptureFixture) -> None:
    """Images, folders of images, class folders, a split, and the data set."""
    root = make_folder({"train/cat": 3, "train/dog": 2, "more/a": 2}, name="real")
    (root / "more").rename(root / ".more")
    (root / "train" / "cat" / "linked.png").symlink_to("../../.more/a/0.png")
    (root / "train" / "dog" / "linked").symlink_to(root / ".more")
    (root / "train" / "owl").symlink_to("../.more/a")
    (root / "val").symlink_to("train")
    (root.parent / "link").symlink_to(root)
    for path in (root, root.parent / "link"):
        source = opened(path)
        assert source.class_names == ("cat", "dog", "owl")
        assert torch.bincount(source.split("train").labels_N).tolist() == [4, 4, 2]
        assert torch.bincount(source.split("val").labels_N).tolist() == [4, 4, 2]
        assert logged.messages == ["10 of 10 validation images are also training images"]
        logged.clear()


@pytest.mark.threat(49)
@pytest.mark.timeout(20)
def test_other_links_are_counted_and_named(make_folder: Any, logged: pytest.LogCaptureFixture) -> None:
    """Links that leave the data set are not followed; loops end."""
    root = make_folder({"cat": 2, "dog": 2})
    outside = make_folder({"owl": 2}, name="outside")
    (root / "owl").symlink_to(outside / "owl")
    (root / "cat" / "more").symlink_to(outside)
    (root / "cat" / "9.png").symlink_to(outside / "owl" / "0.png")
    (root / "cat" / "around").symlink_to(root)
    (root / "cat" / "itself").symlink_to(".")
    (root / "cat" / "self").symlink_to("self")
    (root / "cat" / "one").mkdir()
    (root / "cat" / "two").mkdir()
    (root / "cat" / "one" / "other").symlink_to("../two")
    (root / "cat" / "two" / "other").symlink_to("../one")
    (root / "again").symlink_to(".")
    source = opened(root)
    assert source.class_names == ("cat", "dog")
    assert len(source.split("all")) == 4
    assert logged.messages[0] == "links that leave the data set are not followed (3): owl, cat/9.png, cat/more"
    for path, why in {
        "again": "link to a parent folder",
        "cat/around": "link to a parent folder",
        "cat/itself": "link to a parent folder",
        "cat/self": "broken link",
    }.items():
        assert f"{path} ({why})" in logged.messages[1]


@pytest.mark.threat(49)
def test_a_folder_reached_twice_counts_once(make_folder: Any, logged: pytest.LogCaptureFixture) -> None:
    """Within a class."""
    root = make_folder({"cat": 2, "cat/deeper": 2, "dog": 2})
    (root / "cat" / "same").symlink_to("deeper")
    source = opened(root)
    assert torch.bincount(source.split("all").labels_N).tolist() == [4, 2]
    assert "already listed" in logged.messages[0]


@pytest.mark.threat(49)
def test_a_link_beside_its_target_changes_nothing(make_folder: Any, logged: pytest.LogCaptureFixture) -> None:
    """For any link name and depth, the folder keeps its own name."""
    root = make_folder({"cat": 2, "cat/deep/deeper": 2, "dog": 2})
    before = opened(root).fingerprint
    for name in ("a", "z"):
        (root / "cat" / name).symlink_to("deep/deeper")
    logged.clear()
    source = opened(root)
    assert source.fingerprint == before
    reason = "the same folder as one already listed"
    assert logged.messages[0] == f"2 skipped: cat/a ({reason}), cat/z ({reason})"


def test_folder_that_cannot_be_read(
    make_folder: Any, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    root = make_folder({"cat": 2, "cat/closed": 2, "dog": 2})
    real = os.scandir

    def scan(path: Path | str) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    source = opened(root)
    assert len(source.split("all")) == 4
    assert messages(logged) == ["1 skipped: cat/closed (Permission denied)"]
