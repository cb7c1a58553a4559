"""The pictures of a report that show images: contact sheets, Grad-CAM.

Shapes: H x W pixels of 3 channels, uint8.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pocket_resnet.plots.style import DPI, LIMIT, PUBLISHED, canvas, style

WIDTH_IN, CAPTION = 5.0, 10.0  # text in points
MARGIN_IN, GAP_IN, LINE_IN, SEAM_PX = 0.03, 0.1, 0.18, 4
GLOW, OVERLAY = "#FF7F00", 0.75  # the colour of Grad-CAM, and its share where the map is 1

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Tile:
    """Images side by side with lines of text below; a line that is marked is set off in colour."""

    images: tuple[Pixels, ...]
    lines: tuple[str, ...]
    marked: bool = False


@style()
def contact_sheet(tiles: Sequence[Tile], columns: int = 4) -> Figure:
    """The tiles in rows, each image as wide as fits; pixels stay squares. Without tiles it is white."""
    num_lines = max((len(tile.lines) for tile in tiles), default=0)
    tile_px = round((WIDTH_IN - 2 * MARGIN_IN - GAP_IN * (columns - 1)) / columns * DPI)
    num_images = len(tiles[0].images) if tiles else 1
    side_px = (tile_px - SEAM_PX * (num_images - 1)) // num_images
    row_px = side_px + round((num_lines * LINE_IN + 2 * GAP_IN) * DPI)
    margin_px, step_px = round(MARGIN_IN * DPI), tile_px + round(GAP_IN * DPI)
    width_px, height_px = round(WIDTH_IN * DPI), row_px * max(1, -(-len(tiles) // columns))
    sheet_HWC = np.full((height_px, width_px, 3), 255, np.uint8)
    drawn = canvas(WIDTH_IN, height_px / DPI)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left_px, top_px = margin_px + column * step_px, margin_px + row * row_px
        for index, pixels_HWC in enumerate(tile.images):
            start_px = left_px + index * (side_px + SEAM_PX)
            sheet_HWC[top_px : top_px + side_px, start_px : start_px + side_px] = _enlarged(pixels_HWC, side_px)
        for index, line in enumerate(tile.lines):
            y_px = top_px + side_px + round((0.04 + index * LINE_IN) * DPI)
            color = PUBLISHED if index else LIMIT if tile.marked else "black"
            place = (left_px / width_px, 1 - y_px / height_px)
            drawn.text(*place, line, va="top", fontsize=CAPTION, color=color)
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.imshow(sheet_HWC, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return drawn


def _enlarged(pixels_HWC: Pixels, side_px: int) -> Pixels:
    """The image at that many pixels a side, by repeating its own."""
    rows, columns = (np.arange(side_px) * size // side_px for size in pixels_HWC.shape[:2])
    large_HWC: Pixels = pixels_HWC[rows][:, columns]
    return large_HWC


def overlaid(pixels_HWC: Pixels, map_HW: NDArray[np.float32]) -> Pixels:
    """The image in grey, the more orange the stronger the map."""
    grey_HW1 = pixels_HWC.mean(axis=2, keepdims=True) / 255
    share_HW1 = OVERLAY * map_HW[..., None]
    mixed_HWC: NDArray[np.float64] = (1 - share_HW1) * grey_HW1 + share_HW1 * np.array(to_rgb(GLOW))
    return (255 * mixed_HWC).round().astype(np.uint8)
