"""The style of pictures: the user's settings do not change it and stay unchanged."""

import io

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.figure import Figure
from PIL import Image

from pocket_resnet.plots.figures import run_accuracies
from pocket_resnet.plots.style import pixels, png


def drawn() -> Figure:
    return run_accuracies([("fast $x", 0.867, (0.86, 0.87)), ("best", 0.95, (0.94, 0.96))])


@pytest.mark.threat(56)
def test_settings_of_the_user_change_no_picture_and_stay() -> None:
    """Neither when a figure is made nor when it is written; LaTeX is not needed."""
    usual = png(drawn())
    theirs = {"text.usetex": True, "font.size": 40.0, "savefig.transparent": True, "figure.dpi": 30.0}
    before = {key: rcParams[key] for key in theirs}
    try:
        rcParams.update(theirs)
        unusual = png(drawn())
        assert {key: rcParams[key] for key in theirs} == theirs
    finally:
        rcParams.update(before)
    assert unusual == usual


def test_pixels_are_those_of_the_png() -> None:
    with Image.open(io.BytesIO(png(drawn()))) as image:
        assert np.array_equal(np.array(image.convert("RGB")), pixels(drawn()))
