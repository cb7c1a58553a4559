"""The data that a model was trained on: found again, held to their fingerprint, and images of them known again.

Shapes: N images, C channels, H x W pixels.
"""

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from pocket_resnet.data.datasets import NAMES, is_there
from pocket_resnet.data.digests import count_among, unpacked
from pocket_resnet.data.listing import printable
from pocket_resnet.data.source import Source, public_name
from pocket_resnet.errors import DataError, PocketError, UsageError, listed
from pocket_resnet.io.step_folders import recorded_fingerprint
from pocket_resnet.model.artifact import find_model, load_digests
from pocket_resnet.model.card import Card
from pocket_resnet.recipe.toml import load_recipe

MOST_BY_CHANCE = 0.01  # published data have a few images twice: their share leaves an accuracy what it is


def reopen(path: Path, card: Card, open_data: Callable[[str], Source]) -> Source:
    """The data that the model in this directory, or of this run, was trained on, opened by their name.

    Raises DataError where they are not there any more, where their content is another one, and for a model directory
    away from its run whose data were a folder.
    """
    run = Path(os.path.realpath(find_model(path))).parent
    name = _recorded_name(path, run, card)
    try:
        source = open_data(name)
    except UsageError as error:
        if is_there(name):
            raise
        what = f"its training data are not at {printable(name)}"
        raise DataError(what, where=path, hint="give their new location with --data") from error
    if (changed := told_changes(source, trained_fingerprint(run, card, source))) is not None:
        raise DataError(
            f"the data in {printable(source.name)} differ from those it was trained on{changed}",
            where=path,
            hint=f"give the original data with --data, or use these anyway: --data {printable(source.name)}",
        )
    return source


def trained_fingerprint(run: Path, card: Card, source: Source) -> str | None:
    """That of the data that the model of this run was trained on; None where it is not known.

    Checkpoints may be deleted, and of earlier versions only those on built-in data sets tell: other images of a folder
    were held out then, which is part of its fingerprint.
    """
    if card.data_fingerprint is not None or source.name not in NAMES:
        return card.data_fingerprint
    return recorded_fingerprint(run / "checkpoints")


def told_changes(source: Source, fingerprint: str | None) -> str | None:
    """How the data differ from those of the fingerprint, `: a file, another` or nothing; None where they do not."""
    if fingerprint in (None, source.fingerprint):
        return None
    changes = source.changes_since(str(fingerprint))
    return f": {listed(changes, ', ')}" if changes else ""


def is_renamed(old: str, source: Source) -> bool:
    """Whether an earlier version recorded this folder by the relative path `old`."""
    return old not in NAMES and os.path.realpath(old) == source.name


def _recorded_name(path: Path, run: Path, card: Card) -> str:
    """What the run calls its data; a model directory alone knows a built-in data set's name."""
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
    """A sentence on how many of the images the model was trained on, by their pixels; None where on none of them."""
    known = load_digests(path)
    if known is None:
        return _caveat_by_name(card, source, split_name)
    num_trained_on = count_among(images_NCHW, unpacked(known))
    return overlap(len(images_NCHW), num_trained_on, unknown_images=card.unknown_images)


def overlap(num_images: int, num_trained_on: int, *, unknown_images: bool) -> str | None:
    """A sentence on how many of the images the model was trained on; None where on none of them.

    `unknown_images`: it was trained on others too, which are not known.
    """
    if num_trained_on <= MOST_BY_CHANCE * num_images and unknown_images:
        return "possibly no estimate: the model was also trained on unknown images"
    if num_trained_on == 0:
        return None
    which = "all" if num_trained_on == num_images else f"{num_trained_on:,} of"
    images = f"{which} these {num_images:,} images" if num_images > 1 else "this image"
    what = f"the model was trained on {images}"
    return what if num_trained_on <= MOST_BY_CHANCE * num_images else f"no estimate: {what}"


def _caveat_by_name(card: Card, source: Source, split_name: str) -> str | None:
    """For models of versions that kept no digests: whether these are the data it names."""
    if not (source.name == card.data or is_renamed(card.data, source)) or split_name == "test":
        return None
    if card.train_on == "trainval":
        return "no estimate: the model was trained on these images"
    if split_name != "val":
        return "no estimate: the model was trained on most of these images"
    if source.name not in NAMES and not Path(source.name, "val").is_dir():
        return "no estimate: an earlier version held out other images and trained the model on most of these"
    return None
