"""Residual blocks, and the parts they share with the rest of the network.

Shapes: B images, C channels (D after a change of shape), H x W pixels. Sources: He 2015 (arXiv:1512.03385),
He 2016 (arXiv:1603.05027), Hu 2017 (arXiv:1709.01507), Huang 2016 (arXiv:1603.09382).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocket_resnet.model.conv3x3 import Conv3x3
from pocket_resnet.model.counts import branch_convs
from pocket_resnet.model.spec import NetworkSpec

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}

MIN_CHANNELS = 8  # for which torch's strided 1 x 1 convolution is safe: see SubsampledConv2d


def activation(spec: NetworkSpec) -> Callable[[Tensor], Tensor]:
    """The spec's activation function; ReLU works in place, except in pre-activated networks.

    There, a shortcut may read its input too. The gradients of other activations need their input.
    """
    in_place = spec.activation == "relu" and not spec.preactivation
    return F.relu_ if in_place else ACTIVATIONS[spec.activation]


def conv2d(
    spec: NetworkSpec, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution that keeps the image's size at stride 1, with a bias only if no norm has one."""
    bias = not spec.batch_norm
    if (kernel_size, groups) == (3, 1):
        return Conv3x3(in_channels, out_channels, stride=stride, bias=bias)
    kind = SubsampledConv2d if kernel_size == 1 and stride > 1 and in_channels < MIN_CHANNELS else nn.Conv2d
    return kind(
        in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=bias
    )


class SubsampledConv2d(nn.Conv2d):
    """A strided 1 x 1 convolution, computed with stride 1 on the pixels that the stride keeps.

    The result is the same. On processors with AVX2 and no AVX-512, torch 2.13's own strided form writes beyond its
    memory in the backward pass if images are channels last and have fewer than 8 channels.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kept_BCHW = x_BCHW[:, :, :: self.stride[0], :: self.stride[1]]
        return F.conv2d(kept_BCHW, self.weight, self.bias, groups=self.groups)


def norm2d(spec: NetworkSpec, channels: int) -> nn.Module:
    """The spec's normalisation over `channels`: BatchNorm, or nothing."""
    return nn.BatchNorm2d(channels, momentum=spec.batch_norm_momentum) if spec.batch_norm else nn.Identity()


def normed(conv: nn.Module, norm: nn.Module) -> list[nn.Module]:
    """A list with the convolution if a norm follows it, otherwise an empty list."""
    return [conv] if isinstance(norm, nn.BatchNorm2d) else []


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate in (0, 1) computed from the channels' spatial means.

    Source: Hu et al. 2017 (arXiv:1709.01507), section 3.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, kernel_size=1)
        self.excite = nn.Conv2d(hidden, channels, kernel_size=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        mean_BC11 = x_BCHW.mean(dim=(2, 3), keepdim=True)
        gate_BC11 = self.excite(self.squeeze(mean_BC11).relu()).sigmoid()
        gated_BCHW: Tensor = x_BCHW * gate_BC11
        return gated_BCHW


class Drop(nn.Module, ABC):
    """Sets random values to zero in training; does nothing in evaluation. Draws from torch's default generator.

    Kept values are divided by their probability, so evaluation needs no factor. Draws are made for a whole batch, of
    which the network may have only some rows, so several processes that share it drop the same values as one would.
    """

    def __init__(self, drop_probability: float) -> None:
        super().__init__()
        self.drop_probability = drop_probability
        self.batch_size = 0
        """Number of images in the whole batch; 0 if the network has all of them."""
        self.rows = slice(None)
        """The rows of the batch that the network has."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_probability == 0:
            return x
        return x * self.factors(x, self.batch_size or len(x))[self.rows]

    @abstractmethod
    def factors(self, x: Tensor, batch_size: int) -> Tensor:
        """The factors for a whole batch of values like `x`."""

    def extra_repr(self) -> str:
        return f"{self.drop_probability:g}"


class DropPath(Drop):
    """Drops whole branches, for each image with `drop_probability`. Source: Huang 2016, section 3."""

    def factors(self, x: Tensor, batch_size: int) -> Tensor:
        draw_B111 = torch.rand(batch_size, 1, 1, 1, device=x.device)
        return ((draw_B111 >= self.drop_probability) / (1 - self.drop_probability)).to(x.dtype)


class Dropout(Drop):
    """Drops single values with `drop_probability`."""

    def factors(self, x: Tensor, batch_size: int) -> Tensor:
        return F.dropout(x.new_ones(batch_size, *x.shape[1:]), self.drop_probability)


class Projection(nn.Module):
    """A shortcut that changes shape by a convolution, normalised unless the block is pre-activated."""

    def __init__(self, spec: NetworkSpec, stage: int, in_channels: int, stride: int) -> None:
        super().__init__()
        channels = spec.stage_channels[stage]
        self.conv = conv2d(spec, in_channels, channels, spec.shortcut_kernel_sizes[stage], stride)
        self.norm = nn.Identity() if spec.preactivation else norm2d(spec, channels)

    def normed_convs(self) -> list[nn.Module]:
        """The convolutions whose output only a norm reads: the scale of their filters has no effect in training."""
        return normed(self.conv, self.norm)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shortcut_BDHW: Tensor = self.norm(self.conv(x_BCHW))
        return shortcut_BDHW


class PaddedIdentity(nn.Module):
    """A shortcut without weights: every `stride`-th pixel, and zeros for the channels the input lacks.

    Half the zeros come before the input's channels and half after. Source: He 2015, section 4.2, option A.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.pad(x_BCHW[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class ResidualBlock(nn.Module):
    """The parts of a block: a branch of convolutions, each with its norm, and a shortcut around it.

    Subclasses define the order of the parts. `stride` other than 1 divides height and width, rounding up.
    """

    def __init__(
        self, spec: NetworkSpec, stage: int, in_channels: int, stride: int = 1, drop_probability: float = 0.0
    ) -> None:
        super().__init__()
        channels = spec.stage_channels[stage]
        convs: list[nn.Conv2d] = []
        width = in_channels
        for conv in branch_convs(spec, stage, stride):
            convs.append(conv2d(spec, width, conv.channels, conv.kernel_size, conv.stride, conv.groups))
            width = conv.channels
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(
            norm2d(spec, each.in_channels if spec.preactivation else each.out_channels) for each in convs
        )
        gated = spec.squeeze_excite == "block"
        self.squeeze_excite = SqueezeExcite(channels, spec.squeeze_reduction) if gated else nn.Identity()
        self.drop = DropPath(drop_probability)
        self.shortcut: nn.Module
        if stride == 1 and in_channels == channels:
            self.shortcut = nn.Identity()
        elif spec.shortcut == "projection":
            self.shortcut = Projection(spec, stage, in_channels, stride)
        else:
            self.shortcut = PaddedIdentity(in_channels, channels, stride)
        self.act = activation(spec)


class PostActivationBlock(ResidualBlock):
    """y = act(shortcut(x) + branch(x)), a branch of conv-norm with activations between.

    Source: He 2015, section 3. The single-convolution form, x + norm(conv(x)), is this file's own.
    """

    def normed_convs(self) -> list[nn.Module]:
        """All convolutions of the branch; see Projection for the shortcut's."""
        return [conv for pair in zip(self.convs, self.norms, strict=True) for conv in normed(*pair)]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        branch = x_BCHW
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            branch = norm(conv(branch if index == 0 else self.act(branch)))
        return self.act(self.shortcut(x_BCHW) + self.drop(self.squeeze_excite(branch)))


class PreActivationBlock(ResidualBlock):
    """y = shortcut(x) + branch(x), a branch of norm-act-conv. Source: He 2016, section 4.

    A projection reads the first activation, as in Zagoruyko 2016 (arXiv:1605.07146); other shortcuts read x.
    """

    def normed_convs(self) -> list[nn.Module]:
        """All convolutions of the branch except the last, which is added to the shortcut without a norm."""
        return [conv for pair in zip(self.convs[:-1], self.norms[1:], strict=True) for conv in normed(*pair)]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        branch = active = self.act(self.norms[0](x_BCHW))
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            branch = conv(branch if index == 0 else self.act(norm(branch)))
        shortcut = self.shortcut(active if isinstance(self.shortcut, Projection) else x_BCHW)
        y_BDHW: Tensor = shortcut + self.drop(self.squeeze_excite(branch))
        return y_BDHW
