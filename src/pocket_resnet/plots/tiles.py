"""Images as tiles of a contact sheet: with their class, as they were judged, as training showed them.

Shapes: N images, B images a batch, K classes, C channels, H x W pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pocket_resnet.data.augment import Targets
from pocket_resnet.data.source import Split
from pocket_resnet.inference.evaluate import surest_mistakes
from pocket_resnet.plots.image_grids import Pixels, Tile
from pocket_resnet.plots.style import shown

LETTERS = 10  # of a class name in a caption, "automobile"


def labelled(split: Split, class_names: Sequence[str], count: int) -> list[Tile]:
    """The first images of the split, each with its class."""
    labels = split.labels_N[:count].tolist()
    return [Tile((_pixels(split, index),), (shown(class_names[k], LETTERS),)) for index, k in enumerate(labels)]


def judged(pixels_HWC: Pixels, predicted: str, true: str, probability: float, *more: Pixels) -> Tile:
    """An image with what it was taken for, and where that is wrong with what it is; `more` images stand beside it."""
    lines = [f"{shown(predicted, LETTERS)}, {probability:.0%}"]
    if predicted != true:
        lines.append(f"is {shown(true, LETTERS + 1)}")
    return Tile((pixels_HWC, *more), tuple(lines), marked=predicted != true)


def mistakes(split: Split, probabilities_NK: Tensor, class_names: Sequence[str], count: int) -> list[Tile]:
    """The images of the split that were classified wrong, most confident first."""
    confidence_N, predicted_N = probabilities_NK.max(1)
    tiles = []
    for index in surest_mistakes(probabilities_NK, split.labels_N)[:count].tolist():
        predicted, true = class_names[int(predicted_N[index])], class_names[int(split.labels_N[index])]
        tiles.append(judged(_pixels(split, index), predicted, true, float(confidence_N[index])))
    return tiles


def as_shown(x_BCHW: Tensor, targets: Targets, class_names: Sequence[str]) -> tuple[Tensor, list[str]]:
    """A batch of training as uint8 [B, H, W, 3] with its labels, of two lines where two images are mixed."""
    pixels_BHWC = (x_BCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
    share, labels = targets.share, []
    for one, other in zip(targets.labels_B.tolist(), targets.others_B.tolist(), strict=True):
        both = f"{class_names[one]} {share:.0%}\n{class_names[other]} {1 - share:.0%}"
        labels.append(class_names[one] if share == 1 or one == other else both)
    return pixels_BHWC, labels


def batch(pixels_BHWC: Tensor, labels: Sequence[str]) -> list[Tile]:
    """The tiles of what `as_shown` gives."""
    return [
        Tile((pixels_HWC.numpy(),), tuple(shown(line, LETTERS + 5) for line in label.split("\n")))
        for pixels_HWC, label in zip(pixels_BHWC, labels, strict=True)
    ]


def _pixels(split: Split, index: int) -> Pixels:
    pixels_HWC: Pixels = split.images_NCHW[index].permute(1, 2, 0).numpy()
    return pixels_HWC
