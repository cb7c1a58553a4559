"""Recomputes batch-norm statistics before the network is evaluated (PreciseBN).

While weights change fast, running statistics lag behind them, and a network with good training accuracy can validate at
chance level. Measuring them for the current weights costs one forward pass over a few training images. These are
augmented as in training: with statistics of plain images, a network trained on distorted and mixed ones loses 1.9
points of accuracy (docs/log.md). Source: Wu & Johnson 2021 (arXiv:2105.07576), section 3.

The statistics of several batches are merged into those of all images: a norm's mean is the mean over all its inputs,
and its variance includes the differences between batches. (The inputs of deeper norms were normalised batch by batch,
as in training.)
Source of the update: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", equation 2.1.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pocket_resnet.model.evaluation_mode import evaluation_mode


class Statistics(NamedTuple):
    """The number of a norm's inputs per channel, their mean and their unbiased variance, float32 [C]."""

    num_values: int
    mean_C: Tensor
    var_C: Tensor


PerNorm = list[Statistics]


@contextlib.contextmanager
def remeasured(
    model: nn.Module, batches: Iterable[Tensor], gather: Callable[[list[PerNorm]], list[PerNorm]] = list
) -> Iterator[None]:
    """Inside the block, the statistics are those of these batches, float [B, C, H, W], for the current weights.

    The model is in evaluation mode there; its statistics and its modules' modes are restored afterwards. Without a
    batch the statistics are unchanged. A batch needs at least two images: one of 1 x 1 has no variance. If several
    processes have some of the batches each, `gather` collects the statistics of all of them.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    try:
        with evaluation_mode(model):
            measured = gather([_measure(model, norms, batch_BCHW) for batch_BCHW in batches])
            for norm, of_batches in zip(norms, zip(*measured, strict=True), strict=False):  # nothing without a batch
                _set_statistics(norm, of_batches)
            yield
    finally:
        for norm, buffers, momentum in zip(norms, kept, momenta, strict=True):
            norm.momentum = momentum
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])


@torch.no_grad()
def _measure(model: nn.Module, norms: list[nn.BatchNorm2d], batch_BCHW: Tensor) -> PerNorm:
    """The statistics of each norm's inputs for the batch; the model is in evaluation mode before and after."""
    counts: dict[nn.Module, int] = {}

    def count(norm: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        counts[norm] = inputs[0].numel() // inputs[0].shape[1]

    with contextlib.ExitStack() as stack:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # PyTorch's setting for the plain mean over batches, here one batch
            norm.train()
            stack.callback(norm.eval)
            stack.callback(norm.register_forward_hook(count).remove)
        model(batch_BCHW)
    return [Statistics(counts[norm], *(buffer.to("cpu", copy=True) for buffer in _buffers(norm))) for norm in norms]


def _merged(one: Statistics, other: Statistics) -> Statistics:
    """The statistics of both sets of values together."""
    num_one, num_other, apart_C = one.num_values, other.num_values, other.mean_C - one.mean_C
    total = num_one + num_other
    squares_C = (num_one - 1) * one.var_C + (num_other - 1) * other.var_C + num_one * num_other / total * apart_C**2
    return Statistics(total, one.mean_C + num_other / total * apart_C, squares_C / (total - 1))


def _set_statistics(norm: nn.BatchNorm2d, of_batches: tuple[Statistics, ...]) -> None:
    for buffer, value_C in zip(_buffers(norm), functools.reduce(_merged, of_batches)[1:], strict=True):
        buffer.copy_(value_C)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.fill_(len(of_batches))


def _buffers(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
