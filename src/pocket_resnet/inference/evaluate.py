"""Evaluates a network on a split; evaluation.py has the statistics.

Shapes: N images, B images per batch, K classes, V views of an image.
"""

from dataclasses import replace
from functools import partial
from operator import index
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pocket_resnet.data.augment import resize, to_float
from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.layout import unicode_form
from pocket_resnet.data.source import Split, SplitName
from pocket_resnet.device import Hardware, Precision, choose
from pocket_resnet.errors import DataError, UsageError, listed
from pocket_resnet.inference.evaluation import Evaluation
from pocket_resnet.inference.training_data import caveat, open_data_of
from pocket_resnet.io.files import expanded
from pocket_resnet.model.artifact import find_model, load_model
from pocket_resnet.model.card import Card
from pocket_resnet.model.evaluation_mode import evaluation_mode
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.torch_settings import own_settings

EVALUATION_BATCH = 500
NUMS_OF_VIEWS = (1, 2, 6)
VIEW_SHIFT_PX = 1


@own_settings()
def evaluate_model(
    path: str | Path,
    *,
    data: str | Path | None = None,
    split: SplitName | None = None,
    views: int = 1,
    precision: Precision = "fp32",
    device: str = "auto",
    data_dir: str | Path | None = None,
) -> Evaluation:
    """Measure the model in a directory on a split of a data set; classes are matched by name.

    By default these are the validation images of its own data, at the path that its run recorded, or all images of a
    folder without splits given as `data`. Raises UsageError for an option that does not suit the model, before the
    data are opened, and DataError if the data have a class that the model does not know, or if its own data are missing
    or have changed.
    """
    path, views = find_model(expanded(path)), index(views)
    model, card = load_model(path)
    check_options(card, views, precision)
    hardware = choose(device)
    hardware.use_threads()
    source = open_data_of(path, card, data, partial(open_source, data_dir=data_dir, image_size=card.spec.image_size))
    split_name = split or ("all" if data is not None and source.is_plain else "val")
    images = renumber(source.split(split_name), source.class_names, card.class_names)
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


def check_options(card: Card, views: int, precision: str = "fp32") -> None:
    """Raise UsageError for an unknown precision or number of views, or if mirroring changes the images' meaning."""
    if precision not in get_args(Precision):
        raise UsageError(f"precision {precision!r}", hint="choose fp32 or bf16")
    if views not in NUMS_OF_VIEWS:
        raise UsageError(f"{views} views", hint="choose 1, 2 or 6")
    if views == 6 and card.spec.image_size == 1:
        raise UsageError("6 views shift the images, which have only one pixel", hint="use --views 1 or 2")
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
    return replace(split, labels_N=numbers[split.labels_N])


def evaluate(
    model: ResNet,
    split: Split,
    class_names: tuple[str, ...],
    hardware: Hardware,
    *,
    split_name: str,
    views: int = 1,
    precision: Precision = "fp32",
    image_size: int | None = None,
) -> Evaluation:
    """Classify every image of the split; the options are those of `class_probabilities`."""
    probabilities_NK = class_probabilities(model, split.images_NCHW, hardware, views, image_size, precision)
    return Evaluation(probabilities_NK, split.labels_N, class_names, split_name, views, precision, files=split.files)


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
    the same weights give the same figures on machines with and without bf16. The softmax is always in fp32. The
    modes of the model's modules are restored.
    """
    hardware, image_size = replace(hardware, precision=precision), image_size or model.spec.image_size
    with evaluation_mode(model):
        parts = [
            _batch_probabilities(model, batch_BCHW, hardware, views, image_size)
            for batch_BCHW in torch.split(images_NCHW, EVALUATION_BATCH)
        ]
    return torch.cat(parts)


def _batch_probabilities(model: ResNet, images_BCHW: Tensor, hardware: Hardware, views: int, image_size: int) -> Tensor:
    at_size = resize(images_BCHW.to(hardware.device), image_size)
    x_BCHW = to_float(at_size, hardware.memory_format)
    probabilities_BK = torch.zeros((), device=hardware.device)
    for view_BCHW, weight in _views(x_BCHW, views):
        with hardware.autocast():
            logits_BK = model(view_BCHW)
        probabilities_BK = probabilities_BK + weight * logits_BK.float().softmax(1)
    return probabilities_BK.cpu()


def _views(x_BCHW: Tensor, views: int) -> list[tuple[Tensor, float]]:
    """The views with their weights: the image; also its mirror image; or both and their diagonally shifted copies.

    Source: Jordan 2024 (arXiv:2404.00498), section 3.5.
    """
    assert views in NUMS_OF_VIEWS
    if views == 1:
        return [(x_BCHW, 1.0)]
    flipped_BCHW = x_BCHW.flip(3)
    if views == 2:
        return [(x_BCHW, 0.5), (flipped_BCHW, 0.5)]
    shifted: list[tuple[Tensor, float]] = []
    size, reach = x_BCHW.shape[-1], VIEW_SHIFT_PX
    for start in (0, 2 * reach):
        for view in (x_BCHW, flipped_BCHW):
            padded = F.pad(view, (reach, reach, reach, reach), mode="reflect")
            shifted.append((padded[:, :, start : start + size, start : start + size], 0.125))
    return [(x_BCHW, 0.25), (flipped_BCHW, 0.25), *shifted]
