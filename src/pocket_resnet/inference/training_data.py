"""Opens and verifies the data that a model was trained on, and recognises images it was trained on.

Shapes: N images, C channels, H x W pixels.
"""

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from pocket_resnet.data.datasets import data_exists, data_name
from pocket_resnet.data.digests import count_among, unpacked
from pocket_resnet.data.listing import printable
from pocket_resnet.data.names import NAMES
from pocket_resnet.data.source import Source, public_name
from pocket_resnet.errors import DataError, PocketError, UsageError, listed
from pocket_resnet.model.artifact import find_model, load_digests
from pocket_resnet.model.card import Card
from pocket_resnet.model.step_folders import recorded_fingerprint
from pocket_resnet.recipe.toml import load_recipe

MAX_BY_CHANCE = 0.01  # published data have a few duplicates, too few to change an accuracy


def open_data_of(path: Path, card: Card, data: str | Path | None, open_data: Callable[[str], Source]) -> Source:
    """Open the data set that `data` names, by default the model's own, as `reopen` does."""
    return reopen(path, card, open_data) if data is None else open_data(data_name(data))


def reopen(path: Path, card: Card, open_data: Callable[[str], Source]) -> Source:
    """Open the data that the model in this directory, or of this run, was trained on, by their recorded name.

    Raises DataError if they are missing, if their content has changed, or if they were a folder and the model directory
    is no longer in its run's folder.
    """
    run = Path(os.path.realpath(find_model(path))).parent
    name = _recorded_name(path, run, card)
    try:
        source = open_data(name)
    except UsageError as error:
        if data_exists(name):
            raise
        what = f"its training data are not at {printable(name)}"
        raise DataError(what, where=path, hint="give their new location with --data") from error
    if (changed := changes_text(source, trained_fingerprint(run, card, source))) is not None:
        raise DataError(
            f"the data in {printable(source.name)} differ from those it was trained on{changed}",
            where=path,
            hint=f"give the original data with --data, or use these anyway: --data {printable(source.name)}",
        )
    return source


def trained_fingerprint(run: Path, card: Card, source: Source) -> str | None:
    """The fingerprint of the data that the model of this run was trained on; None if it is not known.

    Models of earlier versions have it only in their checkpoints, which may be deleted. For folders it is useless,
    as other images were held out then, which changes the fingerprint.
    """
    if card.data_fingerprint is not None or source.name not in NAMES:
        return card.data_fingerprint
    return recorded_fingerprint(run / "checkpoints")


def changes_text(source: Source, fingerprint: str | None) -> str | None:
    """The files that differ from those of the fingerprint, `: a file, another`, or empty; None if none differ."""
    if fingerprint is None or source.has_fingerprint(fingerprint):
        return None
    changes = source.changes_since(fingerprint)
    return f": {listed(changes, ', ')}" if changes else ""


def is_renamed(old: str, source: Source) -> bool:
    """Whether an earlier version recorded this folder by the relative path `old`."""
    return old not in NAMES and os.path.realpath(old) == source.name


def _recorded_name(path: Path, run: Path, card: Card) -> str:
    """The name of the data in the run's recipe, or of a built-in data set in the model's card."""
    try:
        name = load_recipe(str(run / "recipe.toml")).data.name
        if card.data in (name, public_name(name)):
            return name
    except PocketError:  # no run's folder
        pass
    if card.data_fingerprint is not None and card.data not in NAMES:
        what = f"it was trained on a folder, {printable(card.data)}, but only the run's folder stores its location"
        raise DataError(what, where=path, hint="give the folder with --data")
    return card.data


def caveat(path: Path, card: Card, source: Source, split_name: str, images_NCHW: Tensor) -> str | None:
    """A sentence about images that the model was trained on, recognised by their pixels; None if there are none."""
    known = load_digests(path)
    if known is None:
        return _caveat_by_name(card, source, split_name)
    num_trained_on = count_among(images_NCHW, unpacked(known))
    return overlap(len(images_NCHW), num_trained_on, unknown_images=card.unknown_images)


def overlap(num_images: int, num_trained_on: int, *, unknown_images: bool) -> str | None:
    """A sentence about the images that the model was trained on; None if there are none.

    `unknown_images` means that it was also trained on images that are not known.
    """
    if num_trained_on <= MAX_BY_CHANCE * num_images and unknown_images:
        return "possibly no estimate: the model was also trained on unknown images"
    if num_trained_on == 0:
        return None
    which = "all" if num_trained_on == num_images else f"{num_trained_on:,} of"
    images = f"{which} these {num_images:,} images" if num_images > 1 else "this image"
    what = f"the model was trained on {images}"
    return what if num_trained_on <= MAX_BY_CHANCE * num_images else f"no estimate: {what}"


def _caveat_by_name(card: Card, source: Source, split_name: str) -> str | None:
    """The same for models of versions that stored no digests, by the name of the data."""
    if not (source.name == card.data or is_renamed(card.data, source)) or split_name == "test":
        return None
    if card.train_on == "trainval":
        return "no estimate: the model was trained on these images"
    if split_name != "val":
        return "no estimate: the model was trained on most of these images"
    if source.name not in NAMES and not Path(source.name, "val").is_dir():
        return "no estimate: an earlier version held out other images and trained the model on most of these"
    return None
