"""What a network is, and exactly how many parameters and multiply-adds it has, without building it.

The counting rule. Every weight and bias counts, trained or frozen; BatchNorm's running statistics and other
buffers do not. A multiply-add (MAC) is one product of a convolution or linear layer, squeeze-and-excitation
included, for one image; biases, normalisation, activations and pooling are not counted. 1 MAC = 2 FLOP.

A network that cannot be built raises UsageError, naming the field and how to mend it. Sources: block.py, resnet.py.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pocket_resnet.errors import UsageError

IMAGE_CHANNELS = 3
FP32_BYTES = 4
MAX_STAGES = 12
# Upper limits keep a hostile or mistyped file from asking for more than any machine has.
RANGES: dict[str, tuple[float, float]] = {
    "num_classes": (2, 100_000),
    "image_size": (1, 4_096),
    "stem_width": (1, 65_536),
    "stem_kernel_size": (1, 31),
    "num_blocks": (0, 1_000),
    "widths": (1, 65_536),
    "kernel_sizes": (1, 31),
    "shortcut_kernel_sizes": (1, 31),
    "expansion": (1, 64),
    "groups": (1, 65_536),
    "squeeze_reduction": (1, 65_536),
    "batch_norm_momentum": (0.001, 1),
    "dropout": (0, 0.95),
    "stochastic_depth": (0, 0.95),
    "head_scale": (1e-6, 1e6),
}
PER_STAGE = ("num_blocks", "widths", "kernel_sizes", "shortcut_kernel_sizes")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """A residual network in numbers: stem, stages of blocks, head. Tuples have one entry a stage."""

    # How pydantic reads a spec from recipes and model directories.
    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    num_classes: int = 10
    """Classes to tell apart."""
    image_size: int = 32
    """Height and width of an image, in pixels."""
    stem: Literal["conv", "whitening"] = "conv"
    """First layer: a trained convolution, or frozen filters that whiten the training images' patches."""
    stem_width: int = 64
    """Channels of a conv stem (a whitening stem has 6 x kernel size squared: both signs of each filter)."""
    stem_kernel_size: int = 3
    """Kernel size of the stem, in pixels; odd for a conv stem."""
    num_blocks: tuple[int, ...] = (4, 4, 3)
    """Residual blocks in each stage; 0 is possible unless downsample is "stride"."""
    widths: tuple[int, ...] = (64, 128, 256)
    """Channels of each stage's blocks; a bottleneck puts out expansion times as many."""
    kernel_sizes: tuple[int, ...] = (3, 3, 3)
    """Kernel size of each stage's convolutions, odd, in pixels."""
    shortcut_kernel_sizes: tuple[int, ...] = (1, 1, 1)
    """Kernel size of each stage's projection shortcut, odd, in pixels."""
    downsample: Literal["stride", "pool", "pool-late"] = "stride"
    """Halving. stride: in each stage but the first. pool: by a convolution and a max-pool before each stage.
    pool-late: likewise, but before the first stage by the convolution's stride."""
    shortcut: Literal["projection", "identity"] = "projection"
    """Where a block changes shape: a convolution, or the input subsampled and padded with zero channels."""
    block: Literal["basic", "single", "bottleneck"] = "basic"
    """Convolutions of a block: two (basic), one (single), or 1 x 1, k x k, 1 x 1 (bottleneck)."""
    expansion: int = 4
    """Output channels of a bottleneck as a multiple of its width."""
    groups: int = 1
    """Groups of the k x k convolutions inside blocks; must divide their channels."""
    preactivation: bool = False
    """Norm and activation before each convolution, not after; only with downsample "stride"."""
    squeeze_excite: Literal["none", "stem", "block"] = "none"
    """Squeeze-and-excitation: nowhere, once after the stem, or at the end of every block's branch."""
    squeeze_reduction: int = 16
    """Squeeze-and-excitation's hidden layer has channels // this many units, at least one."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """Activation function, everywhere."""
    batch_norm: bool = True
    """Batch normalisation; without it every convolution has a bias instead."""
    batch_norm_momentum: float = 0.1
    """Weight of the newest batch in BatchNorm's running statistics."""
    dropout: float = 0.0
    """Probability of dropping a pooled feature, just before the classifier."""
    stochastic_depth: float = 0.0
    """Probability of dropping the last block's branch, per image; lower in earlier blocks, linearly."""
    pool: Literal["avg", "max"] = "avg"
    """Global pooling before the classifier."""
    head_bias: bool = True
    """Whether the classifier has a bias."""
    head_scale: float = 1.0
    """Factor on the logits."""

    def __post_init__(self) -> None:
        _check_values(self)
        _check_stages(self)
        layers(self)  # refuses what shows only when an image passes through: sizes, groups

    @property
    def stem_channels(self) -> int:
        """Channels that the stem puts out."""
        return self.stem_width if self.stem == "conv" else 2 * IMAGE_CHANNELS * self.stem_kernel_size**2

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels that each stage puts out."""
        expansion = self.expansion if self.block == "bottleneck" else 1
        return tuple(width * expansion for width in self.widths)

    def entry_stride(self, stage: int) -> int:
        """Stride of the convolution before a stage's blocks: 2, or 1 where a max-pool follows it."""
        return 2 if self.downsample == "pool-late" and stage == 0 else 1


CHOICES = {name: get_args(hint) for name, hint in get_type_hints(NetworkSpec).items() if get_origin(hint) is Literal}


class Layer(NamedTuple):
    """One layer with weights, under its name in the built network.

    `out_shape` is channels, height, width. `num_live_values` are held while it runs on one image: its input,
    its output, and what a shortcut or gate still needs, with norm and activation done in place.
    """

    name: str
    kind: Literal["conv", "norm", "linear"]
    out_shape: tuple[int, int, int]
    num_params: int
    num_macs: int
    num_live_values: int


def num_params(spec: NetworkSpec) -> int:
    """Exact number of weights and biases, trained or frozen."""
    return sum(layer.num_params for layer in layers(spec))


def num_macs(spec: NetworkSpec, image_size: int | None = None) -> int:
    """Exact number of multiply-adds for one image of `image_size` pixels (default: the spec's)."""
    return sum(layer.num_macs for layer in layers(spec, image_size))


def peak_activation_values(spec: NetworkSpec, image_size: int | None = None) -> int:
    """Most values held at once in inference on one image: the largest `num_live_values` of any layer."""
    return max(layer.num_live_values for layer in layers(spec, image_size))


def layers(spec: NetworkSpec, image_size: int | None = None) -> list[Layer]:
    """Every layer with weights, from image to logits; raises UsageError where the image becomes too small."""
    walk = _Walk(spec, spec.image_size if image_size is None else image_size)
    walk.stem()
    for stage in range(len(spec.widths)):
        walk.stage(stage)
    walk.head()
    return walk.layers


class _Conv(NamedTuple):
    channels: int
    kernel_size: int
    stride: int = 1
    groups: int = 1


def _branch(spec: NetworkSpec, stage: int, stride: int) -> list[_Conv]:
    """The convolutions of one residual branch."""
    width, kernel_size, groups = spec.widths[stage], spec.kernel_sizes[stage], spec.groups
    first = _Conv(width, kernel_size, stride, groups)
    if spec.block == "single":
        return [first]
    if spec.block == "basic":
        return [first, _Conv(width, kernel_size, 1, groups)]
    return [_Conv(width, 1), first, _Conv(spec.stage_channels[stage], 1)]


class _Walk:
    """Follows one image through the network: `shape` is what it is now, `layers` what it has passed."""

    def __init__(self, spec: NetworkSpec, size: int) -> None:
        self.spec = spec
        self.shape = (IMAGE_CHANNELS, size, size)
        self.layers: list[Layer] = []

    def stem(self) -> None:
        spec, whitening = self.spec, self.spec.stem == "whitening"
        self._conv("stem.conv", _Conv(spec.stem_channels, spec.stem_kernel_size), whitening=whitening)
        if not whitening and not spec.preactivation:
            self._norm("stem.norm")
        if spec.squeeze_excite == "stem":
            self._squeeze_excite("stem.squeeze_excite")

    def stage(self, stage: int) -> None:
        spec, name = self.spec, f"stages.{stage}"
        if spec.downsample != "stride":
            conv = _Conv(spec.stage_channels[stage], spec.kernel_sizes[stage], spec.entry_stride(stage))
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
            mend = 'Let widths grow from the stem on, or set shortcut to "projection".'
            raise UsageError(what, where="widths", mend=mend)
        for index, conv in enumerate(_branch(spec, stage, stride)):
            # The first convolution and the shortcut read the same values, unless a norm stands between.
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
            conv = _Conv(channels, spec.shortcut_kernel_sizes[stage], stride)
            self._conv(f"{name}.shortcut.conv", conv, kept=kept)
            if not spec.preactivation:
                self._norm(f"{name}.shortcut.norm")

    def _conv(self, name: str, conv: _Conv, *, kept: int = 0, whitening: bool = False) -> None:
        entering, (channels, kernel_size, stride, groups) = self.shape, conv
        if entering[0] % groups or channels % groups:
            error = f"{groups} does not divide the {entering[0]} -> {channels} channels of {name}"
            raise UsageError(error, where="groups", mend="Choose a divisor of both, or 1.")
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
            mend = "Use larger images, fewer stages or a smaller stem kernel."
            raise UsageError(f"too small: no pixel is left after {name}", where="image_size", mend=mend)
        self.shape = (channels, size, size)


def _check_values(spec: NetworkSpec) -> None:
    for name, choices in CHOICES.items():
        if (value := getattr(spec, name)) not in choices:
            raise UsageError(f"{value!r} is not a choice", where=name, mend=f"Choose one of {', '.join(choices)}.")
    for name, (low, high) in RANGES.items():
        values = getattr(spec, name) if name in PER_STAGE else (getattr(spec, name),)
        if wrong := [value for value in values if not low <= value <= high]:  # NaN too
            mend = f"Choose from {low:g} to {high:,g}."
            raise UsageError(f"{wrong[0]} is out of range", where=name, mend=mend)


def _check_stages(spec: NetworkSpec) -> None:
    lengths = {name: len(getattr(spec, name)) for name in PER_STAGE}
    if len(set(lengths.values())) != 1 or not 1 <= lengths["widths"] <= MAX_STAGES:
        counts = ", ".join(f"{name} {length}" for name, length in lengths.items())
        mend = f"Give each one number a stage, for 1 to {MAX_STAGES} stages."
        raise UsageError(f"stages must agree in number ({counts})", where="num_blocks", mend=mend)
    padded = {name: getattr(spec, name) for name in ("kernel_sizes", "shortcut_kernel_sizes")}
    padded["stem_kernel_size"] = (spec.stem_kernel_size,) if spec.stem == "conv" else ()
    for name, kernel_sizes in padded.items():
        if even := [size for size in kernel_sizes if size % 2 == 0]:
            mend = f"Use {even[0] - 1} or {even[0] + 1}: an even kernel cannot keep the image's size."
            raise UsageError(f"{even[0]} is even", where=name, mend=mend)
    if spec.downsample == "stride" and 0 in spec.num_blocks:
        mend = 'Give every stage at least one block, or set downsample to "pool" or "pool-late".'
        raise UsageError("a stage without blocks cannot change its shape", where="num_blocks", mend=mend)
    if spec.downsample != "stride" and spec.preactivation:
        mend = 'Set downsample to "stride", or leave preactivation off.'
        raise UsageError(f'not possible with downsample "{spec.downsample}"', where="preactivation", mend=mend)
