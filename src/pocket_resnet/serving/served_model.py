"""Opens the model for `serve`: a model directory with torch, an exported file with onnxruntime.

Shapes: B images per batch, S x S pixels of the network, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pocket_resnet.device import choose
from pocket_resnet.errors import UsageError
from pocket_resnet.exporting.export import is_exported
from pocket_resnet.inference.evaluate import class_probabilities
from pocket_resnet.io.files import expanded
from pocket_resnet.model.artifact import load_model
from pocket_resnet.model.card import facts

Classify = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 [B, S, S, 3] -> probabilities, float [B, K]; may be called from several threads."""

EXPORTED_FACTS = ("accuracy", "recipe", "training_data", "trained_by", "precision", "license")


@dataclass(frozen=True)
class ServedModel:
    """A model that is ready to classify, and its description for the API."""

    classify: Classify
    class_names: tuple[str, ...]
    image_size: int
    runtime: Literal["torch", "onnxruntime"]
    facts: Mapping[str, str]
    """Accuracy, recipe, training data and the like, for people to read."""


def open_served(path: str | Path, device: str = "auto") -> ServedModel:
    """The model at the path: an .onnx file, a model directory, a run's folder, or a released model's name.

    Each call of its `classify` computes in one thread. Raises UsageError if there is no model or the device cannot be
    used, and ArtifactError if the model is damaged.
    """
    path = expanded(path)
    if is_exported(path):
        if device not in ("auto", "cpu"):
            hint = "omit --device, or give a model directory"
            raise UsageError(f"an .onnx file is computed on the CPU, not on {device}", where=path, hint=hint)
        return _open_exported(path)
    hardware = choose(device, num_threads=1)
    try:
        model, card = load_model(path)
    except UsageError as error:
        raise UsageError(error.what, where=error.where, hint=f"{error.hint}, or an .onnx file") from error
    model = hardware.place(model)

    def classify(images_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        hardware.use_threads()
        images_BCSS = torch.from_numpy(images_BSSC).permute(0, 3, 1, 2).contiguous()
        probabilities_BK: NDArray[np.float32] = class_probabilities(model, images_BCSS, hardware).numpy()
        return probabilities_BK

    return ServedModel(classify, card.class_names, card.spec.image_size, "torch", facts(card))


def _open_exported(path: Path) -> ServedModel:
    from pocket_resnet.exporting.exported_model import open_exported

    exported = open_exported(path)

    def classify(images_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        return exported.session.probabilities(images_BSSC, len(images_BSSC))

    stated = {name: exported.metadata[name] for name in EXPORTED_FACTS if name in exported.metadata}
    return ServedModel(classify, exported.class_names, exported.image_size, "onnxruntime", stated)
