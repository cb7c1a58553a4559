"""The architecture of a network, as validated numbers.

If the network cannot be built, UsageError names the field and how to fix it. blocks.py and resnet.py cite the sources.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from pocket_resnet.errors import UsageError
from pocket_resnet.model.counts import IMAGE_CHANNELS, layers

MAX_STAGES = 12
MAX_CHANNELS = 65_536
PER_STAGE = ("num_blocks", "widths", "kernel_sizes", "shortcut_kernel_sizes")

# Upper limits: a hostile or mistyped file must not need more memory than any machine has.
Channels = Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
KernelSize = Annotated[int, Field(ge=1, le=31)]
Probability = Annotated[float, Field(ge=0, le=0.95)]
_Sequence = Field(strict=False)  # also accepts a list, as in TOML and JSON; becomes a tuple


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class NetworkSpec:
    """Architecture of a residual network: stem, stages of blocks, head. Lists have one entry per stage."""

    num_classes: Annotated[int, Field(ge=2, le=100_000)] = 10
    """Number of classes."""
    image_size: Annotated[int, Field(ge=1, le=4_096)] = 32
    """Height and width of an image, in pixels."""
    stem: Literal["conv", "whitening"] = "conv"
    """First layer: a trained convolution, or frozen filters that whiten patches of the training images."""
    stem_width: Channels = 64
    """Channels of a conv stem. A whitening stem has 6 x kernel size squared: each filter and its negative."""
    stem_kernel_size: KernelSize = 3
    """Kernel size of the stem in pixels, odd for a conv stem."""
    num_blocks: Annotated[tuple[Annotated[int, Field(ge=0, le=1_000)], ...], _Sequence] = (4, 4, 3)
    """Residual blocks in each stage. 0 is allowed unless downsample is "stride"."""
    widths: Annotated[tuple[Channels, ...], _Sequence] = (64, 128, 256)
    """Channels of each stage's blocks. A bottleneck outputs `expansion` times as many."""
    kernel_sizes: Annotated[tuple[KernelSize, ...], _Sequence] = (3, 3, 3)
    """Kernel size of each stage's convolutions in pixels, odd."""
    shortcut_kernel_sizes: Annotated[tuple[KernelSize, ...], _Sequence] = (1, 1, 1)
    """Kernel size of each stage's projection shortcut in pixels, odd."""
    downsample: Literal["stride", "pool", "pool-late"] = "stride"
    """How stages halve the image. stride: strided convolutions, not in the first stage. pool: a convolution and a
    max-pool before each stage. pool-late: like pool, but a strided convolution before the first stage."""
    shortcut: Literal["projection", "identity"] = "projection"
    """Shortcut of blocks that change shape: a convolution, or the input subsampled and padded with zero channels."""
    block: Literal["basic", "single", "bottleneck"] = "basic"
    """Convolutions per block: two (basic), one (single), or 1 x 1, k x k, 1 x 1 (bottleneck)."""
    expansion: Annotated[int, Field(ge=1, le=64)] = 4
    """Output channels of a bottleneck as a multiple of its width."""
    groups: Channels = 1
    """Groups of the k x k convolutions inside blocks. Must divide their channels."""
    preactivation: bool = False
    """Put norm and activation before each convolution. Only with downsample "stride"."""
    squeeze_excite: Literal["none", "stem", "block"] = "none"
    """Squeeze-and-excitation: none, once after the stem, or at the end of every block's branch."""
    squeeze_reduction: Channels = 16
    """Channels per hidden unit of squeeze-and-excitation, which has at least one unit."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """Activation function of the whole network."""
    batch_norm: bool = True
    """Use batch normalisation. Without it, every convolution has a bias."""
    batch_norm_momentum: Annotated[float, Field(ge=0.001, le=1)] = 0.1
    """Weight of the newest batch in batch norm's running statistics."""
    dropout: Probability = 0.0
    """Dropout probability of the pooled features before the classifier."""
    drop_path: Probability = 0.0
    """Probability of dropping the last block's branch, per image. It falls linearly towards the first block."""
    pool: Literal["avg", "max"] = "avg"
    """Global pooling before the classifier."""
    head_bias: bool = True
    """Give the classifier a bias."""
    head_scale: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    """Factor on the logits."""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_clearly(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Raise UsageError with the field's range or choices if the value is not allowed."""
        try:
            return validate(values)
        except ValidationError as error:
            raise _with_range(error) from error

    def __post_init__(self) -> None:
        _check_stages(self)
        layers(self)  # refuses sizes and groups that do not fit together

    @property
    def stem_channels(self) -> int:
        """Output channels of the stem."""
        return self.stem_width if self.stem == "conv" else 2 * IMAGE_CHANNELS * self.stem_kernel_size**2

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Output channels of each stage."""
        expansion = self.expansion if self.block == "bottleneck" else 1
        return tuple(width * expansion for width in self.widths)

    def entry_stride(self, stage: int) -> int:
        """Stride of the convolution before a stage's blocks: 2, or 1 if a max-pool follows it."""
        return 2 if self.downsample == "pool-late" and stage == 0 else 1


def _with_range(error: ValidationError) -> UsageError | ValidationError:
    """The first error, with the values that the field allows; wrong types and unknown fields are left to pydantic."""
    first = error.errors(include_url=False)[0]
    if first["type"] not in ("literal_error", "greater_than_equal", "less_than_equal", "finite_number"):
        return error
    field, value = str(first["loc"][0]), first["input"]
    allowed = TypeAdapter(NetworkSpec).json_schema()["properties"][field]
    if first["type"] == "literal_error":
        what, hint = f"{value!r} is not a choice", f"choose one of {', '.join(allowed['enum'])}"
    else:
        allowed = allowed.get("items", allowed)
        what, hint = f"{value} is out of range", f"choose from {allowed['minimum']:g} to {allowed['maximum']:,}"
    return UsageError(what, where=field, hint=hint)


def _check_stages(spec: NetworkSpec) -> None:
    lengths = {name: len(getattr(spec, name)) for name in PER_STAGE}
    if len(set(lengths.values())) != 1 or not 1 <= lengths["widths"] <= MAX_STAGES:
        counts = ", ".join(f"{name} {length}" for name, length in lengths.items())
        hint = f"give each one number per stage, for 1 to {MAX_STAGES} stages"
        raise UsageError(f"stages must agree in number ({counts})", where="num_blocks", hint=hint)
    padded = {name: getattr(spec, name) for name in ("kernel_sizes", "shortcut_kernel_sizes")}
    padded["stem_kernel_size"] = (spec.stem_kernel_size,) if spec.stem == "conv" else ()
    for name, kernel_sizes in padded.items():
        if even := [size for size in kernel_sizes if size % 2 == 0]:
            hint = f"use {even[0] - 1} or {even[0] + 1}: an even kernel cannot keep the image's size"
            raise UsageError(f"{even[0]} is even", where=name, hint=hint)
    if spec.downsample == "stride" and 0 in spec.num_blocks:
        hint = 'give every stage at least one block, or set downsample to "pool" or "pool-late"'
        raise UsageError("a stage without blocks cannot change its shape", where="num_blocks", hint=hint)
    if spec.downsample != "stride" and spec.preactivation:
        hint = 'set downsample to "stride", or leave preactivation off'
        raise UsageError(f'not possible with downsample "{spec.downsample}"', where="preactivation", hint=hint)
