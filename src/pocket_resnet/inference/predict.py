"""Image files, folders and patterns -> rows, as `predict --json` prints them."""

import glob
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_resnet.data.conversion import pixels
from pocket_resnet.data.image import ImageError
from pocket_resnet.data.listing import Listing, printable
from pocket_resnet.device import num_cores
from pocket_resnet.errors import UsageError
from pocket_resnet.inference.classifier import load
from pocket_resnet.io.files import expanded

STDIN = "-"
BATCH = 100  # images whose activations stay in the processor's cache: 1.4 times as fast as 500 with 100,000 parameters
_log = logging.getLogger(__name__)


def predict_files(
    model: Path,
    images: Sequence[str],
    top: int,
    views: int = 1,
    device: str = "auto",
    advance: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows for images as `list_images` finds them, as `predict --json` prints them; what cannot be read, and why.

    `advance` hears how many of how many are done.
    """
    classifier, names = load(model, device), list_images(images)
    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    for batch in _decoded(names, classifier.card.spec.image_size):
        readable = {name: result for name, result in batch.items() if not isinstance(result, ImageError)}
        bad += [f"{printable(name)}: {error.what}" for name, error in batch.items() if isinstance(error, ImageError)]
        predictions = classifier.predict(list(readable.values()), top=top, views=views)
        for name, prediction in zip(readable, predictions, strict=True):
            ranking = [{"label": label, "probability": probability} for label, probability in prediction.top]
            rows.append({"image": name, **ranking[0], "top": ranking})
        advance(len(rows) + len(bad), len(names))
    return rows, bad


def list_images(images: Sequence[str]) -> list[str]:
    """The names of all files meant, each once: files, all files in folders, what a pattern matches, - as it is.

    A name begins as it was given. Warnings tell what was skipped in folders.
    """
    names: dict[str, None] = {}
    for image in images:
        is_literal = image == STDIN or os.path.lexists(expanded(image))
        for name in [image] if is_literal else sorted(glob.glob(image, recursive=True)) or [image]:  # noqa: PTH207 (keeps ./)
            names |= dict.fromkeys(_in_folder(name) if name != STDIN and expanded(name).is_dir() else [name])
    return list(names)


def _in_folder(folder: str) -> list[str]:
    """The files at any depth."""
    listing = Listing(Path(os.path.realpath(expanded(folder))))
    found = [os.path.join(folder, file.relative_to(listing.root)) for file in listing.files()]  # noqa: PTH118 (keeps ./)
    for line in (*listing.skipped_lines(), *(() if found else ("no images",))):
        _log.warning("%s: %s", printable(folder), line)
    return found


def _decoded(names: Sequence[str], size: int) -> Iterator[dict[str, NDArray[np.uint8] | ImageError]]:
    """Batches of pixels [size, size, 3] by name; the next one is decoded while the caller works on this one."""
    batches = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
    with ThreadPoolExecutor(num_cores()) as pool:
        coming = pool.map(lambda name: _decode(name, size), batches[0] if batches else ())
        for number, batch in enumerate(batches):
            results, following = coming, batches[number + 1 : number + 2]
            coming = pool.map(lambda name: _decode(name, size), following[0] if following else ())
            yield dict(zip(batch, results, strict=True))


def _decode(name: str, size: int) -> NDArray[np.uint8] | ImageError:
    try:
        return pixels(_standard_input() if name == STDIN else name, size)
    except ImageError as error:
        return error


def _standard_input() -> Any:
    if sys.stdin.isatty():
        hint = "redirect an image to it: pocket-resnet predict MODEL - < cat.jpg"
        raise UsageError("- reads an image from standard input, but that is a terminal", hint=hint)
    return sys.stdin.buffer
