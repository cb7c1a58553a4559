"""Images -> classes: the one way from a file or array to a prediction.

Decode to RGB, bring to the network's size, uint8 to 0..1; the network normalises by itself.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocket_resnet.card import Card
from pocket_resnet.data.image import ImageError, decode, fit
from pocket_resnet.data.listing import Listing, printable
from pocket_resnet.device import Hardware, choose
from pocket_resnet.errors import UsageError
from pocket_resnet.evaluate import EVALUATION_BATCH, class_probabilities, refuse_mirroring
from pocket_resnet.model.artifact import load_model
from pocket_resnet.model.resnet import ResNet

ImageLike = str | Path | bytes | NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """One image's classes, most probable first; `top` has (label, probability) pairs."""

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]


class Classifier:
    """A trained network with its card: `load(path).predict(images)`."""

    def __init__(self, model: ResNet, card: Card, hardware: Hardware) -> None:
        self.model = hardware.place(model)
        self.card, self.hardware = card, hardware

    def predict(self, images: ImageLike | Sequence[ImageLike], *, top: int = 5, views: int = 1) -> list[Prediction]:
        """A prediction for each image: a path, an encoded file's bytes, or a uint8 array [H, W, 3].

        Averaged over 1, 2 or 6 `views` of it. Raises DataError for what is not an image, UsageError where `top` is
        below 1 and for several views where mirrored images mean something else.
        """
        if top < 1:
            raise UsageError(f"top {top}", mend="ask for 1 class or more")
        refuse_mirroring(self.card, views)
        several = images if isinstance(images, Sequence) and not isinstance(images, str | bytes) else [images]
        predictions: list[Prediction] = []
        for start in range(0, len(several), EVALUATION_BATCH):
            predictions += self._predict_batch(several[start : start + EVALUATION_BATCH], top, views)
        return predictions

    def _predict_batch(self, images: Sequence[ImageLike], top: int, views: int) -> list[Prediction]:
        pixels_BHWC = np.stack([_pixels(image, self.model.spec.image_size) for image in images])
        images_BCHW = torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).contiguous()
        probabilities_BK = class_probabilities(self.model, images_BCHW, self.hardware, views)
        best = probabilities_BK.topk(min(top, len(self.card.class_names)))
        names = self.card.class_names
        predictions = []
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            pairs = tuple((names[index], value) for index, value in zip(indices, values, strict=True))
            predictions.append(Prediction(*pairs[0], pairs))
        return predictions


def predict_files(
    model: Path, paths: Sequence[Path], top: int, views: int = 1
) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Rows for image files and the files in folders, as `predict --json` prints them; what cannot be read; remarks."""
    classifier = load(model)
    files: list[Path] = []
    remarks: list[str] = []
    for path in paths:
        listing = Listing(Path(os.path.realpath(path)))
        found = listing.files() if path.is_dir() else [path]
        files += found
        notes = [*listing.remarks(), *(() if found else ("no images",))]
        remarks += [f"{printable(str(path))}: {note}" for note in notes]
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
    return rows, bad, remarks


def _pixels(image: ImageLike, size: int) -> NDArray[np.uint8]:
    if isinstance(image, np.ndarray):
        pixels_HWC: NDArray[np.uint8] = image
        return fit(pixels_HWC, size)
    return decode(Path(image) if isinstance(image, str) else image, size)


def load(path: str | Path, device: str = "auto") -> Classifier:
    """The classifier in a model directory or finished run. Raises UsageError or ArtifactError where it cannot."""
    model, card = load_model(Path(path))
    return Classifier(model, card, choose(device))
