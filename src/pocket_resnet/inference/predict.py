"""Image files and folders -> rows, as `predict --json` prints them."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_resnet.data.image import ImageError, decode
from pocket_resnet.data.listing import Listing, printable
from pocket_resnet.inference.classifier import load
from pocket_resnet.inference.evaluate import EVALUATION_BATCH

_log = logging.getLogger(__name__)


def predict_files(
    model: Path, paths: Sequence[Path], top: int, views: int = 1
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows for image files and the files in folders, as `predict --json` prints them; what cannot be read."""
    classifier = load(model)
    files: list[Path] = []
    for path in paths:
        listing = Listing(Path(os.path.realpath(path)))
        found = listing.files() if path.is_dir() else [path]
        files += found
        for line in (*listing.skipped_lines(), *(() if found else ("no images",))):
            _log.warning("%s: %s", printable(str(path)), line)
    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    for start in range(0, len(files), EVALUATION_BATCH):
        images: list[tuple[Path, NDArray[np.uint8]]] = []
        for file in files[start : start + EVALUATION_BATCH]:
            try:
                images.append((file, decode(file, classifier.card.spec.image_size)))
            except ImageError as error:
                bad.append(f"{error.where}: {error.what}")
        predictions = classifier.predict([pixels_HWC for _, pixels_HWC in images], top=top, views=views)
        for (file, _), prediction in zip(images, predictions, strict=True):
            ranking = [{"label": label, "probability": probability} for label, probability in prediction.top]
            rows.append({"image": str(file), **ranking[0], "top": ranking})
    return rows, bad
