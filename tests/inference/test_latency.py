"""Latencies: calls take turns, warm-ups do not count, and the figures are those of the sample."""

import time
from dataclasses import replace

import pytest
import torch

from pocket_resnet.device import choose
from pocket_resnet.inference import latency
from pocket_resnet.inference.latency import NUM_WARM_UPS, latencies, network_latencies
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import NetworkSpec


def test_calls_take_turns() -> None:
    order: list[str] = []
    measured = latencies({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, range(NUM_WARM_UPS + 3))
    assert order == ["a", "b"] * (NUM_WARM_UPS + 3)
    assert measured["a"].num_rounds == measured["b"].num_rounds == 3


def test_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first calls take an hour; the eleven that count take 1 to 11 s."""
    durations = [3600.0] * NUM_WARM_UPS + [float(number) for number in range(1, 12)]
    now, clock = 0.0, iter(durations)

    def call() -> None:
        nonlocal now
        now += next(clock)

    monkeypatch.setattr(latency.time, "perf_counter", lambda: now)
    measured = latencies({"call": call}, range(len(durations)))["call"]
    assert (measured.median_s, measured.p90_s, measured.num_rounds) == (6, 10, 11)
    assert measured.spread == pytest.approx((8.5 - 3.5) / 6)
    assert time.perf_counter() == now


def test_a_larger_network_takes_longer(tiny_spec: NetworkSpec) -> None:
    large = replace(tiny_spec, image_size=64, widths=(64, 64), stem_width=64)
    small, slow = network_latencies([ResNet(tiny_spec), ResNet(large)], choose("cpu"), num_rounds=5)
    assert 0 < small.median_s < slow.median_s
    assert torch.is_grad_enabled()
