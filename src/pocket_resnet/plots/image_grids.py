"""Grids of images: with captions, with predictions, with Grad-CAM, as augmented for training.

The public functions come first, then the grid's cells and the drawing.

Shapes: N images, B images per batch, K classes, C channels, H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from numpy.typing import NDArray
from torch import Tensor

from pocket_resnet.data.augment import Targets, resize, to_float
from pocket_resnet.device import Hardware
from pocket_resnet.inference.classifier import Classifier
from pocket_resnet.inference.evaluate import class_probabilities
from pocket_resnet.inference.evaluation import Evaluation
from pocket_resnet.inference.gradcam import gradcam
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.plots.style import DPI, FONT, LIMIT, PUBLISHED, fit_text, new_figure, style
from pocket_resnet.torch_settings import own_settings

WIDTH_IN, CAPTION = 5.0, 9.2  # text in points
MAX_LETTERS = 100  # per line of a caption
MARGIN_IN, GAP_IN, LINE_IN, SEAM_PX = 0.03, 0.1, 0.18, 4
GLOW, OVERLAY = "#FF7F00", 0.75  # the colour of Grad-CAM, and its opacity where the map is 1

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Cell:
    """Images side by side above a title, which is coloured if `marked`, and grey notes; each may take two lines."""

    images: tuple[Pixels, ...]
    title: str
    notes: tuple[str, ...] = ()
    marked: bool = False

    def lines(self, width_px: float) -> list[tuple[str, str]]:
        """Each line of the caption with its colour."""
        color = LIMIT if self.marked else "black"
        texts = [(self.title, color), *((note, PUBLISHED) for note in self.notes)]
        return [(line, ink) for text, ink in texts for line in _wrapped(text, width_px)]


def image_grid(images_NCHW: Tensor, captions: Sequence[str]) -> Figure:
    """Images, uint8 [N, 3, H, W], in rows of four, each with its caption below.

    Example:

        split = pocket_resnet.open_data("digits").split("train")
        plots.image_grid(split.images_NCHW[:8], [f"a {digit}" for digit in split.labels_N[:8].tolist()])
    """
    pairs = zip(images_NCHW, captions, strict=True)
    return contact_sheet([Cell((_pixels(image_CHW),), text) for image_CHW, text in pairs])


def mistake_grid(evaluation: Evaluation, images_NCHW: Tensor, count: int = 8) -> Figure:
    """The `count` most confident mistakes, with the predicted and the true class, and the file if the image has one.

    `images_NCHW`, uint8 [N, 3, H, W], are the images of the evaluated split.

    Example:

        evaluation = pocket_resnet.evaluate("runs/latest", data="digits")
        plots.mistake_grid(evaluation, pocket_resnet.open_data("digits").split("val").images_NCHW)
    """
    return contact_sheet(mistakes(evaluation, images_NCHW, count))


@own_settings()
def gradcam_overlay(classifier: Classifier, images_NCHW: Tensor) -> Figure:
    """Grad-CAM: each image, uint8 [N, 3, H, W], next to a grey copy that shows in orange what supports the prediction.

    The caption is the predicted class with its probability. Source: Selvaraju et al. 2016 (arXiv:1610.02391).

    Example:

        model = pocket_resnet.load("runs/latest")
        plots.gradcam_overlay(model, pocket_resnet.open_data("digits").split("val").images_NCHW[:8])
    """
    probabilities_NK = class_probabilities(classifier.model, images_NCHW, classifier.hardware)
    predicted_N = probabilities_NK.argmax(1)
    overlays = gradcam_overlays(classifier.model, classifier.hardware, images_NCHW, predicted_N)
    as_if_true = Evaluation(probabilities_NK, predicted_N, classifier.card.class_names, "none")
    return contact_sheet(predictions(as_if_true, images_NCHW, torch.arange(len(predicted_N)), overlays), columns=2)


def gradcam_overlays(model: ResNet, hardware: Hardware, images_NCHW: Tensor, classes_N: Tensor) -> list[Pixels]:
    """The images at the network's size, overlaid with Grad-CAM for the given classes."""
    at_size_NCHW = resize(images_NCHW.to(hardware.device), model.spec.image_size)
    maps_NHW = gradcam(model, to_float(at_size_NCHW, hardware.memory_format), classes_N.to(hardware.device))
    pairs = zip(at_size_NCHW.cpu(), maps_NHW.cpu().numpy(), strict=True)
    return [overlaid(_pixels(image_CHW), map_HW) for image_CHW, map_HW in pairs]


def predictions(
    evaluation: Evaluation, images_NCHW: Tensor, chosen_M: Tensor, beside: Sequence[Pixels] = ()
) -> list[Cell]:
    """The chosen ones of the evaluated images, each with the image `beside` it.

    The caption has the predicted class and, if that is wrong, the true class, and the file's name if there is one.
    """
    cells = []
    for position, outcome in enumerate(evaluation.outcomes(chosen_M)):
        is_wrong = outcome.predicted != outcome.true
        images = (_pixels(images_NCHW[chosen_M[position]]), *beside[position : position + 1])
        notes = [f"is {outcome.true}"] if is_wrong else []
        notes += [PurePosixPath(outcome.image).name] if evaluation.files else []
        cells.append(Cell(images, f"{outcome.predicted}, {outcome.probability:.0%}", tuple(notes), marked=is_wrong))
    return cells


def mistakes(evaluation: Evaluation, images_NCHW: Tensor, count: int) -> list[Cell]:
    """The misclassified ones of the evaluated images, most confident first."""
    return predictions(evaluation, images_NCHW, evaluation.surest_mistakes(count))


def as_shown(x_BCHW: Tensor, targets: Targets, class_names: Sequence[str]) -> tuple[Tensor, list[str]]:
    """A training batch as uint8 [B, H, W, 3] with its labels, which have two lines if two images are mixed."""
    pixels_BHWC = (x_BCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
    share, labels = targets.label_weight, []
    for one, other in zip(targets.labels_B.tolist(), targets.others_B.tolist(), strict=True):
        both = f"{class_names[one]} {share:.0%}\n{class_names[other]} {1 - share:.0%}"
        labels.append(class_names[one] if share == 1 or one == other else both)
    return pixels_BHWC, labels


def batch(pixels_BHWC: Tensor, labels: Sequence[str]) -> list[Cell]:
    """The cells for the result of `as_shown`."""
    cells = []
    for pixels_HWC, label in zip(pixels_BHWC, labels, strict=True):
        title, *notes = label.split("\n")
        cells.append(Cell((pixels_HWC.numpy(),), title, tuple(notes)))
    return cells


def _pixels(image_CHW: Tensor) -> Pixels:
    pixels_HWC: Pixels = image_CHW.permute(1, 2, 0).numpy()
    return pixels_HWC


@style()
def contact_sheet(cells: Sequence[Cell], columns: int = 4) -> Figure:
    """The cells in rows, each image as wide as fits, with square pixels. Without cells, the figure is white."""
    cell_px = round((WIDTH_IN - 2 * MARGIN_IN - GAP_IN * (columns - 1)) / columns * DPI)
    captions = [cell.lines(cell_px) for cell in cells]
    num_lines = max(map(len, captions), default=0)
    num_images = len(cells[0].images) if cells else 1
    image_px = (cell_px - SEAM_PX * (num_images - 1)) // num_images
    row_px = image_px + round((num_lines * LINE_IN + 2 * GAP_IN) * DPI)
    margin_px, step_px = round(MARGIN_IN * DPI), cell_px + round(GAP_IN * DPI)
    width_px, height_px = round(WIDTH_IN * DPI), row_px * max(1, -(-len(cells) // columns))
    sheet_HWC = np.full((height_px, width_px, 3), 255, np.uint8)
    drawn = new_figure(WIDTH_IN, height_px / DPI)
    for number, (cell, lines) in enumerate(zip(cells, captions, strict=True)):
        row, column = divmod(number, columns)
        left_px, top_px = margin_px + column * step_px, margin_px + row * row_px
        for index, pixels_HWC in enumerate(cell.images):
            start_px = left_px + index * (image_px + SEAM_PX)
            sheet_HWC[top_px : top_px + image_px, start_px : start_px + image_px] = _enlarged(pixels_HWC, image_px)
        for index, (line, color) in enumerate(lines):
            y_px = top_px + image_px + round((0.04 + index * LINE_IN) * DPI)
            place = (left_px / width_px, 1 - y_px / height_px)
            drawn.text(*place, line, va="top", fontsize=CAPTION, color=color)
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.imshow(sheet_HWC, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return drawn


def _wrapped(text: str, width_px: float) -> list[str]:
    """The text in one or two lines of this width; of longer text, the start and the end."""
    text, lengths = " ".join(text.split()), range(MAX_LETTERS, 0, -1)
    first = next((text[:length] for length in lengths if _fits(text[:length], width_px)), text[:1])
    words = first.rpartition(" ")[0] or first
    if first == text:
        lines = [text]
    elif _fits(rest := text[len(words) :].strip(), width_px):
        lines = [words, rest]
    else:
        ends = ("…" + text[-length:] for length in lengths)
        lines = [first, next((end for end in ends if _fits(end, width_px)), "…")]
    return [fit_text(line, len(line)) for line in lines]


def _fits(text: str, width_px: float) -> bool:
    return len(text) <= MAX_LETTERS and sum(map(_width_px, fit_text(text, len(text)))) <= width_px


@cache
def _width_px(letter: str) -> float:
    font = get_font(findfont(FONT))
    font.set_size(CAPTION, DPI)
    if not font.get_char_index(ord(letter)):
        return 1.15 * CAPTION / 72 * DPI  # of the box that matplotlib draws instead
    return float(font.load_char(ord(letter)).horiAdvance / 64)


def _enlarged(pixels_HWC: Pixels, image_px: int) -> Pixels:
    """The image enlarged to that many pixels per side by repeating pixels."""
    rows, columns = (np.arange(image_px) * size // image_px for size in pixels_HWC.shape[:2])
    large_HWC: Pixels = pixels_HWC[rows][:, columns]
    return large_HWC


def overlaid(pixels_HWC: Pixels, map_HW: NDArray[np.float32]) -> Pixels:
    """The image in grey, coloured orange in proportion to the map."""
    grey_HW1 = pixels_HWC.mean(axis=2, keepdims=True) / 255
    share_HW1 = OVERLAY * map_HW[..., None]
    mixed_HWC: NDArray[np.float64] = (1 - share_HW1) * grey_HW1 + share_HW1 * np.array(to_rgb(GLOW))
    return (255 * mixed_HWC).round().astype(np.uint8)
