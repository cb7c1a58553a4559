"""Which samples make up which step: a pure function of (seed, epoch, step).

Shapes: N samples, B images a batch. Rule for the rest: the last, smaller batch of an epoch is trained too, but a
single left-over image is dropped (batch norm has nothing to compare it with).
"""

import torch
from torch import Tensor

from pocket_resnet.errors import UsageError
from pocket_resnet.seeds import generator


def num_candidates(batch_size: int, hardest: float) -> int:
    """From how many images a step chooses the `batch_size` that it trains, where those are the `hardest` share."""
    return round(batch_size / hardest)


def steps_per_epoch(num_samples: int, batch_size: int, hardest: float = 1.0) -> int:
    """How many optimizer steps an epoch has. Raises UsageError where a step needs more images than there are."""
    step_size = num_candidates(batch_size, hardest)
    if step_size > num_samples:
        looks = "" if hardest == 1 else f" of the hardest {hardest:g} looks at {step_size} images and"
        raise UsageError(
            f"batch_size {batch_size}{looks} exceeds the {num_samples} training images",
            mend=f"use fewer, for example --batch-size {_suggested(int(num_samples * hardest))}",
        )
    whole, rest = divmod(num_samples, step_size)
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
