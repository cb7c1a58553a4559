"""3 x 3 convolutions, which are most of a network's work, by the fastest algorithm that is allowed.

Shapes: B images, C channels and H x W pixels in, D channels and I x J pixels out.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from pocket_resnet.model import side_by_side, winograd

Mode = Literal["training", "evaluation"]


class Conv3x3(nn.Conv2d):
    """A 3 x 3 convolution, padded by one pixel.

    It is torch's own, as in any compiled network, unless `allow_algorithms` allows another that suits the images.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, bias: bool) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=bias)
        self.winograd_in: Mode | None = None
        self.side_by_side = False

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self._uses_winograd(x_BCHW):
            y_BDIJ = winograd.convolve(x_BCHW, self.weight)
        elif self._puts_side_by_side(x_BCHW):
            y_BDIJ = side_by_side.convolve(x_BCHW, self.weight, self.stride[0])
        else:
            return super().forward(x_BCHW)
        return y_BDIJ if self.bias is None else y_BDIJ + self.bias.to(y_BDIJ.dtype).view(-1, 1, 1)

    def _uses_winograd(self, x_BCHW: Tensor) -> bool:
        allowed = self.winograd_in == ("training" if self.training else "evaluation")
        if not allowed or torch.compiler.is_compiling():
            return False
        return self.stride == (1, 1) and winograd.suits(x_BCHW, self.out_channels)

    def _puts_side_by_side(self, x_BCHW: Tensor) -> bool:
        is_learning = self.training and self.weight.requires_grad and torch.is_grad_enabled()
        if not self.side_by_side or not is_learning or torch.compiler.is_compiling():
            return False
        return side_by_side.suits(x_BCHW, self.out_channels, self.stride[0])


def allow_algorithms(model: nn.Module, *, winograd_in: Mode | None = None, side_by_side: bool = False) -> None:
    """Allow Winograd's algorithm in one mode, and images side by side in training; forbid what is not named.

    The model should be laid out channels last.
    """
    for module in model.modules():
        if isinstance(module, Conv3x3):
            module.winograd_in, module.side_by_side = winograd_in, side_by_side
