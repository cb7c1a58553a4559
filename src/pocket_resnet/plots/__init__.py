"""Figures for programs and notebooks: `from pocket_resnet import plots`.

Each function returns a matplotlib Figure: a notebook shows it, `figure.savefig("name.png")` writes it. Matplotlib's
settings stay as they are.
"""

from pocket_resnet.plots.figures import (
    accuracy_latency,
    class_accuracies,
    confused_pairs,
    confusion_matrix,
    reliability_diagram,
)
from pocket_resnet.plots.image_grids import gradcam_overlay, image_grid, mistake_grid
from pocket_resnet.plots.learning_curves import learning_curves
from pocket_resnet.plots.network_diagram import network_diagram

__all__ = [
    "accuracy_latency",
    "class_accuracies",
    "confused_pairs",
    "confusion_matrix",
    "gradcam_overlay",
    "image_grid",
    "learning_curves",
    "mistake_grid",
    "network_diagram",
    "reliability_diagram",
]
