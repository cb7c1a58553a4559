"""What the page about one run shows: its figures and the facts that templates/run.html.jinja puts into words.

Shapes: N validation images, M chosen images, B images, C channels, H x W pixels.
"""

from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.figure import Figure
from torch import Tensor

from pocket_resnet.data.augment import resize, to_float
from pocket_resnet.inference.gradcam import gradcam
from pocket_resnet.inference.statistics import calibration_bins
from pocket_resnet.plots import figures
from pocket_resnet.plots.figures import MOST_BARS, MOST_CLASSES_DRAWN, Curve
from pocket_resnet.plots.image_grids import Pixels, contact_sheet, overlaid
from pocket_resnet.plots.network_diagram import Part, network_diagram, parts
from pocket_resnet.plots.style import png
from pocket_resnet.plots.tiles import batch, judged
from pocket_resnet.recipe.toml import to_toml
from pocket_resnet.reporting.page import Picture
from pocket_resnet.training.saved_run import FinishedRun, command, last_epochs_first_batch

NUM_TILES, NUM_BATCH_TILES, NUM_MAPS = 12, 16, 8
MOST_PAIRS = 10


class Answer(NamedTuple):
    """What an image was taken for, what it is, and the probability of the first."""

    predicted: str
    true: str
    probability: float


class Confusion(NamedTuple):
    """How many images of a class were taken for another, and their share of the class."""

    true: str
    predicted: str
    num_images: int
    share: float


@dataclass(frozen=True)
class TrainingBatch:
    """The first images of the last epoch's first step: what their labels were, the side, the share that was trained."""

    labels: list[str]
    step: int
    size_px: int
    share: float


@dataclass(frozen=True)
class RunPage:
    """One run; `pictures` has the figures by the name of their file, in the order of the page."""

    run: FinishedRun
    command: str
    recipe: str
    mean_confidence: float
    confusions: list[Confusion]
    most_bars: int
    mistakes: list[Answer]
    doubts: list[Answer]
    explained: list[Answer]
    batch: TrainingBatch
    parts: list[Part]
    pictures: dict[str, Picture]

    @property
    def title(self) -> str:
        """What was trained."""
        return f"{self.run.recipe.name} on {self.run.source.public_name}, seed {self.run.recipe.seed}"


def run_page(run: FinishedRun) -> RunPage:
    """All that the page shows. Where there is nothing to draw, such as no mistake, the figure is left out."""
    mistakes_M, doubts_M = run.surest_mistakes(NUM_TILES), run.doubtful_hits(NUM_TILES)
    explained_M = _worth_explaining(run)
    pixels_BHWC, labels, step, share = last_epochs_first_batch(run, NUM_BATCH_TILES)
    drawn = {
        **_charts(run),
        "mistakes": _sheet(run, mistakes_M),
        "doubts": _sheet(run, doubts_M),
        "gradcam": _explanations(run, explained_M),
        "batch": contact_sheet(batch(pixels_BHWC, labels)),
        "network": network_diagram(run.recipe.model),
    }
    return RunPage(
        run=run,
        command=command(run),
        recipe=to_toml(run.recipe),
        mean_confidence=float(run.confidence_N.double().mean()),
        confusions=_confusions(run),
        most_bars=MOST_BARS,
        mistakes=_answers(run, mistakes_M),
        doubts=_answers(run, doubts_M),
        explained=_answers(run, explained_M),
        batch=TrainingBatch(labels, step, pixels_BHWC.shape[1], share),
        parts=parts(run.recipe.model),
        pictures={name: Picture(png(figure)) for name, figure in drawn.items() if figure is not None},
    )


def _charts(run: FinishedRun) -> dict[str, Figure | None]:
    found = run.evaluation
    few_classes = len(found.per_class) <= MOST_CLASSES_DRAWN
    return {
        "learning": figures.learning_curves([Curve(run.name, (run.metrics,))]) if run.metrics else None,
        "reliability": figures.reliability_diagram(calibration_bins(run.confidence_N, run.hit_N), found.ece),
        "confusion": figures.confusion_matrix(found) if few_classes else None,
        "classes": figures.class_accuracies(found.per_class, found.accuracy),
    }


def _confusions(run: FinishedRun) -> list[Confusion]:
    """The most frequent mistakes."""
    classes = run.evaluation.per_class
    found = [
        Confusion(classes[true].name, classes[predicted].name, count, count / classes[true].num_images)
        for true, row in enumerate(run.evaluation.confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    return sorted(found, key=lambda pair: -pair.num_images)[:MOST_PAIRS]


def _worth_explaining(run: FinishedRun) -> Tensor:
    """The surest mistakes, and the first hit of as many classes as there is room for."""
    mistakes = run.surest_mistakes(NUM_MAPS // 2).tolist()
    first_hits: dict[int, int] = {}
    for index in run.hit_N.nonzero().flatten().tolist():
        first_hits.setdefault(int(run.val.labels_N[index]), index)
    hits = [first_hits[label] for label in sorted(first_hits)]
    return run.val.labels_N.new_tensor(mistakes + hits[: NUM_MAPS - len(mistakes)])


def _explanations(run: FinishedRun, chosen_M: Tensor) -> Figure:
    """Each image beside its Grad-CAM for the predicted class."""
    at_size_BCHW = resize(run.val.images_NCHW[chosen_M].to(run.hardware.device), run.model.spec.image_size)
    x_BCHW = to_float(at_size_BCHW, run.hardware.memory_format)
    maps_BHW = gradcam(run.model, x_BCHW, run.predicted_N[chosen_M].to(run.hardware.device)).cpu().numpy()
    pixels_BHWC = at_size_BCHW.permute(0, 2, 3, 1).cpu().numpy()
    overlays = [overlaid(pixels_HWC, map_HW) for pixels_HWC, map_HW in zip(pixels_BHWC, maps_BHW, strict=True)]
    sheet = _sheet(run, chosen_M, overlays, columns=2)
    assert sheet is not None  # every image is either a hit or a mistake
    return sheet


def _sheet(run: FinishedRun, chosen_M: Tensor, beside: list[Pixels] | None = None, columns: int = 4) -> Figure | None:
    """The chosen images as they were judged, each with the one `beside` it; None without images."""
    tiles = []
    for position, (index, answer) in enumerate(zip(chosen_M.tolist(), _answers(run, chosen_M), strict=True)):
        pixels_HWC = run.val.images_NCHW[index].permute(1, 2, 0).numpy()
        tiles.append(judged(pixels_HWC, *answer, *([beside[position]] if beside else [])))
    return contact_sheet(tiles, columns) if tiles else None


def _answers(run: FinishedRun, chosen_M: Tensor) -> list[Answer]:
    names = run.card.class_names
    numbers = zip(run.predicted_N[chosen_M], run.val.labels_N[chosen_M], run.confidence_N[chosen_M], strict=True)
    return [Answer(names[int(predicted)], names[int(true)], float(sure)) for predicted, true, sure in numbers]
