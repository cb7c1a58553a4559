"""The style of all figures: matplotlib settings, colours, and empty figures.

The colours are a grey and the Okabe-Ito palette, which colour-blind readers can tell apart.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

OURS, PUBLISHED, LIMIT, GRID = "#0072B2", "#606060", "#D55E00", "#e4e4e4"
COLORS = (OURS, LIMIT, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # without yellow, too pale for lines
DPI, FONT = 160, "DejaVu Sans"
# Matplotlib's defaults, except for the font and the padding: on dark pages, the edge of a figure is visible.
SETTINGS: Any = {
    **{key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith(("backend", "interactive"))},
    **{"font.size": 12, "font.family": FONT, "figure.labelsize": "medium"},
    **{"figure.constrained_layout.w_pad": 0.1, "figure.constrained_layout.h_pad": 0.1},
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw with the project's matplotlib settings inside the block, and restore the user's afterwards.

    Every function that draws is decorated with it, since matplotlib reads some settings when something is added to a
    figure and others when it is rendered.
    """
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a class name in another script
        warnings.filterwarnings("ignore", category=mpl.MatplotlibDeprecationWarning)
        mpl.rcParams.update(SETTINGS)
        yield


class Chart(Figure):
    """A figure independent of pyplot, so it need not be closed; a notebook shows it by itself."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return png(self), {"width": round(self.get_figwidth() * self.dpi)}


@style()
def figure(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    """An empty figure in the project's style, and its axes."""
    drawn = new_figure(width_in, height_in, layout="constrained")
    return drawn, style_axes(drawn.add_subplot())


@style()
def stack(width_in: float, heights_in: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """An empty figure in the project's style with axes one below the other, which share the horizontal axis."""
    drawn = new_figure(width_in, sum(heights_in), layout="constrained")
    axes = drawn.subplots(len(heights_in), height_ratios=list(heights_in), squeeze=False, sharex=True)
    return drawn, [style_axes(each) for each in axes[:, 0]]


@style()
def side_by_side(width_in: float, height_in: float, count: int) -> tuple[Figure, list[Axes]]:
    """An empty figure in the project's style with axes side by side."""
    drawn = new_figure(width_in, height_in, layout="constrained")
    return drawn, [style_axes(each) for each in drawn.subplots(1, count, squeeze=False)[0]]


@style()
def new_figure(width_in: float, height_in: float, layout: Literal["constrained"] | None = None) -> Figure:
    """A figure without axes, in the project's style."""
    return Chart(figsize=(width_in, height_in), layout=layout)


def style_axes(axes: Axes) -> Axes:
    """The axes with a grid in the background and without a frame."""
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


@style()
def png(drawn: Figure) -> bytes:
    """The figure as PNG, the same bytes from the same figure."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


@style()
def pixels(drawn: Figure) -> NDArray[np.uint8]:
    """The figure as RGB [H, W, 3]."""
    drawn.set_dpi(DPI)
    rendered: Any = FigureCanvasAgg(drawn)
    rendered.draw()
    pixels_HWC: NDArray[np.uint8] = np.asarray(rendered.buffer_rgba())[..., :3].copy()
    return pixels_HWC


def fit_text(text: str, most: int = 14) -> str:
    """Untrusted text for a picture: one line of at most `most` characters, without unprintable ones or formulas."""
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return (line if len(line) <= most else line[: most - 1] + "…").replace("$", r"\$")
