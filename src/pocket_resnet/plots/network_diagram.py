"""The diagram of a network, from stem to head."""

from dataclasses import dataclass
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import BoxStyle, FancyBboxPatch

from pocket_resnet.model.counts import Layer, layers, part_shapes
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.plots.style import OURS, PUBLISHED, new_figure, style

WIDTH_IN, SMALL = 5.0, 10.5  # text in points
TITLE_IN, ROW_IN, PARAMS_IN, MACS_IN = 0.35, 0.62, 2.58, 3.68


@dataclass(frozen=True)
class Part:
    """Stem, stage or head: its description, output shape [C, H, W] and costs."""

    name: str
    what: str
    out_shape: tuple[int, int, int]
    num_params: int
    num_macs: int


def parts(spec: NetworkSpec) -> list[Part]:
    """The parts of the network from stem to head. Their costs add up to those of the network."""
    network_parts = []
    for (name, group), shape in zip(groupby(layers(spec), key=_part_of), part_shapes(spec), strict=True):
        inside = list(group)
        cost = sum(layer.num_params for layer in inside), sum(layer.num_macs for layer in inside)
        network_parts.append(Part(name, _described(spec, name), shape, *cost))
    return network_parts


def _part_of(layer: Layer) -> str:
    first, *rest = layer.name.split(".")
    return f"stage {int(rest[0]) + 1}" if first == "stages" else "stem" if first == "stem" else "head"


def _described(spec: NetworkSpec, name: str) -> str:
    if name == "stem":
        kernel = f"{spec.stem_kernel_size} × {spec.stem_kernel_size}"
        gate = ", squeeze-excite" if spec.squeeze_excite == "stem" else ""
        return f"{kernel} {'whitening' if spec.stem == 'whitening' else 'convolution'}{gate}"
    if name == "head":
        return f"{'norm, ' if spec.preactivation and spec.batch_norm else ''}{spec.pool} pool, linear"
    stage = int(name.split()[1]) - 1
    entry = "halve, " if spec.downsample != "stride" or stage else ""
    size, gate = spec.kernel_sizes[stage], " + SE" if spec.squeeze_excite == "block" else ""
    num_blocks = spec.num_blocks[stage]
    kind = spec.block if spec.block == "bottleneck" else f"{spec.block} block"
    return f"{entry}{num_blocks} {kind}{'s' * (num_blocks != 1)} {size} × {size}{gate}"


@style()
def network_diagram(spec: NetworkSpec) -> Figure:
    """Boxes from image to logits with the output shape of each part, and bars for its parameters and multiply-adds.

    Example:

        design = pocket_resnet.design("1M")
        plots.network_diagram(design.spec)
    """
    rows = parts(spec)
    height_in = TITLE_IN + ROW_IN * (len(rows) + 1)
    drawn = new_figure(WIDTH_IN, height_in)
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH_IN)
    axes.set_ylim(height_in, 0)
    axes.set_axis_off()
    for left_in, title in ((PARAMS_IN, "parameters"), (MACS_IN, "multiply-adds")):
        axes.text(left_in, 0.2, title, fontsize=SMALL, weight="bold", va="center")
    size = spec.image_size
    _draw_box(axes, TITLE_IN + 0.5 * ROW_IN, "image", f"3 × {size} × {size}", "pixels", fill="#f2f2f2")
    for index, part in enumerate(rows):
        y_in = TITLE_IN + (index + 1.5) * ROW_IN
        _draw_arrow(axes, y_in - 0.5 * ROW_IN)
        out = " × ".join(map(str, part.out_shape)) if part.name != "head" else f"{part.out_shape[0]:,} classes"
        _draw_box(axes, y_in, part.name, out, part.what, fill="#e3f0f8")
        _draw_bar(axes, PARAMS_IN, y_in, part.num_params, max(row.num_params for row in rows))
        _draw_bar(axes, MACS_IN, y_in, part.num_macs, max(row.num_macs for row in rows))
    return drawn


def _draw_arrow(axes: Axes, y_in: float) -> None:
    style = {"arrowstyle": "-|>", "color": PUBLISHED, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (0.3, y_in + 0.09), (0.3, y_in - 0.09), arrowprops=style)


def _draw_box(axes: Axes, y_in: float, name: str, out: str, what: str, fill: str) -> None:
    left_in, right_in = 0.04, PARAMS_IN - 0.17
    shape = BoxStyle.Round(pad=0, rounding_size=0.06)
    corner, width_in = (left_in, y_in - 0.22), right_in - left_in
    axes.add_patch(
        FancyBboxPatch(corner, width_in, 0.44, boxstyle=shape, facecolor=fill, edgecolor=OURS, linewidth=0.8)
    )
    axes.text(left_in + 0.08, y_in - 0.09, name, fontsize=SMALL, weight="bold", va="center")
    axes.text(right_in - 0.08, y_in - 0.09, out, fontsize=SMALL, va="center", ha="right")
    axes.text(left_in + 0.08, y_in + 0.1, what, fontsize=9, va="center", color="#404040")


def _draw_bar(axes: Axes, left_in: float, y_in: float, count: int, most: int) -> None:
    axes.barh(y_in + 0.08, count / max(1, most), left=left_in, height=0.16, color=OURS)
    axes.text(left_in, y_in - 0.1, f"{count:,}", fontsize=SMALL - 0.5, va="center")
