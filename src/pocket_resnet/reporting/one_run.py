"""The figures and facts of the report on one run; templates/run.html.jinja has the words.

Shapes: N validation images, M chosen images, B images, C channels, H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from torch import Tensor

from pocket_resnet.inference.evaluation import Evaluation, ImageOutcome
from pocket_resnet.plots import figures
from pocket_resnet.plots.figures import MAX_BARS, MAX_CLASSES_DRAWN
from pocket_resnet.plots.image_grids import Pixels, batch, contact_sheet, gradcam_overlays, predictions
from pocket_resnet.plots.learning_curves import learning_curves
from pocket_resnet.plots.network_diagram import Part, network_diagram, parts
from pocket_resnet.plots.style import png
from pocket_resnet.recipe.toml import to_toml
from pocket_resnet.reporting.page import Picture
from pocket_resnet.training.saved_run import FinishedRun, command, last_epochs_first_batch

NUM_IMAGES, NUM_BATCH_IMAGES, NUM_MAPS = 12, 16, 8
MIN_CALIBRATED = 200  # fewer images leave most of the 15 bins nearly empty


@dataclass(frozen=True)
class TrainingBatch:
    """The first images of the last epoch's first step: labels, step, image size, share of the images trained on."""

    labels: list[str]
    step: int
    size_px: int
    share: float


@dataclass(frozen=True)
class RunPage:
    """The report on one run; `pictures` maps file names to figures, in the order of the page."""

    run: FinishedRun
    command: str
    recipe: str
    mean_confidence: float
    most_bars: int
    mistakes: list[ImageOutcome]
    doubts: list[ImageOutcome]
    explained: list[ImageOutcome]
    batch: TrainingBatch
    parts: list[Part]
    pictures: dict[str, Picture]

    @property
    def title(self) -> str:
        """Recipe, data set and seed."""
        return f"{self.run.recipe.name} on {self.run.source.public_name}, seed {self.run.recipe.seed}"


def run_page(run: FinishedRun) -> RunPage:
    """The content of the page. A figure without content, such as mistakes when there are none, is left out."""
    evaluation, images_NCHW = run.evaluation, run.val.images_NCHW
    mistakes_M, doubts_M = evaluation.surest_mistakes(NUM_IMAGES), evaluation.doubtful_hits(NUM_IMAGES)
    explained_M = _worth_explaining(evaluation)
    classes_M = evaluation.predicted_N[explained_M]
    overlays = gradcam_overlays(run.model, run.hardware, images_NCHW[explained_M], classes_M)
    pixels_BHWC, labels, step, share = last_epochs_first_batch(run, NUM_BATCH_IMAGES)
    drawn = {
        **_charts(run),
        "mistakes": _sheet(run, mistakes_M),
        "doubts": _sheet(run, doubts_M),
        "gradcam": _sheet(run, explained_M, overlays, columns=2),
        "batch": contact_sheet(batch(pixels_BHWC, labels)),
        "network": network_diagram(run.recipe.model),
    }
    return RunPage(
        run=run,
        command=command(run),
        recipe=to_toml(run.recipe),
        mean_confidence=float(evaluation.confidence_N.double().mean()),
        most_bars=MAX_BARS,
        mistakes=evaluation.outcomes(mistakes_M),
        doubts=evaluation.outcomes(doubts_M),
        explained=evaluation.outcomes(explained_M),
        batch=TrainingBatch(labels, step, pixels_BHWC.shape[1], share),
        parts=parts(run.recipe.model),
        pictures={name: Picture(png(figure)) for name, figure in drawn.items() if figure is not None},
    )


def _charts(run: FinishedRun) -> dict[str, Figure | None]:
    evaluation = run.evaluation
    few_classes = len(evaluation.per_class) <= MAX_CLASSES_DRAWN
    few_images = evaluation.num_images < MIN_CALIBRATED
    return {
        "learning": learning_curves({run.name: [run.metrics]}, wide=few_images) if run.metrics else None,
        "reliability": None if few_images else figures.reliability_diagram(evaluation),
        "confusion": figures.confusion_matrix(evaluation) if few_classes else None,
        "classes": figures.class_accuracies(evaluation),
    }


def _worth_explaining(evaluation: Evaluation) -> Tensor:
    """The most confident mistakes, and the first correct image of as many classes as fit."""
    mistakes = evaluation.surest_mistakes(NUM_MAPS // 2).tolist()
    first_hits: dict[int, int] = {}
    for index in evaluation.hit_N.nonzero().flatten().tolist():
        first_hits.setdefault(int(evaluation.labels_N[index]), index)
    hits = [first_hits[label] for label in sorted(first_hits)]
    return evaluation.labels_N.new_tensor(mistakes + hits[: NUM_MAPS - len(mistakes)])


def _sheet(run: FinishedRun, chosen_M: Tensor, beside: Sequence[Pixels] = (), columns: int = 4) -> Figure | None:
    """The chosen images with their predictions, each with the image `beside` it; None without images."""
    cells = predictions(run.evaluation, run.val.images_NCHW, chosen_M, beside)
    return contact_sheet(cells, columns) if cells else None
