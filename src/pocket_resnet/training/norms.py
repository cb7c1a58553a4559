"""Batch-norm statistics measured anew before the network is judged.

While weights move fast, running statistics lag behind them, and a network that trains well validates like a coin.
Measuring them for the weights as they are costs one forward pass over a few training images.
Source: Wu & Johnson 2021 (arXiv:2105.07576), section 3 (there: PreciseBN).
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pocket_resnet.data.augment import to_float
from pocket_resnet.device import Hardware

BATCH = 500


@contextlib.contextmanager
def remeasured(model: nn.Module, images_NCHW: Tensor, hardware: Hardware) -> Iterator[None]:
    """Inside, the statistics are those of these uint8 images under the present weights; without images, unchanged."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)] if len(images_NCHW) else []
    kept = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    try:
        _measure(model, norms, images_NCHW, hardware)
        yield
    finally:
        for norm, buffers, momentum in zip(norms, kept, momenta, strict=True):
            norm.momentum = momentum
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])


@torch.no_grad()
def _measure(model: nn.Module, norms: list[nn.BatchNorm2d], images_NCHW: Tensor, hardware: Hardware) -> None:
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's way to say: the plain mean over batches
        norm.train()
    for batch_BCHW in torch.split(images_NCHW, BATCH) if norms else ():
        model(to_float(batch_BCHW.to(hardware.device), hardware.memory_format))
