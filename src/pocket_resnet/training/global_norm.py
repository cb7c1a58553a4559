"""Batch norm over the whole batch of several processes.

On a GPU this is torch's SyncBatchNorm, which has no CPU version. On the CPU, each process sends count, mean and
variance of its values, and all merge them as in Chan, Golub & LeVeque 1983 ("Algorithms for computing the sample
variance", section 2). E[x²] - E[x]² would lose the variance of values far from 0 to rounding.

Shapes: B images of this process, C channels, H x W pixels, P processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d on the CPU with training statistics over all processes, which must all call it equally often.

    With `momentum` None and in evaluation, it works like BatchNorm2d.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.momentum is None:
            return super().forward(input)
        total, mean_C, var_C = global_statistics(input.detach())
        self._update(mean_C, var_C * (total / (total - 1)), self.momentum)
        y_BCHW: Tensor = _Normalise.apply(input, self.weight, self.bias, mean_C, var_C, total, self.eps)  # type: ignore[no-untyped-call]
        return y_BCHW

    def _update(self, mean_C: Tensor, unbiased_var_C: Tensor, momentum: float) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean_C, momentum)
        self.running_var.lerp_(unbiased_var_C, momentum)
        self.num_batches_tracked.add_(1)


class GpuGlobalBatchNorm2d(nn.SyncBatchNorm, nn.BatchNorm2d):
    """GlobalBatchNorm2d on a GPU."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.BatchNorm2d.forward(self, input) if self.momentum is None else super().forward(input)


def global_statistics(x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of values per channel in all processes, their mean and their biased variance, float32 [C]."""
    C, unused_C = x_BCHW.shape[1], torch.zeros(x_BCHW.shape[1])
    mean_C, var_C = torch.batch_norm_update_stats(x_BCHW, unused_C, unused_C, 0.0)  # 100 times as fast as var_mean
    here = torch.cat((mean_C.new_tensor([x_BCHW.numel() // C]), mean_C, var_C)).double()
    of_all_processes = [torch.empty_like(here) for _ in range(dist.get_world_size())]
    dist.all_gather(of_all_processes, here)
    count_P1, mean_PC, var_PC = torch.stack(of_all_processes).tensor_split((1, C + 1), dim=1)
    total = count_P1.sum()
    share_P1 = count_P1 / total
    mean_C = (share_P1 * mean_PC).sum(0)
    var_C = (share_P1 * (var_PC + (mean_PC - mean_C).square())).sum(0)
    return total.float(), mean_C.float(), var_C.float()


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) x weight + bias, with the gradient of batch norm: mean and variance depend on x.

    The gradients of weight and bias are for this process's images only, as for every other parameter.
    """

    @staticmethod
    def forward(
        context: Any,
        x_BCHW: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        mean_C: Tensor,
        var_C: Tensor,
        total: Tensor,
        eps: float,
    ) -> Tensor:
        context.save_for_backward(x_BCHW, weight_C, mean_C, var_C, total)
        context.eps = eps
        return F.batch_norm(x_BCHW, mean_C, var_C, weight_C, bias_C, eps=eps)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_C, mean_C, var_C, total = context.saved_tensors
        # As if mean and variance were constants; their share of the gradient is added below.
        x_slope_BCHW, weight_slope_C, bias_slope_C = torch.ops.aten.native_batch_norm_backward(
            slopes[0], x_BCHW, weight_C, mean_C, var_C, None, None, False, context.eps, [True, True, True]
        )
        sums_2C = torch.stack((weight_slope_C, bias_slope_C))
        dist.all_reduce(sums_2C)
        scale_C = torch.rsqrt(var_C + context.eps)
        through_var_C11, through_mean_C11 = (sums_2C * (weight_C * scale_C / total))[..., None, None]
        normed_BCHW = (x_BCHW - mean_C.view(-1, 1, 1)) * scale_C.view(-1, 1, 1)
        x_slope_BCHW = x_slope_BCHW - through_mean_C11 - normed_BCHW * through_var_C11
        return x_slope_BCHW.to(x_BCHW.dtype), weight_slope_C, bias_slope_C, None, None, None, None


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
