"""Recognises which folders of a data set are splits and which are classes.

Splits have one of several names, in upper or lower case. Ambiguous layouts are errors that say how to resolve them.
"""

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pocket_resnet.data.listing import ImageFile, Listing, printable
from pocket_resnet.errors import DataError, listed

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_log = logging.getLogger(__name__)
_SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}

Classes = Mapping[str, list[ImageFile]]


@dataclass(frozen=True)
class Layout:
    """The classes of each split, at least of `train`, with the names of train's folders."""

    splits: Mapping[str, Classes]
    is_plain: bool
    """Whether the data set has class folders only, without splits."""


def read_layout(listing: Listing) -> Layout:
    """The splits and classes of a folder. Raises DataError if they are missing, empty, contradictory or unclear."""
    folders = listing.folders(listing.root)
    like_splits = [name for name in folders if name.casefold() in _SPLIT_OF]
    nested = [name for name in like_splits if listing.folders(listing.root / name)]
    if nested:
        return _with_splits(listing, folders, like_splits, nested)
    return _without_splits(listing, folders, like_splits)


def _with_splits(listing: Listing, folders: list[str], like_splits: list[str], nested: list[str]) -> Layout:
    root = listing.root
    names = _by_split(root, like_splits)
    if others := [name for name in folders if name not in like_splits]:
        what = f"{_folders(others)} {'is' if len(others) == 1 else 'are'} next to {_folders(like_splits)}"
        it = "it" if len(others) == 1 else "them"
        hint = f"move {it} into {names.get('train', 'train')}/ or out of the data set"
        raise DataError(what, where=root, hint=hint)
    if "train" not in names:
        hint = "add train/, or give the folder that holds the classes"
        raise DataError(
            "; ".join([f"it has {nested[0]}/, but no train/", *listing.skipped_lines()]), where=root, hint=hint
        )
    if "test" in names and names["test"] not in nested:
        _warn_left_out(names.pop("test"))
    if renamed := [f"{name}/ as {split}/" for split, name in names.items() if name != split]:
        _log.info("used as splits: %s", ", ".join(renamed))
    train_name = names["train"]
    splits: dict[str, Classes] = {}
    for split, name in names.items():
        listed_classes = listing.classes(root / name)
        classes, in_other_form = _named_as(root / name, listed_classes, splits.get("train", listed_classes))
        _check_depth(listing, root / name, list(classes))
        if split == "test" and _is_unlabelled(classes, splits["train"]):
            _log.warning("%s/ has one folder, which is not a class of %s/: ignored", name, train_name)
            continue
        if in_other_form:
            _log.info("matched despite different Unicode forms in %s/: %s", name, ", ".join(in_other_form))
        _check_classes(listing, root / name, classes, splits.get("train", classes), train_name)
        splits[split] = classes
    return Layout(splits, is_plain=False)


def _without_splits(listing: Listing, folders: list[str], like_splits: list[str]) -> Layout:
    root = listing.root
    if like_splits and like_splits == folders:
        what = f"{_folders(like_splits)} without class folders"
        raise DataError(what, where=root, hint="give each of them one subfolder per class with its images")
    for name in like_splits:
        split = _SPLIT_OF[name.casefold()]
        if split == "val":
            what = f"{printable(name)}/ could be a split or a class"
            hint = f"move the classes into train/ and {name}/, or give the class another name"
            raise DataError(what, where=root, hint=hint)
        if split == "train":
            _log.warning("%s/ has no class folders: used as a class", name)
        else:
            _warn_left_out(name)
    classes, _ = _named_as(root, listing.classes(root), {})
    classes = {name: images for name, images in classes.items() if _SPLIT_OF.get(name.casefold()) != "test"}
    _check_depth(listing, root, list(classes))
    _check_classes(listing, root, classes, classes, "train")
    return Layout({"train": classes}, is_plain=True)


def _by_split(root: Path, like_splits: list[str]) -> dict[str, str]:
    """Split -> its folder, in the order of SPLITS."""
    folder_of: dict[str, str] = {}
    for split in SPLITS:
        names = [name for name in like_splits if _SPLIT_OF[name.casefold()] == split]
        if len(names) > 1:
            what = f"{_folders(names)} could each be {split}/"
            raise DataError(what, where=root, hint="merge them, or move all but one elsewhere")
        if names:
            folder_of[split] = names[0]
    return folder_of


def _named_as(part: Path, classes: Classes, train: Classes) -> tuple[Classes, list[str]]:
    """The classes, with train's names if only the Unicode form differs, and the names that did differ."""
    counts = Counter(map(unicode_form, classes))
    if twice := [name for name in classes if counts[unicode_form(name)] > 1]:
        what = f"class folders whose names differ only in their Unicode form: {', '.join(map(ascii, twice))}"
        raise DataError(what, where=part, hint="merge them")
    known = {unicode_form(name): name for name in train}
    names = {name: known.get(unicode_form(name), name) for name in classes}
    renamed = {
        names[name]: images if names[name] == name else [replace(image, class_name=names[name]) for image in images]
        for name, images in classes.items()
    }
    return renamed, [printable(names[name]) for name in classes if names[name] != name]


def _is_unlabelled(test: Classes, train: Classes) -> bool:
    """Whether test/ has one folder for all images, as some loaders require."""
    known = {name.casefold() for name in train}
    return len(test) == 1 and len(train) > 1 and not any(name.casefold() in known for name in test)


def unicode_form(name: str) -> str:
    """The name in Unicode's normal form C, since file systems may change the form."""
    return unicodedata.normalize("NFC", name)


def _check_depth(listing: Listing, part: Path, names: list[str]) -> None:
    """Raise DataError if the class folders are inside one more folder, or several nested ones."""
    if len(names) != 1:
        return
    folder, inner = part, names
    while len(inner) == 1:
        folder /= inner[0]
        inner = listing.folders(folder)
        if listing.has_files(folder) or not inner:
            return
    is_root = part == listing.root
    hint = f"give {folder}" if is_root else f"move them from {folder} to {part}"
    what = f"{printable(names[0])}/ is its only class and holds no images, but {_folders(inner)}"
    raise DataError(what, where=part, hint=f"if these are the classes: {hint}")


def _check_classes(listing: Listing, part: Path, classes: Classes, train: Classes, train_name: str) -> None:
    skipped = listing.skipped_lines()
    if not classes:
        what = "; ".join(["no class folders", *skipped])
        raise DataError(what, where=part, hint="give every class a subfolder with its images")
    unknown = [name for name in classes if name not in train]
    cases = {name.casefold(): name for name in train}
    like = {name: cases[name.casefold()] for name in unknown if name.casefold() in cases}
    problems = {
        "class folders without an image": [name for name, images in classes.items() if not images],
        f"classes that {train_name}/ does not have": unknown,
        f"classes of {train_name}/ missing": [name for name in train if name not in classes],
        "names that differ only in upper and lower case": [f"{name} and {other}" for name, other in like.items()],
        "class names that are not valid text": [name for name in classes if not _is_text(name)],
    }
    lines = [f"{what}: {listed([*map(printable, names)], ', ')}" for what, names in problems.items() if names]
    if lines:
        what = "; ".join([*lines, *skipped])
        raise DataError(what, where=part, hint="add images, or rename or remove the folders")


def _is_text(name: str) -> bool:
    """Whether the name came from valid UTF-8."""
    return not any("\ud800" <= char <= "\udfff" for char in name)


def _folders(names: Iterable[str]) -> str:
    shown = [f"{printable(name)}/" for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5:,} more" if len(shown) > 5 else "")


def _warn_left_out(name: str) -> None:
    _log.warning("%s/ has no class folders: ignored", name)
