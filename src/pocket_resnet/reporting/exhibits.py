"""The sections of a report that show images: mistakes and doubts, Grad-CAM, what the network was shown in training.

Shapes: M chosen images, B images, C channels, H x W pixels.
"""

from torch import Tensor

from pocket_resnet.data.augment import resize, to_float
from pocket_resnet.inference.gradcam import gradcam
from pocket_resnet.plots.image_grids import Pixels, Tile, contact_sheet, overlaid
from pocket_resnet.plots.style import png
from pocket_resnet.plots.tiles import batch, judged
from pocket_resnet.reporting.page import Album, Html, Picture, section
from pocket_resnet.training.saved_run import FinishedRun, last_epochs_first_batch

NUM_TILES, NUM_BATCH_TILES, NUM_MAPS = 12, 16, 8


def examples(run: FinishedRun, album: Album) -> Html:
    """The most confident mistakes and the least confident hits."""
    mistakes_M, hits_M = run.surest_mistakes(NUM_TILES), run.doubtful_hits(NUM_TILES)
    kinds = (
        (
            "mistakes",
            mistakes_M,
            "The most confident mistakes: what each was taken for, with which probability, and is.",
        ),
        ("doubts", hits_M, "The least confident hits: the right class with its probability."),
    )
    pictures = [
        Picture(
            name, png(contact_sheet([_tile(run, index) for index in chosen_M.tolist()])), _told(run, chosen_M), says
        )
        for name, chosen_M, says in kinds
        if len(chosen_M)
    ]
    lead = "Validation images." + ("" if len(mistakes_M) else " Not one was classified wrong.")
    return section("Sure and wrong, right but unsure", lead, album.show(*pictures))


def attention(run: FinishedRun, album: Album) -> Html:
    """Grad-CAM on the surest mistakes, and on the first hit of as many classes as there is room for."""
    mistakes = run.surest_mistakes(NUM_MAPS // 2).tolist()
    first_hits: dict[int, int] = {}
    for index in run.hit_N.nonzero().flatten().tolist():
        first_hits.setdefault(int(run.val.labels_N[index]), index)
    hits = [first_hits[label] for label in sorted(first_hits)]
    chosen = mistakes + hits[: NUM_MAPS - len(mistakes)]
    at_size_BCHW = resize(run.val.images_NCHW[chosen].to(run.hardware.device), run.model.spec.image_size)
    x_BCHW = to_float(at_size_BCHW, run.hardware.memory_format)
    maps_BHW = gradcam(run.model, x_BCHW, run.predicted_N[chosen].to(run.hardware.device)).cpu().numpy()
    pixels_BHWC = at_size_BCHW.permute(0, 2, 3, 1).cpu().numpy()
    overlays = [overlaid(pixels_HWC, map_HW) for pixels_HWC, map_HW in zip(pixels_BHWC, maps_BHW, strict=True)]
    tiles = [_tile(run, index, overlay) for index, overlay in zip(chosen, overlays, strict=True)]
    caption = "Each image, and in grey the same: the more orange, the more the place speaks for the predicted class."
    told = "Grad-CAM of " + _told(run, run.val.labels_N.new_tensor(chosen))
    picture = Picture("gradcam", png(contact_sheet(tiles, columns=2)), told, caption)
    lead = (
        "Grad-CAM (Selvaraju et al. 2016) on the last stage's output, for the most confident mistakes and the first "
        "hit of some classes."
    )
    return section("Grad-CAM", lead, album.show(picture))


def training_images(run: FinishedRun, album: Album) -> Html:
    """Images of the first step of the last epoch, augmented."""
    pixels_BHWC, labels, step, share = last_epochs_first_batch(run, NUM_BATCH_TILES)
    side, told = pixels_BHWC.shape[1], "; ".join(label.replace("\n", " and ") for label in labels)
    caption = f"The first {len(labels)} images of step {step + 1:,}, at {side} × {side} pixels."
    sheet = png(contact_sheet(batch(pixels_BHWC, labels)))
    chosen = "" if share == 1 else f" From these and others the hardest {share:.0%} were chosen."
    by_visit = run.recipe.hardest < 1 and run.recipe.augment.flip == "alternating"
    turned = " Here they are mirrored by epoch, there they were by visit." if by_visit else ""
    lead = f"What came up in the first step of its last epoch, augmented as the recipe says.{chosen}{turned}"
    return section("Training images", lead, album.show(Picture("batch", sheet, told, caption)))


def _names(run: FinishedRun, index: int) -> tuple[str, str, float]:
    """What the image was taken for, what it is, and the probability of the first."""
    names = run.card.class_names
    predicted, true = names[int(run.predicted_N[index])], names[int(run.val.labels_N[index])]
    return predicted, true, float(run.confidence_N[index])


def _tile(run: FinishedRun, index: int, *more: Pixels) -> Tile:
    return judged(run.val.images_NCHW[index].permute(1, 2, 0).numpy(), *_names(run, index), *more)


def _told(run: FinishedRun, chosen_M: Tensor) -> str:
    """The images in words, for who cannot see them."""
    told = []
    for index in chosen_M.tolist():
        predicted, true, probability = _names(run, index)
        told.append(f"{predicted}, {probability:.1%}" + ("" if run.hit_N[index] else f" (is {true})"))
    return "; ".join(told)
