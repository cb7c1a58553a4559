"""Times calls fairly on a machine whose speed varies: the calls alternate, so slow moments affect all of them.

Shapes: B images, H x W pixels.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from pocket_resnet.device import Hardware
from pocket_resnet.model.resnet import ResNet

Key = TypeVar("Key")

NUM_WARM_UPS = 5


@dataclass(frozen=True)
class Latency:
    """The time of a call in seconds."""

    median_s: float
    p90_s: float
    spread: float
    """Interquartile range as a share of the median: how much the machine's speed varied."""
    num_rounds: int


def latencies(calls: Mapping[Key, Callable[[], object]], rounds: Iterable[int]) -> dict[Key, Latency]:
    """The latency of each call. Every round runs all of them once; the first NUM_WARM_UPS rounds do not count.

    `rounds` yields the rounds' numbers from 0 on, for example a progress bar over a range. At least two must count.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    for number in rounds:
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            if number >= NUM_WARM_UPS:
                seconds[key].append(time.perf_counter() - start)
    return {key: _latency(values) for key, values in seconds.items()}


@torch.inference_mode()
def network_latencies(
    models: Sequence[ResNet], hardware: Hardware, *, batch_size: int = 1, num_rounds: int = 51
) -> list[Latency]:
    """The latency of one forward pass in fp32 of each network, for random images of its own size."""
    calls: dict[int, Callable[[], object]] = {}
    for number, model in enumerate(models):
        placed, size = hardware.place(model).eval(), model.spec.image_size
        x_BCHW = torch.rand(batch_size, 3, size, size, device=hardware.device)
        calls[number] = partial(_forward, placed, x_BCHW.to(memory_format=hardware.memory_format), hardware)
    return list(latencies(calls, range(NUM_WARM_UPS + num_rounds)).values())


def _forward(model: ResNet, x_BCHW: torch.Tensor, hardware: Hardware) -> None:
    model(x_BCHW)
    hardware.synchronize()


def _latency(seconds: list[float]) -> Latency:
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    p90 = statistics.quantiles(seconds, n=10, method="inclusive")[-1]
    return Latency(median, p90, (high - low) / median, len(seconds))
