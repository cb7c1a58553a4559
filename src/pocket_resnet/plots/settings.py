"""Matplotlib's settings: ours while we draw, the user's again afterwards."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl

# Matplotlib's own defaults but for the font and the inches around a picture, whose edge is seen on dark pages.
SETTINGS: dict[str, Any] = {
    **{key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith(("backend", "interactive"))},
    **{"font.size": 12, "font.family": "DejaVu Sans"},
    **{"figure.constrained_layout.w_pad": 0.1, "figure.constrained_layout.h_pad": 0.1},
}


settings: Any = mpl.rcParams


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Inside, pictures are drawn with our settings, whatever the user's are; afterwards those hold again.

    Every function that draws is decorated with it, as matplotlib looks at some settings when something is added to a
    figure and at others when it is rendered.
    """
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a class name in another script
        warnings.filterwarnings("ignore", category=mpl.MatplotlibDeprecationWarning)
        settings.update(SETTINGS)
        yield
