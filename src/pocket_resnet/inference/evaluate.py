"""Evaluates a network on a split: accuracy with its interval, per class, confusion matrix, likelihood, calibration.

Shapes: N images, B images per batch, K classes, V views of an image.
"""

from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pocket_resnet.data.augment import resize, to_float
from pocket_resnet.data.datasets import data_name, open_source
from pocket_resnet.data.layout import unicode_form
from pocket_resnet.data.source import Source, Split, Which
from pocket_resnet.device import Hardware, Precision, choose
from pocket_resnet.errors import DataError, UsageError, listed
from pocket_resnet.inference.statistics import calibration_error, wilson_interval
from pocket_resnet.inference.training_data import caveat, reopen
from pocket_resnet.io.files import expanded
from pocket_resnet.model.artifact import fetched, load_model
from pocket_resnet.model.card import Card
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.torch_settings import own_settings

EVALUATION_BATCH = 500
VIEW_SHIFT_PX = 1


@dataclass(frozen=True)
class ClassResult:
    """The result for one class."""

    name: str
    num_images: int
    accuracy: float | None
    interval: tuple[float, float] | None


class Confusion(NamedTuple):
    """Number of images of one class predicted as another, and their share of the class."""

    true: str
    predicted: str
    num_images: int
    share: float


@dataclass(frozen=True)
class Evaluation:
    """A network's predictions for a split and their statistics; shares are 0 to 1.

    `confusion[true][predicted]` counts images; `ece` is the expected calibration error over 15 bins of confidence.
    """

    accuracy: float
    interval: tuple[float, float]
    num_images: int
    split: str
    views: int
    precision: Precision
    per_class: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...]
    nll: float
    ece: float
    labels_N: Tensor = field(repr=False, compare=False)
    """The true class of each image, int64, in the order of the split."""
    probabilities_NK: Tensor = field(repr=False, compare=False)
    """The probability of each class for each image, float32 on the CPU."""
    caveat: str | None = None
    """Why the accuracy is not, or may not be, measured on unseen images; otherwise None."""

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints; `confusion[true][predicted]` counts images."""
        classes = {
            result.name: {
                "num_images": result.num_images,
                "accuracy": result.accuracy,
                "interval": result.interval,
            }
            for result in self.per_class
        }
        left_out = ("labels_N", "probabilities_NK")
        return {key: value for key, value in vars(self).items() if key not in left_out} | {"per_class": classes}

    def confusions(self, count: int = 10) -> list[Confusion]:
        """The `count` most frequent mistakes, each a pair of classes."""
        mistakes = [
            Confusion(true.name, predicted.name, num_images, num_images / true.num_images)
            for true, row in zip(self.per_class, self.confusion, strict=True)
            for predicted, num_images in zip(self.per_class, row, strict=True)
            if num_images and true is not predicted
        ]
        return sorted(mistakes, key=lambda pair: -pair.num_images)[:count]


@own_settings()
def evaluate_model(
    path: str | Path,
    *,
    data: str | Path | None = None,
    split: Which | None = None,
    views: int = 1,
    precision: Precision = "fp32",
    data_dir: str | Path | None = None,
) -> Evaluation:
    """Measure the model in a directory on a split of a data set; classes are matched by name.

    By default these are the validation images of its own data, at the path that its run recorded, or all images of a
    folder without splits given as `data`. Raises DataError if the data have a class that the model does not know, or
    if its own data are missing or have changed.
    """
    path, data, views = fetched(expanded(path)), None if data is None else data_name(data), index(views)
    model, card = load_model(path)

    def open_data(name: str) -> Source:
        return open_source(name, data_dir=data_dir, image_size=card.spec.image_size)

    source = reopen(path, card, open_data) if data is None else open_data(data)
    refuse_mirroring(card, views)
    split_name = split or ("all" if data is not None and source.is_plain else "val")
    images = renumber(source.split(split_name), source.class_names, card.class_names)
    hardware = choose()
    hardware.use_threads()
    evaluation = evaluate(
        hardware.place(model),
        images,
        card.class_names,
        hardware,
        split_name=split_name,
        views=views,
        precision=precision,
    )
    return replace(evaluation, caveat=caveat(path, card, source, split_name, images.images_NCHW))


def refuse_mirroring(card: Card, views: int) -> None:
    """Raise UsageError for several views if flipping changes the meaning of the model's images."""
    if views > 1 and not card.flip_invariant:
        raise UsageError(f"{views} views mirror the images, which changes their meaning here", hint="use --views 1")


def renumber(split: Split, names: tuple[str, ...], model_names: tuple[str, ...]) -> Split:
    """The split with the model's class numbers, matched by name. Raises DataError naming classes without one."""
    known = {unicode_form(name): number for number, name in enumerate(model_names)}
    known |= {name: number for number, name in enumerate(model_names)}
    number_of = {name: known.get(name, known.get(unicode_form(name), -1)) for name in names}
    if unknown := [name for name in names if number_of[name] < 0]:
        raise DataError(
            f"the model does not know {listed([repr(name) for name in unknown], ', ')}",
            hint=f"its classes are {listed(model_names, ', ')}",
        )
    numbers = torch.tensor([number_of[name] for name in names])
    return Split(split.images_NCHW, numbers[split.labels_N])


def evaluate(
    model: ResNet,
    split: Split,
    class_names: tuple[str, ...],
    hardware: Hardware,
    *,
    split_name: str,
    views: int = 1,
    precision: Precision = "fp32",
) -> Evaluation:
    """Classify every image of the split and summarise the predictions."""
    probabilities_NK = class_probabilities(model, split.images_NCHW, hardware, views, precision=precision)
    return summarise(probabilities_NK, split.labels_N, class_names, split_name, views, precision)


@torch.inference_mode()
def class_probabilities(
    model: ResNet,
    images_NCHW: Tensor,
    hardware: Hardware,
    views: int = 1,
    image_size: int | None = None,
    precision: Precision = "fp32",
) -> Tensor:
    """Probabilities float32 [N, K] on the CPU for uint8 images, averaged over 1, 2 or 6 views.

    `image_size` is in pixels, by default the network's own. The default precision is fp32, not the hardware's, so
    the same weights give the same figures on machines with and without bf16. The softmax is always in fp32. Raises
    UsageError for an unknown precision or number of views.
    """
    if precision not in get_args(Precision):
        raise UsageError(f"precision {precision!r}", hint="choose fp32 or bf16")
    was_training = model.training
    hardware = replace(hardware, precision=precision)
    model.eval()
    parts = []
    for batch_BCHW in torch.split(images_NCHW, EVALUATION_BATCH):
        at_size = resize(batch_BCHW.to(hardware.device), image_size or model.spec.image_size)
        x_BCHW = to_float(at_size, hardware.memory_format)
        probabilities_BK = torch.zeros((), device=hardware.device)
        for view_BCHW, weight in _views(x_BCHW, views):
            with hardware.autocast():
                logits_BK = model(view_BCHW)
            probabilities_BK = probabilities_BK + weight * logits_BK.float().softmax(1)
        parts.append(probabilities_BK.cpu())
    model.train(was_training)
    return torch.cat(parts)


def _views(x_BCHW: Tensor, views: int) -> list[tuple[Tensor, float]]:
    """The views with their weights: the image; also its mirror image; or both and their diagonally shifted copies.

    Source: Jordan 2024 (arXiv:2404.00498), section 3.5.
    """
    flipped_BCHW = x_BCHW.flip(3)
    if views == 1:
        return [(x_BCHW, 1.0)]
    if views == 2:
        return [(x_BCHW, 0.5), (flipped_BCHW, 0.5)]
    if views != 6:
        raise UsageError(f"{views} views", hint="choose 1, 2 or 6")
    shifted: list[tuple[Tensor, float]] = []
    size, reach = x_BCHW.shape[-1], VIEW_SHIFT_PX
    for start in (0, 2 * reach):
        for view in (x_BCHW, flipped_BCHW):
            padded = F.pad(view, (reach, reach, reach, reach), mode="reflect")
            shifted.append((padded[:, :, start : start + size, start : start + size], 0.125))
    return [(x_BCHW, 0.25), (flipped_BCHW, 0.25), *shifted]


def summarise(
    probabilities_NK: Tensor,
    labels_N: Tensor,
    class_names: tuple[str, ...],
    split_name: str,
    views: int,
    precision: Precision = "fp32",
) -> Evaluation:
    """The evaluation of these predicted probabilities."""
    predicted_N = probabilities_NK.argmax(1)
    num_classes = len(class_names)
    confusion_KK = torch.bincount(labels_N * num_classes + predicted_N, minlength=num_classes**2).view(num_classes, -1)
    hits, num_images = int(confusion_KK.trace()), len(labels_N)
    of_truth_N = probabilities_NK.gather(1, labels_N[:, None]).double()
    return Evaluation(
        accuracy=hits / num_images,
        interval=wilson_interval(hits, num_images),
        num_images=num_images,
        split=split_name,
        views=views,
        precision=precision,
        per_class=tuple(_class_result(name, confusion_KK[k], k) for k, name in enumerate(class_names)),
        confusion=tuple(tuple(row) for row in confusion_KK.tolist()),
        nll=float(-of_truth_N.clamp(min=1e-12).log().mean()),
        ece=calibration_error(probabilities_NK.amax(1), predicted_N == labels_N),
        labels_N=labels_N,
        probabilities_NK=probabilities_NK,
    )


def surest_mistakes(probabilities_NK: Tensor, labels_N: Tensor) -> Tensor:
    """The indices of wrongly classified images, most confident first."""
    confidence_N, predicted_N = probabilities_NK.max(1)
    wrong_M = (predicted_N != labels_N).nonzero().flatten()
    return wrong_M[confidence_N[wrong_M].argsort(descending=True, stable=True)]


def _class_result(name: str, row_K: Tensor, k: int) -> ClassResult:
    num_images, hits = int(row_K.sum()), int(row_K[k])
    if num_images == 0:
        return ClassResult(name, 0, None, None)
    return ClassResult(name, num_images, hits / num_images, wilson_interval(hits, num_images))
