"""Batch-norm statistics measured anew before the network is judged.

While weights move fast, running statistics lag behind them, and a network with good training accuracy can validate at
chance level. Measuring them for the weights as they are costs one forward pass over a few training images. These are
augmented as in training: statistics of plain images cost a network trained on distorted and mixed ones 1.9 points of
accuracy (docs/log.md). Source: Wu & Johnson 2021 (arXiv:2105.07576), section 3 (there: PreciseBN).

Where the images take several batches, their statistics become those of all images together: a norm's mean is the
mean over all values that it met, and its variance counts what differs between batches too, as if there were one
batch. (Deeper norms meet values that the earlier ones normalised batch by batch, as in training.)
Source of the update: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", equation 2.1.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def remeasured(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[None]:
    """Inside, the statistics are those of these batches, float [B, C, H, W], under the present weights.

    Without a batch they stay as they are. No batch may be one image alone: at 1 x 1 it has no variance.
    """
    remaining = iter(batches)
    first = next(remaining, None)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)] if first is not None else []
    kept = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    try:
        if first is not None:
            _measure(model, norms, itertools.chain([first], remaining))
        yield
    finally:
        for norm, buffers, momentum in zip(norms, kept, momenta, strict=True):
            norm.momentum = momentum
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])


@torch.no_grad()
def _measure(model: nn.Module, norms: list[nn.BatchNorm2d], batches: Iterable[Tensor]) -> None:
    model.eval()
    num_batches = 0
    with contextlib.ExitStack() as hooks:
        pools = [_Pool(norm) for norm in norms]
        for norm, pool in zip(norms, pools, strict=True):
            norm.momentum = None  # PyTorch's way to say: the plain mean over batches, here of one
            norm.train()
            hooks.callback(norm.register_forward_hook(pool.take_in).remove)
        for batch_BCHW in batches:
            model(batch_BCHW)
            num_batches += 1
    model.eval()
    for pool in pools:
        pool.install(num_batches)


class _Pool:
    """The statistics of all values that a norm has met, from those of each batch."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self.norm, self.count = norm, 0
        self.mean_C, self.var_C = (buffer.clone() for buffer in self._buffers())
        norm.reset_running_stats()

    def take_in(self, norm: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        """Add the batch that the norm has just met, alone, and have it forget that."""
        assert norm is self.norm
        count = inputs[0].numel() // self.norm.num_features
        mean_C, var_C = (buffer.clone() for buffer in self._buffers())
        if self.count:
            total, apart_C = self.count + count, mean_C - self.mean_C
            squares_C = (self.count - 1) * self.var_C + (count - 1) * var_C + self.count * count / total * apart_C**2
            mean_C, var_C = self.mean_C + count / total * apart_C, squares_C / (total - 1)
        self.mean_C, self.var_C, self.count = mean_C, var_C, self.count + count
        self.norm.reset_running_stats()

    def install(self, num_batches: int) -> None:
        """Give the norm what was found."""
        for buffer, value_C in zip(self._buffers(), (self.mean_C, self.var_C), strict=True):
            buffer.copy_(value_C)
        assert self.norm.num_batches_tracked is not None
        self.norm.num_batches_tracked.fill_(num_batches)

    def _buffers(self) -> tuple[Tensor, Tensor]:
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        return self.norm.running_mean, self.norm.running_var
