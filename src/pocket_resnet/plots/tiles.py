"""Pictures of images: with captions, as they were judged, with Grad-CAM, as training showed them.

Shapes: N images, B images a batch, K classes, C channels, H x W pixels.
"""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pocket_resnet.data.augment import Targets, resize, to_float
from pocket_resnet.data.source import Split
from pocket_resnet.device import Hardware
from pocket_resnet.inference.classifier import Classifier
from pocket_resnet.inference.evaluate import Evaluation, class_probabilities, surest_mistakes
from pocket_resnet.inference.gradcam import gradcam
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.plots.image_grids import Pixels, Tile, contact_sheet, overlaid
from pocket_resnet.plots.style import shown
from pocket_resnet.torch_settings import own_settings

LETTERS = 10  # of a class name in a caption, "automobile"
LABEL_LETTERS, CAPTION_LETTERS = 15, 17  # of a line: a label of training, any caption


def image_grid(images_NCHW: Tensor, captions: Sequence[str]) -> Figure:
    """Images, uint8 [N, 3, H, W], in rows of four, each above its caption.

    Example:

        split = pocket_resnet.open_data("digits").split("train")
        plots.image_grid(split.images_NCHW[:8], [f"a {digit}" for digit in split.labels_N[:8].tolist()])
    """
    pairs = zip(images_NCHW, captions, strict=True)
    return contact_sheet([Tile((_pixels(image_CHW),), (shown(text, CAPTION_LETTERS),)) for image_CHW, text in pairs])


def mistake_grid(evaluation: Evaluation, images_NCHW: Tensor, count: int = 8) -> Figure:
    """The `count` mistakes that the network was most confident of, with the predicted and the true class.

    The images, uint8 [N, 3, H, W], are those of the evaluated split.

    Example:

        evaluation = pocket_resnet.evaluate("runs/latest", data="digits")
        plots.mistake_grid(evaluation, pocket_resnet.open_data("digits").split("val").images_NCHW)
    """
    names = [each.name for each in evaluation.per_class]
    split = Split(images_NCHW, evaluation.labels_N)
    return contact_sheet(mistakes(split, evaluation.probabilities_NK, names, count))


@own_settings()
def gradcam_overlay(classifier: Classifier, images_NCHW: Tensor) -> Figure:
    """Each image, uint8 [N, 3, H, W], beside a grey copy: the more orange, the more the place speaks for its class.

    That is the predicted class; it stands below with its probability. Source: Selvaraju et al. 2016 (arXiv:1610.02391).

    Example:

        model = pocket_resnet.load("runs/latest")
        plots.gradcam_overlay(model, pocket_resnet.open_data("digits").split("val").images_NCHW[:8])
    """
    probabilities_NK = class_probabilities(classifier.model, images_NCHW, classifier.hardware)
    confidence_N, predicted_N = probabilities_NK.max(1)
    names = [classifier.card.class_names[k] for k in predicted_N.tolist()]
    overlays = explained(classifier.model, classifier.hardware, images_NCHW, predicted_N)
    rows = zip(images_NCHW, names, confidence_N.tolist(), overlays, strict=True)
    return contact_sheet([judged(_pixels(image), name, name, sure, overlay) for image, name, sure, overlay in rows], 2)


def explained(model: ResNet, hardware: Hardware, images_NCHW: Tensor, classes_N: Tensor) -> list[Pixels]:
    """The images at the network's size with Grad-CAM for the given classes laid over them."""
    at_size_NCHW = resize(images_NCHW.to(hardware.device), model.spec.image_size)
    maps_NHW = gradcam(model, to_float(at_size_NCHW, hardware.memory_format), classes_N.to(hardware.device))
    pairs = zip(at_size_NCHW.cpu(), maps_NHW.cpu().numpy(), strict=True)
    return [overlaid(_pixels(image_CHW), map_HW) for image_CHW, map_HW in pairs]


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
        tiles.append(judged(_pixels(split.images_NCHW[index]), predicted, true, float(confidence_N[index])))
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
        Tile((pixels_HWC.numpy(),), tuple(shown(line, LABEL_LETTERS) for line in label.split("\n")))
        for pixels_HWC, label in zip(pixels_BHWC, labels, strict=True)
    ]


def _pixels(image_CHW: Tensor) -> Pixels:
    pixels_HWC: Pixels = image_CHW.permute(1, 2, 0).numpy()
    return pixels_HWC
