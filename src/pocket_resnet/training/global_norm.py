"""Batch norm over the batches of several processes together.

On a GPU this is torch's SyncBatchNorm. That has no form for the CPU, where each process sends count, mean and variance
of its values, and all merge them as Chan, Golub & LeVeque 1983 do ("Algorithms for computing the sample variance",
section 2). E[x²] - E[x]² would lose the variance of values far from 0 to rounding.

Shapes: B images, those of this process, C channels, H x W pixels, P processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        summed = x.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return SumOverProcesses.forward(None, gradient)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d on the CPU whose statistics in training are those of all processes; each must run it equally often.

    With `momentum` None, and in evaluation, it is BatchNorm2d.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.momentum is None:
            return super().forward(input)
        x_BCHW = input.float()
        total, mean_C, var_C = global_statistics(x_BCHW)
        self._update(mean_C.detach(), var_C.detach() * (total / (total - 1)), self.momentum)
        gain_C = self.weight * torch.rsqrt(var_C + self.eps)
        mean_C11, gain_C11, bias_C11 = (value_C.view(-1, 1, 1) for value_C in (mean_C, gain_C, self.bias))
        return torch.addcmul(bias_C11, x_BCHW - mean_C11, gain_C11).to(input.dtype)

    @torch.no_grad()
    def _update(self, mean_C: Tensor, unbiased_var_C: Tensor, momentum: float) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean_C, momentum)
        self.running_var.lerp_(unbiased_var_C, momentum)
        self.num_batches_tracked.add_(1)


class GpuGlobalBatchNorm2d(nn.SyncBatchNorm, nn.BatchNorm2d):
    """The same on a GPU."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.BatchNorm2d.forward(self, input) if self.momentum is None else super().forward(input)


def global_statistics(x_BCHW: Tensor) -> tuple[int, Tensor, Tensor]:
    """How many values a channel has in all processes, their mean and their biased variance, float32 [C]."""
    C = x_BCHW.shape[1]
    var_C, mean_C = torch.var_mean(x_BCHW, dim=(0, 2, 3), correction=0)
    count_1 = mean_C.new_tensor([x_BCHW.numel() // C])
    mine_P1 = torch.arange(dist.get_world_size())[:, None] == dist.get_rank()
    rows = SumOverProcesses.apply(mine_P1 * torch.cat((count_1, mean_C, var_C)).double())  # type: ignore[no-untyped-call]
    count_P1, mean_PC, var_PC = rows.detach()[:, :1], rows[:, 1 : C + 1], rows[:, C + 1 :]
    share_P1 = count_P1 / count_P1.sum()
    mean_C = (share_P1 * mean_PC).sum(0)
    var_C = (share_P1 * (var_PC + (mean_PC - mean_C).square())).sum(0)
    return int(count_P1.sum()), mean_C.float(), var_C.float()


def with_global_norms(model: nn.Module) -> None:
    """Replace every BatchNorm2d in the model by one over all processes, with the same weights and names."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            kind = GpuGlobalBatchNorm2d if child.weight.is_cuda else GlobalBatchNorm2d
            norm = kind(child.num_features, child.eps, child.momentum)
            norm.__dict__.update(child.__dict__)
            setattr(model, name, norm)
        else:
            with_global_norms(child)
