"""Predicts image files, folders and patterns, for the command `predict`."""

import glob
import logging
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pocket_resnet.data.conversion import pixels
from pocket_resnet.data.image import ImageError
from pocket_resnet.data.listing import Listing, printable
from pocket_resnet.errors import UsageError
from pocket_resnet.inference.classifier import Classifier, Prediction, load
from pocket_resnet.inference.evaluate import check_options
from pocket_resnet.io.files import expanded

STDIN = "-"
BATCH = 100  # images whose activations stay in the processor's cache: 1.4 times as fast as 500 with 100,000 parameters
_log = logging.getLogger(__name__)


class FilePrediction(NamedTuple):
    """The prediction for an image file, with the file's name as it was given."""

    image: str
    prediction: Prediction

    def to_json(self) -> dict[str, Any]:
        """A row of `predict --json`."""
        top = [{"label": label, "probability": probability} for label, probability in self.prediction.top]
        return {"image": self.image, **top[0], "top": top}


def predict_files(
    model: Path,
    images: Sequence[str],
    top: int,
    views: int = 1,
    device: str = "auto",
    advance: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> tuple[list[FilePrediction], list[str]]:
    """The predictions for the images that `list_images` lists, and lines about unreadable files.

    `advance(done, total)` is called after each batch.
    """
    classifier = load(model, device)
    check_options(classifier.card, views)
    names = list_images(images)
    num_workers = classifier.hardware.num_threads or torch.get_num_threads()
    alone = Classifier(classifier.model, classifier.card, replace(classifier.hardware, num_threads=1))
    batches = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
    rows: list[FilePrediction] = []
    bad: list[str] = []
    # A small network keeps several threads busier with a batch each than with one batch that they share.
    with ThreadPoolExecutor(num_workers) as pool:
        for predicted, unreadable in pool.map(lambda batch: _predict_batch(alone, batch, top, views), batches):
            rows += predicted
            bad += unreadable
            advance(len(rows) + len(bad), len(names))
    return rows, bad


def _predict_batch(
    classifier: Classifier, names: Sequence[str], top: int, views: int
) -> tuple[list[FilePrediction], list[str]]:
    """The predictions for one batch, and lines about its unreadable files."""
    readable: dict[str, NDArray[np.uint8]] = {}
    bad: list[str] = []
    for name in names:
        try:
            source = _standard_input() if name == STDIN else name
            readable[name] = pixels(source, classifier.card.spec.image_size)
        except ImageError as error:
            bad.append(f"{printable(name)}: {error.what}")
    predictions = classifier.predict(list(readable.values()), top=top, views=views)
    return list(map(FilePrediction, readable, predictions)), bad


def list_images(images: Sequence[str]) -> list[str]:
    """The names of all files, each once: given files, all images in folders and matches of patterns; - is kept.

    A folder's files begin with the folder as given. Logs warnings about skipped files.
    """
    names: dict[str, None] = {}
    for image in images:
        is_literal = image == STDIN or os.path.lexists(expanded(image))
        for name in [image] if is_literal else sorted(glob.glob(image, recursive=True)) or [image]:  # noqa: PTH207 (keeps ./)
            names |= dict.fromkeys(_in_folder(name) if name != STDIN and expanded(name).is_dir() else [name])
    return list(names)


def _in_folder(folder: str) -> list[str]:
    """The images at any depth."""
    listing = Listing(Path(os.path.realpath(expanded(folder))))
    names = [os.path.join(folder, file.relative_to(listing.root)) for file in listing.images()]  # noqa: PTH118 (keeps ./)
    for line in (*listing.skipped_lines(), *(() if names else ("no images",))):
        _log.warning("%s: %s", printable(folder), line)
    return names


def _standard_input() -> Any:
    if sys.stdin.isatty():
        hint = "redirect an image to it: pocket-resnet predict MODEL - < cat.jpg"
        raise UsageError("- reads an image from standard input, but that is a terminal", hint=hint)
    return sys.stdin.buffer
