"""Exact numbers of parameters and multiply-adds of a network, without building it.

Counting rule: every weight and bias counts, trained or frozen; BatchNorm's running statistics and other
buffers do not. A multiply-add (MAC) is one product of a convolution or linear layer, squeeze-and-excitation
included, for one image; biases, normalisation, activations and pooling are not counted. 1 MAC = 2 FLOP.
"""

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, assert_never

from pocket_resnet.errors import UsageError

if TYPE_CHECKING:
    from pocket_resnet.model.spec import NetworkSpec

IMAGE_CHANNELS = 3
FP32_BYTES = 4
FLOP_UNITS = {1e15: "PFLOP", 1e12: "TFLOP", 1e9: "GFLOP"}


def operations(flops: float) -> str:
    """`3.41 GFLOP`, `236 TFLOP` or `105 PFLOP`: three digits and the largest unit of which there is at least one."""
    size = next((size for size in FLOP_UNITS if flops >= 0.9995 * size), min(FLOP_UNITS))
    return f"{float(f'{flops / size:.3g}'):,g} {FLOP_UNITS[size]}"


class Layer(NamedTuple):
    """One layer with weights; `name` is its name in the built network.

    `out_shape` is channels, height, width. `num_live_values` is the number of values in memory while it runs on one
    image: its input, its output, and values that a shortcut or gate still needs; norm and activation work in place.
    """

    name: str
    kind: Literal["conv", "norm", "linear"]
    out_shape: tuple[int, int, int]
    num_params: int
    num_macs: int
    num_live_values: int


def num_params(spec: "NetworkSpec") -> int:
    """Exact number of weights and biases, trained or frozen."""
    return sum(layer.num_params for layer in layers(spec))


def num_macs(spec: "NetworkSpec", image_size: int | None = None) -> int:
    """Exact number of multiply-adds for one image of `image_size` pixels (default: the spec's)."""
    return sum(layer.num_macs for layer in layers(spec, image_size))


def peak_activation_values(spec: "NetworkSpec", image_size: int | None = None) -> int:
    """Maximum number of values in memory in inference on one image: the largest `num_live_values` of any layer."""
    return max(layer.num_live_values for layer in layers(spec, image_size))


def layers(spec: "NetworkSpec", image_size: int | None = None) -> list[Layer]:
    """Every layer with weights, from image to logits. Raises UsageError if the image becomes too small."""
    return _walked(spec, image_size).layers


def part_shapes(spec: "NetworkSpec", image_size: int | None = None) -> list[tuple[int, int, int]]:
    """The output shapes of stem, each stage and head: channels, height, width."""
    return _walked(spec, image_size).part_shapes


def _walked(spec: "NetworkSpec", image_size: int | None) -> "_Walk":
    walk = _Walk(spec, spec.image_size if image_size is None else image_size)
    walk.stem()
    walk.part_shapes.append(walk.shape)
    for stage in range(len(spec.widths)):
        walk.stage(stage)
        walk.part_shapes.append(walk.shape)
    walk.head()
    walk.part_shapes.append(walk.layers[-1].out_shape)
    return walk


class Conv(NamedTuple):
    """A convolution of a residual branch; `channels` are its output channels."""

    channels: int
    kernel_size: int
    stride: int = 1
    groups: int = 1


def branch_convs(spec: "NetworkSpec", stage: int, stride: int) -> list[Conv]:
    """The convolutions of one residual branch.

    In a bottleneck, the k x k convolution has the stride: the first 1 x 1 would skip three of four pixels.
    """
    width, kernel_size, groups = spec.widths[stage], spec.kernel_sizes[stage], spec.groups
    first = Conv(width, kernel_size, stride, groups)
    if spec.block == "single":
        return [first]
    if spec.block == "basic":
        return [first, Conv(width, kernel_size, 1, groups)]
    if spec.block == "bottleneck":
        return [Conv(width, 1), first, Conv(spec.stage_channels[stage], 1)]
    assert_never(spec.block)


class _Walk:
    """Follows one image through the network: `shape` is its current shape; layers and parts are those so far."""

    def __init__(self, spec: "NetworkSpec", size: int) -> None:
        self.spec = spec
        self.shape = (IMAGE_CHANNELS, size, size)
        self.layers: list[Layer] = []
        self.part_shapes: list[tuple[int, int, int]] = []

    def stem(self) -> None:
        spec, whitening = self.spec, self.spec.stem == "whitening"
        self._conv("stem.conv", Conv(spec.stem_channels, spec.stem_kernel_size), whitening=whitening)
        if not whitening and not spec.preactivation:
            self._norm("stem.norm")
        if spec.squeeze_excite == "stem":
            self._squeeze_excite("stem.squeeze_excite")

    def stage(self, stage: int) -> None:
        spec, name = self.spec, f"stages.{stage}"
        if spec.downsample != "stride":
            conv = Conv(spec.stage_channels[stage], spec.kernel_sizes[stage], spec.entry_stride(stage))
            self._conv(f"{name}.entry.conv", conv)
            if conv.stride == 1:
                self._resize(f"{name}.entry", self.shape[0], self.shape[1] // 2)
            self._norm(f"{name}.entry.norm")
        for index in range(spec.num_blocks[stage]):
            halve = spec.downsample == "stride" and stage > 0 and index == 0
            self._block(f"{name}.blocks.{index}", stage, stride=2 if halve else 1)

    def head(self) -> None:
        if self.spec.preactivation:
            self._norm("norm")
        inputs, outputs = self.shape[0], self.spec.num_classes
        weights, biases = inputs * outputs, outputs if self.spec.head_bias else 0
        self.layers.append(Layer("head", "linear", (outputs, 1, 1), weights + biases, weights, inputs + outputs))

    def _block(self, name: str, stage: int, stride: int) -> None:
        spec, entering, channels = self.spec, self.shape, self.spec.stage_channels[stage]
        changes = stride > 1 or entering[0] != channels
        projects = changes and spec.shortcut == "projection"
        if changes and not projects and entering[0] > channels:
            what = f"{name} narrows {entering[0]} channels to {channels}, which an identity shortcut cannot"
            hint = 'use widths that grow from the stem on, or set shortcut to "projection"'
            raise UsageError(what, where="widths", hint=hint)
        for index, conv in enumerate(branch_convs(spec, stage, stride)):
            # The first convolution and the shortcut read the same values, unless a norm comes between.
            shared = index == 0 and (not spec.preactivation or projects)
            if spec.preactivation:
                self._norm(f"{name}.norms.{index}")
            self._conv(f"{name}.convs.{index}", conv, kept=0 if shared else math.prod(entering))
            if not spec.preactivation:
                self._norm(f"{name}.norms.{index}")
        if spec.squeeze_excite == "block":
            self._squeeze_excite(f"{name}.squeeze_excite", kept=math.prod(entering))
        if projects:
            kept, self.shape = math.prod(self.shape), entering
            conv = Conv(channels, spec.shortcut_kernel_sizes[stage], stride)
            self._conv(f"{name}.shortcut.conv", conv, kept=kept)
            if not spec.preactivation:
                self._norm(f"{name}.shortcut.norm")

    def _conv(self, name: str, conv: Conv, *, kept: int = 0, whitening: bool = False) -> None:
        entering, (channels, kernel_size, stride, groups) = self.shape, conv
        if entering[0] % groups or channels % groups:
            error = f"{groups} does not divide the {entering[0]} -> {channels} channels of {name}"
            raise UsageError(error, where="groups", hint="choose a divisor of both, or 1")
        padding = 0 if whitening else kernel_size // 2
        self._resize(name, channels, (entering[1] + 2 * padding - kernel_size) // stride + 1)
        weights = channels * (entering[0] // groups) * kernel_size**2
        biases = 0 if whitening or self.spec.batch_norm else channels
        num_macs = weights * self.shape[1] * self.shape[2]
        live = math.prod(entering) + math.prod(self.shape) + kept
        self.layers.append(Layer(name, "conv", self.shape, weights + biases, num_macs, live))

    def _norm(self, name: str) -> None:
        if self.spec.batch_norm:
            self.layers.append(Layer(name, "norm", self.shape, 2 * self.shape[0], 0, math.prod(self.shape)))

    def _squeeze_excite(self, name: str, kept: int = 0) -> None:
        channels = self.shape[0]
        hidden = max(1, channels // self.spec.squeeze_reduction)
        weights, live = channels * hidden, channels + hidden + math.prod(self.shape) + kept
        for part, out in (("squeeze", hidden), ("excite", channels)):
            self.layers.append(Layer(f"{name}.{part}", "conv", (out, 1, 1), weights + out, weights, live))

    def _resize(self, name: str, channels: int, size: int) -> None:
        if size < 1:
            hint = "use larger images, fewer stages or a smaller stem kernel"
            raise UsageError(f"too small: no pixels are left after {name}", where="image_size", hint=hint)
        self.shape = (channels, size, size)
