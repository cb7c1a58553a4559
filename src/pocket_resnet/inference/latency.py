"""Time calls fairly on a machine whose speed varies: all take turns, so a slow moment slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key")

NUM_WARM_UPS = 5


@dataclass(frozen=True)
class Latency:
    """Seconds of a call."""

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
    return {key: _latency(found) for key, found in seconds.items()}


def _latency(seconds: list[float]) -> Latency:
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    p90 = statistics.quantiles(seconds, n=10, method="inclusive")[-1]
    return Latency(median, p90, (high - low) / median, len(seconds))
