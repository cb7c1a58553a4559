"""Places the labels of a scatter plot so that they overlap as little as possible."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from pocket_resnet.plots.style import style

LABEL_PLACES = (  # offset in points, horizontal and vertical alignment; the first are preferred
    ((8, 0), "left", "center"),
    ((-8, 0), "right", "center"),
    ((0, 7), "center", "bottom"),
    ((0, -7), "center", "top"),
    ((5, 5), "left", "bottom"),
    ((-5, 5), "right", "bottom"),
    ((5, -5), "left", "top"),
    ((-5, -5), "right", "top"),
)
LABEL_RIM = np.array([-7, -3, 7, 3])  # preferred distance in pixels from other labels
LABEL_PREFERENCE = 2  # square pixels of overlap that each less preferred place must save
LABEL_STARTS, LABEL_ROUNDS = 40, 4
MARKER_WEIGHT = 20  # a label that hides a marker is worse than one that crosses a line


@dataclass(frozen=True)
class Label:
    """A name beside a point of some axes."""

    x: float
    y: float
    text: str
    color: str
    weight: str = "normal"


@style()
def write_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write each label beside its point, with as little overlap with labels and drawn objects as possible.

    Call it last, when limits and layout are final. Shapes: L labels, P places, M marks, 4 the left, lower, right and
    upper end of a box in pixels.
    """
    if not labels:
        return
    drawn = axes.get_figure(root=True)
    assert isinstance(drawn, Figure)
    drawn.draw_without_rendering()
    marks_M4 = np.concatenate([np.zeros((1, 4)), *(_boxes(line, drawn.dpi) for line in axes.lines)])
    texts_M4 = np.array([text.get_window_extent().extents for text in axes.texts]).reshape(-1, 4)
    boxes_LP4 = np.array([[_extent(axes, label, place) for place in range(len(LABEL_PLACES))] for label in labels])
    points_L2: Any = axes.transData.transform([(label.x, label.y) for label in labels])
    own_LM: Any = ((marks_M4[:, :2] < points_L2[:, None]) & (marks_M4[:, 2:] > points_L2[:, None])).all(2)
    crowded_LP = 4 * (_shared(boxes_LP4[:, :, None] + LABEL_RIM, marks_M4) * ~own_LM[:, None]).sum(2)
    crowded_LP += _shared(boxes_LP4[:, :, None], texts_M4).sum(2)
    outside_LP = _shared(boxes_LP4, boxes_LP4) - _shared(boxes_LP4, axes.get_window_extent().extents)
    preferred_P = LABEL_PREFERENCE * np.arange(len(LABEL_PLACES))
    pairs_LPLP = _shared(boxes_LP4[:, :, None, None] + LABEL_RIM, boxes_LP4)
    for label, place in zip(labels, _arranged(crowded_LP + outside_LP + preferred_P, pairs_LPLP), strict=True):
        _write(axes, label, place)


def _arranged(costs_LP: Any, pairs_LPLP: Any) -> list[int]:
    """The place of each label, by coordinate descent from many starts on the costs of places and of pairs of places."""
    draws, rows = np.random.default_rng(0), np.arange(len(costs_LP))
    results: list[tuple[float, int, list[int]]] = []
    for start in range(LABEL_STARTS):
        chosen_L = draws.integers(costs_LP.shape[1], size=len(rows)) * (start > 0)
        for label in np.tile(rows, LABEL_ROUNDS):
            others_L = rows[rows != label]
            totals_P = costs_LP[label] + pairs_LPLP[label][:, others_L, chosen_L[others_L]].sum(1)
            chosen_L[label] = totals_P.argmin()
        shared_LL = pairs_LPLP[rows, chosen_L][:, rows, chosen_L]
        total = costs_LP[rows, chosen_L].sum() + (shared_LL.sum() - shared_LL.trace()) / 2
        results.append((float(total), start, chosen_L.tolist()))
    return min(results)[2]


def _write(axes: Axes, label: Label, place: int) -> Annotation:
    offset, horizontal, vertical = LABEL_PLACES[place]
    style: dict[str, Any] = {"ha": horizontal, "va": vertical, "color": label.color, "weight": label.weight}
    text = axes.annotate(label.text, (label.x, label.y), offset, textcoords="offset points", **style)
    text.set_in_layout(False)
    return text


def _extent(axes: Axes, label: Label, place: int) -> Any:
    text = _write(axes, label, place)
    box = text.get_window_extent()
    text.remove()
    return box.extents


def _boxes(line: Line2D, dpi: float) -> Any:
    """The area of a line in pixels: MARKER_WEIGHT boxes around each point, and one around many points between them."""
    points = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
    steps = np.linspace(0, 1, 100)[:, None]
    pairs = itertools.pairwise(points) if line.get_linestyle() != "None" else ()
    between = [start + steps * (end - start) for start, end in pairs]
    reach = line.get_markersize() / 2 * dpi / 72 if line.get_marker() != "None" else 3.0
    centres = np.concatenate([np.repeat(points, MARKER_WEIGHT, 0), *between])
    return np.concatenate([centres - reach, centres + reach], axis=1)


def _shared(boxes_4: Any, others_4: Any) -> Any:
    """Square pixels that boxes have in common, broadcast over all but the last axis."""
    size_2 = np.minimum(boxes_4[..., 2:], others_4[..., 2:]) - np.maximum(boxes_4[..., :2], others_4[..., :2])
    return size_2.clip(min=0).prod(-1)
