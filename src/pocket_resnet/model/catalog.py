"""Networks by the names that the literature uses, such as `named("wrn-16-4")`, for 32 x 32 RGB images."""

import re

from pocket_resnet.errors import UsageError, did_you_mean
from pocket_resnet.model.spec import NetworkSpec


def _resnet_cifar(depth: int) -> NetworkSpec:
    """ResNet-depth of He 2015 (arXiv:1512.03385), section 4.2, with parameter-free shortcuts (option A)."""
    num_blocks = (depth - 2) // 6
    return NetworkSpec(stem_width=16, num_blocks=(num_blocks,) * 3, widths=(16, 32, 64), shortcut="identity")


def _wide_resnet(depth: int, width: int) -> NetworkSpec:
    """WRN-depth-width, Zagoruyko 2016 (arXiv:1605.07146), section 2: pre-activation, 6n + 4 layers."""
    num_blocks, remainder = divmod(depth - 4, 6)
    if remainder or num_blocks < 1 or width < 1:
        raise UsageError(
            f"no such wide ResNet: wrn-{depth}-{width}",
            where="network",
            hint="its depth is 10, 16, 22, 28, 34, 40, ... (6n + 4) and its width 1 or more, as in wrn-16-4",
        )
    widths = (16 * width, 32 * width, 64 * width)
    return NetworkSpec(stem_width=16, num_blocks=(num_blocks,) * 3, widths=widths, preactivation=True)


CATALOG: dict[str, NetworkSpec] = {
    # Efficient ResNets, arXiv:2306.12100: 4,697,742 parameters.
    "original": NetworkSpec(squeeze_excite="stem"),
    # The few-minutes network: the shape of DAWNBench's ResNet-9 with the whitening stem of arXiv:2404.00498.
    "fast": NetworkSpec(
        stem="whitening",
        stem_kernel_size=2,
        downsample="pool-late",
        num_blocks=(1, 1, 1),
        widths=(48, 64, 128),
        block="single",
        pool="max",
        head_bias=False,
        head_scale=1 / 9,
    ),
    **{f"resnet{depth}": _resnet_cifar(depth) for depth in (20, 32, 44, 56, 110)},
    # He 2015, table 1, with a 3 x 3 stem and no stem pool, as usual for 32 pixels.
    "resnet18": NetworkSpec(
        num_blocks=(2, 2, 2, 2),
        widths=(64, 128, 256, 512),
        kernel_sizes=(3, 3, 3, 3),
        shortcut_kernel_sizes=(1, 1, 1, 1),
    ),
    **{f"wrn-{depth}-{width}": _wide_resnet(depth, width) for depth, width in ((16, 4), (28, 10), (40, 2))},
}


def named(name: str) -> NetworkSpec:
    """The network called `name`: a key of CATALOG or wrn-DEPTH-WIDTH.

    Raises UsageError, with the nearest names, for any other.
    """
    if spec := CATALOG.get(name):
        return spec
    if match := re.fullmatch(r"wrn-(\d{1,4})-(\d{1,4})", name, re.ASCII):
        return _wide_resnet(int(match[1]), int(match[2]))
    hint = f"known: {', '.join(CATALOG)}, any wrn-DEPTH-WIDTH"
    raise UsageError(f"no network is named {name!r}{did_you_mean(name, CATALOG)}", where="network", hint=hint)
