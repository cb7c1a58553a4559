"""What a network is, without building it.

A network that cannot be built raises UsageError, naming the field and how to mend it. Sources: blocks.py, resnet.py.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args, get_origin, get_type_hints

from pocket_resnet.errors import UsageError
from pocket_resnet.model.counts import IMAGE_CHANNELS, layers

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
