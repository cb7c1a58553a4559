"""Which folders are splits and which are classes; ambiguous layouts are refused with a hint."""

import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.data.layout import Layout, read_layout
from pocket_resnet.data.listing import Listing
from pocket_resnet.errors import DataError

CAT, DOG = {"cat": 2, "dog": 2}, {"dog": 1, "cat": 1}
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.fixture
def build(tmp_path: Path) -> Any:
    """build("train/cat", "test/") makes folders with two files each, or without for a name that ends in `/`."""

    def make(*folders: str) -> Path:
        root = tmp_path / "pictures"
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(0 if folder.endswith("/") else 2):
                (root / folder / f"{number}.png").write_bytes(b"content")
        return root

    return make


def read(root: Path) -> Layout:
    return read_layout(Listing(root))


def counts(layout: Layout) -> dict[str, dict[str, int]]:
    return {split: {name: len(images) for name, images in classes.items()} for split, classes in layout.splits.items()}


@pytest.mark.threat(45)
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"train": "train", "val": "val", "test": "test"}, None),
        ({"train": "Training", "test": "Testing"}, "used as splits: Training/ as train/, Testing/ as test/"),
        ({"train": "TRAIN", "val": "Valid"}, "used as splits: TRAIN/ as train/, Valid/ as val/"),
        ({"train": "train", "val": "validation"}, "used as splits: validation/ as val/"),
        ({"train": "train", "val": "dev", "test": "test"}, "used as splits: dev/ as val/"),
    ],
)
def test_names_of_splits(
    build: Any, names: dict[str, str], message: str | None, logged: pytest.LogCaptureFixture
) -> None:
    """Several names, in any case."""
    layout = read(build(*(f"{name}/{class_name}" for name in names.values() for class_name in ("cat", "dog"))))
    assert counts(layout) == {split: {"cat": 2, "dog": 2} for split in names}
    assert not layout.is_plain
    assert logged.messages == ([] if message is None else [message])


REFUSED: dict[str, tuple[list[str], str, str]] = {
    "two for one": (["train/cat", "Training/cat"], "Training/, train/ could each be train/", "merge them"),
    "two of validation": (
        ["train/cat", "val/cat", "dev/cat"],
        "dev/, val/ could each be val/",
        "move all but one elsewhere",
    ),
    "one of them flat": (
        ["train/cat", "test/cat", "Test"],
        "Test/, test/ could each be test/",
        "move all but one elsewhere",
    ),
    "no training": (["val/cat", "val/dog"], "it has val/, but no train/", "add train/"),
    "no training, another name": (["Testing/cat"], "it has Testing/, but no train/", "add train/"),
    "flat training": (["train", "val/cat"], "train: no class folders; 2 skipped: train/0.png", "give every class"),
    "flat validation": (["train/cat", "val"], "val: no class folders", "give every class a subfolder"),
    "flat, all": (["train", "test"], "test/, train/ without class folders", "give each of them one"),
    "a split or a class": (["cat", "dev"], "dev/ could be a split or a class", "or give the class another name"),
    "a stranger": (
        ["Train/cat", "more/cat"],
        "more/ is next to Train/",
        "move it into Train/ or out of the data set",
    ),
    "wrapped": (["images/cat", "images/dog"], "images/ is its only class and holds no images, but cat/, dog/", "give "),
    "wrapped twice": (["a/b/cat", "a/b/dog"], "a/ is its only class and holds no images, but cat/, dog/", "/a/b"),
    "wrapped splits": (["set/train/cat", "set/val/cat"], "set/ is its only class", "/pictures/set"),
    "too deep": (["train/images/cat", "train/images/dog"], "train: images/ is its only class", "/images to "),
    "too deep in one": (["train/cat", "train/dog", "val/all/cat", "val/all/dog"], "val: all/ is its only", "/val/all"),
    "case": (["train/cat", "val/Cat"], "names that differ only in upper and lower case: Cat and cat", "rename"),
    "two Unicode forms": ([NFC, NFD], "differ only in their Unicode form: 'caf.xe9', 'cafe.u0301'|'cafe", "merge"),
}


@pytest.mark.threat(45, 50)
@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_hint(build: Any, case: str) -> None:
    """Ambiguous or too deeply nested layouts; the hint shows a clear one."""
    folders, what, hint = REFUSED[case]
    with pytest.raises(DataError, match=what) as raised:
        read(build(*folders))
    assert raised.value.exit_code == 3
    assert hint in str(raised.value.hint)


@pytest.mark.threat(45)
@pytest.mark.parametrize("folders", [["train/cat", "train/dog"], ["cat", "dog"]])
@pytest.mark.parametrize("name", ["test", "Testing", "test/"])
def test_flat_test_folder_is_left_out(
    build: Any, folders: list[str], name: str, logged: pytest.LogCaptureFixture
) -> None:
    """With a warning."""
    layout = read(build(*folders, name))
    assert counts(layout) == {"train": {"cat": 2, "dog": 2}}
    assert logged.messages == [f"{name.strip('/')}/ has no class folders: ignored"]


@pytest.mark.threat(45)
@pytest.mark.parametrize("name", ["test", "Testing"])
def test_test_folder_with_one_unknown_folder_is_left_out(
    build: Any, name: str, logged: pytest.LogCaptureFixture
) -> None:
    """Unlabelled images in one folder, as some loaders expect them; other differences are refused."""
    layout = read(build("train/cat", "train/dog", f"{name}/all"))
    assert list(layout.splits) == ["train"]
    assert logged.messages[-1] == f"{name}/ has one folder, which is not a class of train/: ignored"
    for wrong in (f"{name}/more", f"{name}/all/one"):
        with pytest.raises(DataError, match="classes that train/ does not have: all, more"):
            read(build(f"{name}/more", wrong))


@pytest.mark.threat(59)
def test_many_classes_are_not_all_listed(build: Any) -> None:
    root = build("train/cat", "train/dog", *(f"val/{number:03}" for number in range(100)))
    with pytest.raises(DataError, match=r"does not have: 000, .*, 019, … and 80 more; classes of train/ missing"):
        read(root)


@pytest.mark.threat(45)
def test_a_class_may_be_called_train(build: Any, logged: pytest.LogCaptureFixture) -> None:
    layout = read(build("bus", "train"))
    assert counts(layout) == {"train": {"bus": 2, "train": 2}}
    assert layout.is_plain
    assert logged.messages == ["train/ has no class folders: used as a class"]


@pytest.mark.threat(45)
def test_one_class_with_images_at_any_depth(build: Any) -> None:
    for folders in (["cat"], ["cat/one/deeper"], ["cat", "cat/one", "cat/two"]):
        assert list(read(build(*folders)).splits["train"]) == ["cat"]


@pytest.mark.threat(50)
def test_unicode_forms_are_matched(build: Any, logged: pytest.LogCaptureFixture) -> None:
    """Val/ has another form than train/; train's is the class."""
    layout = read(build(f"train/{NFD}", f"val/{NFC}", f"test/{NFD}"))
    assert counts(layout) == {split: {NFD: 2} for split in ("train", "val", "test")}
    assert {image.class_name for image in layout.splits["val"][NFD]} == {NFD}
    assert {image.relative for image in layout.splits["val"][NFD]} == {f"val/{NFC}/0.png", f"val/{NFC}/1.png"}
    assert logged.messages == [f"matched despite different Unicode forms in val/: {NFD}"]


@pytest.mark.threat(49)
def test_links_are_named_where_a_class_is_empty(build: Any, tmp_path: Path) -> None:
    """Because its links leave the data set."""
    root = build("cat", "dog/")
    (tmp_path / "outside.png").write_bytes(b"content")
    for number in range(3):
        (root / "dog" / f"{number}.png").symlink_to(tmp_path / "outside.png")
    expected = (
        "without an image: dog; links that leave the data set are not followed (3): dog/0.png, dog/1.png, dog/2.png"
    )
    with pytest.raises(DataError, match=re.escape(expected)):
        read(root)
    root = build("val/cat", "val/dog")
    (tmp_path / "elsewhere").mkdir()
    for name in ("cat", "dog"):
        (root / name).rename(tmp_path / "elsewhere" / name)
    (root / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"no train/; links that leave the data set are not followed \(1\): train"):
        read(root)


@pytest.mark.threat(59)
def test_4000_classes_are_looked_through_once(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 files; each folder is read a fixed number of times."""
    root = build("first")
    for number in range(4_000):
        (root / f"{number}").mkdir()
        for name in range(5):
            os.link(root / "first" / "0.png", root / f"{number}" / f"{name}.png")
    scanned = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(path) or real(path))
    layout = read(root)
    assert sum(map(len, layout.splits["train"].values())) == 20_002
    assert len(scanned) <= 2 * 4_001 + 10
    assert {name: len(images) for name, images in layout.splits["train"].items()}["3999"] == 5
