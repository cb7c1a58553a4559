"""Predicts the classes of images from files or arrays.

Images are decoded to RGB, resized to the network's size and converted to 0..1; the network normalises them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pocket_resnet.data.conversion import each_image, pixels
from pocket_resnet.device import Hardware, choose
from pocket_resnet.errors import UsageError
from pocket_resnet.inference.evaluate import EVALUATION_BATCH, check_options, class_probabilities
from pocket_resnet.io.files import expanded
from pocket_resnet.model.artifact import load_model
from pocket_resnet.model.card import Card
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.torch_settings import own_settings


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

    def predict(self, images: Any, *, top: int = 5, views: int = 1) -> list[Prediction]:
        """A prediction for each image of a list, generator, column or batch of arrays, or for a single image.

        An image is a path, an encoded file's bytes, an open file, a Pillow image, or an array or tensor: grey [H, W],
        RGB or RGBA [H, W, C] (tensors [C, H, W]), uint8 or fractions from 0 to 1. Averaged over 1, 2 or 6 `views`.
        A `top` above the number of classes gives all of them. Raises DataError if an image cannot be decoded,
        UsageError for other objects or numbers of views, for `top` below 1, and for several views if flipping changes
        the meaning.
        """
        top, views = index(top), index(views)
        if top < 1:
            num_classes = len(self.card.class_names)
            raise UsageError(f"top {top} is out of range", hint=f"use 1 to {num_classes} (all classes of the model)")
        check_options(self.card, views)
        predictions: list[Prediction] = []
        remaining = each_image(images)  # a generator is the caller's code: it runs with the caller's settings
        while batch := list(islice(remaining, EVALUATION_BATCH)):
            predictions += self._predict_batch(batch, top, views)
        return predictions

    @own_settings()
    def _predict_batch(self, images: Iterable[Any], top: int, views: int) -> list[Prediction]:
        self.hardware.use_threads()
        pixels_BHWC = np.stack([pixels(image, self.model.spec.image_size) for image in images])
        images_BCHW = torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).contiguous()
        probabilities_BK = class_probabilities(self.model, images_BCHW, self.hardware, views)
        best = probabilities_BK.topk(min(top, len(self.card.class_names)))
        names = self.card.class_names
        predictions = []
        for values, numbers in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            pairs = tuple((names[number], value) for number, value in zip(numbers, values, strict=True))
            predictions.append(Prediction(*pairs[0], pairs))
        return predictions


@own_settings()
def load(path: str | Path, device: str = "auto") -> Classifier:
    """The classifier in a model directory or finished run. Raises UsageError or ArtifactError if there is none."""
    model, card = load_model(expanded(path))
    return Classifier(model, card, choose(device))
