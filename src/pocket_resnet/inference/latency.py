"""How long networks take for a batch of images on this machine.

Shapes: B images, H x W pixels.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pocket_resnet.device import Hardware
from pocket_resnet.model.resnet import ResNet

NUM_WARM_UPS, NUM_REPEATS = 10, 51


@dataclass(frozen=True)
class Latency:
    """Seconds of one forward pass in fp32: the median of the repeats and their quartiles."""

    median_s: float
    quartiles_s: tuple[float, float]
    num_repeats: int


@torch.inference_mode()
def latencies(
    models: Sequence[ResNet], hardware: Hardware, *, batch_size: int = 1, num_repeats: int = NUM_REPEATS
) -> list[Latency]:
    """Time one forward pass of each network, for so many random images at its own image size.

    After NUM_WARM_UPS passes of each, the networks take turns: what slows the machine for a while slows all of them.
    Times are in seconds. `num_repeats` is at least 2.
    """
    placed = [hardware.place(model).eval() for model in models]
    inputs = [
        torch.rand(batch_size, 3, model.spec.image_size, model.spec.image_size, device=hardware.device).to(
            memory_format=hardware.memory_format
        )
        for model in placed
    ]
    seconds: list[list[float]] = [[] for _ in placed]
    for repeat in range(-NUM_WARM_UPS, num_repeats):
        for model, x_BCHW, found in zip(placed, inputs, seconds, strict=True):
            hardware.synchronize()
            started_s = time.perf_counter()
            model(x_BCHW)
            hardware.synchronize()
            if repeat >= 0:
                found.append(time.perf_counter() - started_s)
    return [_summary(found) for found in seconds]


def _summary(seconds: list[float]) -> Latency:
    low, median, high = statistics.quantiles(seconds, n=4)
    return Latency(median, (low, high), len(seconds))
