"""Compares an exported file with its model: logits, classes and accuracy on validation images.

Shapes: N images, B images per batch, H x W pixels of any size, S x S pixels of the network, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocket_resnet.data.augment import resize, to_float
from pocket_resnet.data.image import fit
from pocket_resnet.data.source import Split
from pocket_resnet.errors import ArtifactError
from pocket_resnet.model.resnet import ResNet

ExportPrecision = Literal["fp32", "fp16", "int8"]

BATCH_SIZES = (1, 7, 64)
NUM_SMALL_BATCH_IMAGES = 500  # images to compare at every batch size but the largest
MAX_PROBABILITY_DIFFERENCE = 0.03
MARGINS_PX = ((0, 0), (3, 0), (0, 3), (2, 0), (0, 13))  # rows and columns outside the centre square
MAGNIFICATIONS = (1, 2, 5)
SPARE_IMAGES = 2  # allowed beyond each limit: 0.7% of 300 images are two images


class Runnable(Protocol):
    """An exported file, ready to run."""

    def logits(self, images: NDArray[Any], batch_size: int) -> NDArray[np.float32]:
        """The logits, float [N, K], of uint8 images [N, H, W, C], given to the file `batch_size` at a time."""


class ParityError(ArtifactError):
    """An exported file whose outputs differ from the model's."""

    usual_hint = "nothing was written; this is a bug in the exporter, please report it"


@dataclass(frozen=True)
class Limit:
    """Limits on the differences between a file and its model, on all images but SPARE_IMAGES."""

    largest_difference: float
    """Maximum difference of a logit."""
    agreement: float
    """Minimum share of images with the same class."""
    loss: float
    """Maximum loss of accuracy, as a share of images."""


LIMITS: dict[ExportPrecision, Limit] = {
    "fp32": Limit(largest_difference=1e-4, agreement=0.9995, loss=0.0),
    "fp16": Limit(largest_difference=np.inf, agreement=0.998, loss=0.001),
    "int8": Limit(largest_difference=np.inf, agreement=0.993, loss=0.002),
}


@dataclass(frozen=True)
class Comparison:
    """A file and its model on the same images."""

    num_images: int
    largest_difference: float
    """Largest difference of a logit, over all batch sizes."""
    agreement: float
    """Share of images with the same class."""
    accuracy: float
    """Accuracy of the model, in torch."""
    accuracy_exported: float
    """Accuracy of the file, in its runtime."""
    num_lost: int
    """Images that only the model classifies correctly."""
    num_won: int
    """Images that only the file classifies correctly."""


@torch.inference_mode()
def model_logits(model: ResNet, images_NCSS: Tensor) -> NDArray[np.float32]:
    """The model's logits [N, K] for uint8 images, computed by torch in fp32 on the CPU."""
    parts = [
        model(to_float(resize(batch_BCSS, model.spec.image_size)))
        for batch_BCSS in torch.split(images_NCSS, BATCH_SIZES[-1])
    ]
    logits_NK: NDArray[np.float32] = torch.cat(parts).numpy()
    return logits_NK


def compare(
    file: Runnable, logits_NK: NDArray[np.float32], split: Split, batch_sizes: Sequence[int] = BATCH_SIZES
) -> Comparison:
    """Compare the file with the model, whose logits are `logits_NK`, on every image in batches of the last size.

    The file also gets the first 500 images in batches of the other sizes.
    """
    images_NSSC = split.images_NCHW.permute(0, 2, 3, 1).numpy()
    exported_NK = file.logits(images_NSSC, batch_sizes[-1])
    differences = [np.abs(exported_NK - logits_NK).max()]
    for batch_size in batch_sizes[:-1]:
        few_NK = file.logits(images_NSSC[:NUM_SMALL_BATCH_IMAGES], batch_size)
        differences.append(np.abs(few_NK - logits_NK[: len(few_NK)]).max())
    predicted_N, exported_N, labels_N = logits_NK.argmax(1), exported_NK.argmax(1), split.labels_N.numpy()
    hit_N, exported_hit_N = predicted_N == labels_N, exported_N == labels_N
    return Comparison(
        num_images=len(labels_N),
        largest_difference=float(np.max(differences)),
        agreement=float((predicted_N == exported_N).mean()),
        accuracy=float(hit_N.mean()),
        accuracy_exported=float(exported_hit_N.mean()),
        num_lost=int((hit_N & ~exported_hit_N).sum()),
        num_won=int((~hit_N & exported_hit_N).sum()),
    )


def check(comparison: Comparison, precision: ExportPrecision) -> None:
    """Raise ParityError with the figures if they are beyond the precision's limits."""
    limit, num_images = LIMITS[precision], comparison.num_images
    num_differing = round((1 - comparison.agreement) * num_images)
    is_near = comparison.largest_difference <= limit.largest_difference  # NaN is not
    agrees = num_differing <= (1 - limit.agreement) * num_images + SPARE_IMAGES
    keeps = comparison.num_lost - comparison.num_won <= limit.loss * num_images + SPARE_IMAGES
    if is_near and agrees and keeps:
        return
    most = f" (at most {limit.largest_difference:g})" if np.isfinite(limit.largest_difference) else ""
    what = (
        f"the {precision} file differs from the model: largest logit difference "
        f"{comparison.largest_difference:.2g}{most}, "
        f"the same class for {comparison.agreement:.2%} of {num_images:,} images (at least {limit.agreement:.2%}), "
        f"accuracy {comparison.accuracy_exported:.2%} instead of {comparison.accuracy:.2%} "
        f"(at most {limit.loss:.2%} less), "
        f"{comparison.num_lost} images lost and {comparison.num_won} won"
    )
    hint = None if precision == "fp32" else "nothing was written; export with a higher --precision"
    raise ParityError(what, hint=hint)


def check_preprocessing(file: Runnable, model: ResNet, images_NCSS: Tensor) -> float:
    """The largest difference of a probability between pictures prepared by `data/image.py` and by the graph.

    The pictures are images of the split, magnified, with odd and even margins. Raises ParityError if the difference is
    over MAX_PROBABILITY_DIFFERENCE.
    """
    shapes = [(times, margins) for times in MAGNIFICATIONS for margins in MARGINS_PX]
    images_NSSC = images_NCSS[: len(shapes)].permute(0, 2, 3, 1).numpy()
    largest = 0.0
    for image_SSC, (times, margins) in zip(images_NSSC, shapes, strict=False):
        larger_HWC = image_SSC.repeat(times, axis=0).repeat(times, axis=1)
        above_beside = [(margin // 2, margin - margin // 2) for margin in margins]
        picture_HWC = np.pad(larger_HWC, (*above_beside, (0, 0)), mode="wrap")
        native_CSS = torch.from_numpy(fit(picture_HWC, model.spec.image_size)).permute(2, 0, 1)
        [expected_K] = _softmax(model_logits(model, native_CSS[None]))
        [actual_K] = _softmax(file.logits(picture_HWC[None], 1))
        largest = float(np.maximum(largest, np.abs(actual_K - expected_K).max()))  # keeps NaN
    if not largest <= MAX_PROBABILITY_DIFFERENCE:
        raise ParityError(f"the file prepares pictures differently: a probability differs by {largest:.3f}")
    return largest


def _softmax(logits_BK: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted_BK = np.exp(logits_BK - logits_BK.max(1, keepdims=True))
    probabilities_BK: NDArray[np.float32] = shifted_BK / shifted_BK.sum(1, keepdims=True)
    return probabilities_BK
