"""Which samples make up which step: a pure function of (seed, epoch, step).

Shapes: N samples, B images a batch. Rule for the rest: the last, smaller batch of an epoch is trained too, but a
single left-over image is dropped (batch norm has nothing to compare it with).
"""

import torch
from torch import Tensor

from pocket_resnet.errors import UsageError
from pocket_resnet.seeds import generator


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """How many optimizer steps an epoch has. Raises UsageError where a batch is larger than the data set."""
    if batch_size > num_samples:
        raise UsageError(
            f"a step of {batch_size} images exceeds the {num_samples} training images",
            mend=f"use fewer, for example --batch-size {_suggested(num_samples)}",
        )
    whole, rest = divmod(num_samples, batch_size)
    return whole + (rest > 1)


def _suggested(num_samples: int) -> int:
    """A power of two that gives an epoch at least four steps where there are images enough."""
    return max(2, min(64, 1 << max(1, (num_samples // 4).bit_length() - 1)))


def epoch_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """The epoch's permutation of the sample indices, int64 [N]."""
    return torch.randperm(num_samples, generator=generator(seed, "order", epoch))


def batch_indices(order_N: Tensor, step_in_epoch: int, batch_size: int) -> Tensor:
    """The sample indices of one step of the epoch, int64 [B]."""
    return order_N[step_in_epoch * batch_size : (step_in_epoch + 1) * batch_size]
