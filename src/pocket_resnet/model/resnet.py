"""The network of a NetworkSpec: normalise, stem, stages, head.

Shapes: B images, C channels, H x W pixels, K classes; N images and P patches of D values for whitening.
Sources: He 2015 (arXiv:1512.03385), section 4.2; Jordan 2024 (arXiv:2404.00498), section 3.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Literal, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocket_resnet.errors import UsageError
from pocket_resnet.model.blocks import (
    Dropout,
    PostActivationBlock,
    PreActivationBlock,
    Projection,
    SqueezeExcite,
    activation,
    conv2d,
    norm2d,
    normed,
)
from pocket_resnet.model.counts import IMAGE_CHANNELS
from pocket_resnet.model.spec import NetworkSpec

Initialisation = Literal["default", "dirac"]


class ResNet(nn.Module):
    """The network that `spec` describes: RGB images, float on the 0 to 1 scale -> logits.

    Normalisation is part of the network, so it is saved with the weights. `counts.num_params` and `counts.num_macs`
    are its exact parameters and multiply-adds.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.normalize = Normalize()
        self.stem = Stem(spec)
        inputs = (spec.stem_channels, *spec.stage_channels)
        self.stages = nn.Sequential(*(Stage(spec, index, inputs[index]) for index in range(len(spec.widths))))
        self.norm = norm2d(spec, inputs[-1]) if spec.preactivation else nn.Identity()
        self.dropout = Dropout(spec.dropout)
        self.head = nn.Linear(inputs[-1], spec.num_classes, bias=spec.head_bias)
        self.act = activation(spec)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The logits, float [B, K], of images on the 0..1 scale, float [B, 3, H, W].

        H and W may differ from `spec.image_size` if every halving leaves a pixel.
        """
        x_BCHW = self.stages(self.stem(self.normalize(images_BCHW)))
        if self.spec.preactivation:
            x_BCHW = self.act(self.norm(x_BCHW))
        features_BC = x_BCHW.mean(dim=(2, 3)) if self.spec.pool == "avg" else x_BCHW.amax(dim=(2, 3))
        logits_BK: Tensor = self.head(self.dropout(features_BC)) * self.spec.head_scale
        return logits_BK

    def body(self) -> list[nn.Module]:
        """All parts with weights except the head; fine-tuning may freeze them."""
        return [self.stem, self.stages, self.norm]

    def normed_convs(self) -> list[nn.Module]:
        """The convolutions whose output only a norm reads: the scale of their filters has no effect in training.

        A pre-activated network's stem is one of them if the first block's shortcut is a projection, which reads the
        first norm too; other shortcuts add the stem's output to the branch without a norm.
        """
        kinds = (Entry, PostActivationBlock, PreActivationBlock, Projection, Stem)
        convs = chain.from_iterable(part.normed_convs() for part in self.modules() if isinstance(part, kinds))
        block = next((part for part in self.modules() if isinstance(part, PreActivationBlock)), None)
        if block is not None and isinstance(block.shortcut, Projection) and self.spec.squeeze_excite != "stem":
            return [*normed(self.stem.conv, block.norms[0]), *convs]
        return list(convs)

    @torch.no_grad()
    def set_whitening(self, images_NCHW: Tensor) -> None:
        """Set the stem's filters to the whitening filters of these images (0 to 1 scale), normalised as in `forward`.

        Raises UsageError unless the spec's stem is "whitening".
        """
        if self.spec.stem != "whitening":
            hint = 'set stem to "whitening" to use whitening filters'
            raise UsageError(f"a {self.spec.stem} stem has no whitening filters", where="stem", hint=hint)
        filters = whitening_filters(self.normalize(images_NCHW), self.spec.stem_kernel_size)
        self.stem.conv.weight.copy_(filters)


class Normalize(nn.Module):
    """Subtract each channel's mean and divide by its standard deviation; until set, do nothing."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(IMAGE_CHANNELS, 1, 1))
        self.register_buffer("std", torch.ones(IMAGE_CHANNELS, 1, 1))

    def set_statistics(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        """Use these per-channel statistics, on the 0 to 1 scale. Raises UsageError unless std is positive."""
        mean_C, std_C = torch.as_tensor(mean), torch.as_tensor(std)
        if not bool((std_C > 0).all()):
            raise UsageError(f"not positive: {std_C.tolist()}", where="std", hint="use images that vary")
        self.mean.copy_(mean_C.reshape(IMAGE_CHANNELS, 1, 1))
        self.std.copy_(std_C.reshape(IMAGE_CHANNELS, 1, 1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return (images_BCHW - self.mean).div_(self.std)


class Stem(nn.Module):
    """The first convolution and the layers before the stages.

    conv: same-padded, then norm and activation; in a pre-activated network, the first block has these.
    whitening: frozen, unpadded filters, then activation but no norm. There is no trained bias: it would need the
    gradient at the first stage's input, an eighth of all operations if that stage pools, without a measurable gain
    (docs/log.md).
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        channels, kernel_size = spec.stem_channels, spec.stem_kernel_size
        if spec.stem == "whitening":
            self.conv = nn.Conv2d(IMAGE_CHANNELS, channels, kernel_size, bias=False)
            self.conv.requires_grad_(False)
        else:
            self.conv = conv2d(spec, IMAGE_CHANNELS, channels, kernel_size)
        normed = spec.stem == "conv" and not spec.preactivation
        self.norm = norm2d(spec, channels) if normed else nn.Identity()
        self.act = nn.Identity() if spec.preactivation else activation(spec)
        gated = spec.squeeze_excite == "stem"
        self.squeeze_excite = SqueezeExcite(channels, spec.squeeze_reduction) if gated else nn.Identity()

    def normed_convs(self) -> list[nn.Module]:
        """The convolution, unless it whitens or the network is pre-activated."""
        return normed(self.conv, self.norm)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        gated_BCHW: Tensor = self.squeeze_excite(self.act(self.norm(self.conv(x_BCHW))))
        return gated_BCHW


class Stage(nn.Module):
    """Blocks of one width; height and width are halved on entry, see NetworkSpec.downsample."""

    def __init__(self, spec: NetworkSpec, stage: int, in_channels: int) -> None:
        super().__init__()
        channels = spec.stage_channels[stage]
        strides = [1] * spec.num_blocks[stage]
        self.entry: nn.Module = nn.Identity()
        if spec.downsample != "stride":
            self.entry = Entry(spec, stage, in_channels)
            in_channels = channels
        elif stage > 0:
            strides[0] = 2
        kind = PreActivationBlock if spec.preactivation else PostActivationBlock
        self.blocks = nn.Sequential()
        num_before, num_blocks = sum(spec.num_blocks[:stage]), sum(spec.num_blocks)
        for index, stride in enumerate(strides):
            # Huang 2016 (arXiv:1603.09382), section 3, equation 4: deeper blocks are dropped more often.
            drop_probability = spec.drop_path * (num_before + index + 1) / num_blocks
            self.blocks.append(kind(spec, stage, in_channels, stride, drop_probability))
            in_channels = channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.blocks(self.entry(x_BCHW))
        return y_BCHW


class Entry(nn.Module):
    """Widen by a convolution, halve by its stride or a 2 x 2 max-pool, normalise, activate."""

    def __init__(self, spec: NetworkSpec, stage: int, in_channels: int) -> None:
        super().__init__()
        channels = spec.stage_channels[stage]
        stride = spec.entry_stride(stage)
        self.conv = conv2d(spec, in_channels, channels, spec.kernel_sizes[stage], stride)
        self.pool = nn.MaxPool2d(2) if stride == 1 else nn.Identity()
        self.norm = norm2d(spec, channels)
        self.act = activation(spec)

    def normed_convs(self) -> list[nn.Module]:
        """The convolution: the max-pool before its norm does not change this."""
        return normed(self.conv, self.norm)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.act(self.norm(self.pool(self.conv(x_BCHW))))


@torch.no_grad()
def whitening_filters(images_NCHW: Tensor, kernel_size: int, eps: float = 5e-4) -> Tensor:
    """Filters that make the images' patches uncorrelated, each with unit variance, and their negatives.

    They are the eigenvectors of the covariance of all k x k patches, largest variance first, divided by
    sqrt(eigenvalue + eps): float32 [2 x D, C, k, k] with D = C x k x k, on the images' device.
    Source: Jordan 2024 (arXiv:2404.00498), section 3.1.
    """
    num_values = images_NCHW.shape[1] * kernel_size**2
    total_D = torch.zeros(num_values, dtype=torch.float64)
    moment_DD = torch.zeros(num_values, num_values, dtype=torch.float64)
    num_patches = 0
    for chunk_NCHW in torch.split(images_NCHW, 64):  # limits the memory: a pixel is part of k x k patches
        patches_DP = F.unfold(chunk_NCHW.cpu().double(), kernel_size).transpose(0, 1).flatten(1)
        total_D += patches_DP.sum(dim=1)
        moment_DD += patches_DP @ patches_DP.T
        num_patches += patches_DP.shape[1]
    mean_D = total_D / num_patches
    eigenvalues_D, eigenvectors_DD = torch.linalg.eigh(moment_DD / num_patches - mean_D.outer(mean_D))
    scaled_DD = (eigenvectors_DD / (eigenvalues_D.clamp(min=0) + eps).sqrt()).flip(1).T
    filters = torch.cat((scaled_DD, -scaled_DD)).reshape(-1, images_NCHW.shape[1], kernel_size, kernel_size)
    return filters.to(images_NCHW.device, torch.float32)


@torch.no_grad()
def initialise(model: ResNet, how: Initialisation, generator: torch.Generator, residual_gain: float = 1.0) -> None:
    """Draw every weight from `generator` alone (a CPU one, for a model on the CPU), and reset the norms.

    default: PyTorch's uniform in +-1/sqrt(fan-in), weights and biases. dirac: the same, but the first filters of every
    convolution in the stages, as many as it has inputs, are identities. `residual_gain` is the gain of every block's
    last norm (Goyal 2017, arXiv:1706.02677, section 5.1); dirac blocks of gain 1 double their input.
    Overwrites whitening filters: call `set_whitening` afterwards. Source: Jordan 2024 (arXiv:2404.00498), section 3.2.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            module.weight.uniform_(-bound, bound, generator=generator)
            if module.bias is not None:
                module.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    if how == "dirac":
        for name, module in model.stages.named_modules():
            if isinstance(module, nn.Conv2d) and "squeeze_excite" not in name:
                _make_identity(module)
    elif how != "default":
        assert_never(how)
    for module in model.modules():
        if isinstance(module, PostActivationBlock) and isinstance(last := module.norms[-1], nn.BatchNorm2d):
            last.weight.fill_(residual_gain)


def _make_identity(conv: nn.Conv2d) -> None:
    for filters in conv.weight.chunk(conv.groups):
        nn.init.dirac_(filters[: filters.shape[1]])
