"""Figures for programs and notebooks: `from pocket_resnet import plots`.

Each function returns a matplotlib Figure: a notebook shows it, `figure.savefig("name.png")` writes it. Matplotlib's
settings stay as they are.
"""

from pocket_resnet.plots.diagram import network_diagram
from pocket_resnet.plots.figures import (
    class_accuracies,
    confused_pairs,
    confusion_matrix,
    learning_curves,
    reliability_diagram,
)
from pocket_resnet.plots.tiles import gradcam_overlay, image_grid, mistake_grid

__all__ = [
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
