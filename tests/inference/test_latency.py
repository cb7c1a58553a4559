"""Latency: networks take turns, the order of their sizes shows, and nothing of the caller's changes."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pocket_resnet.device import choose
from pocket_resnet.inference import latency
from pocket_resnet.inference.latency import NUM_WARM_UPS, latencies
from pocket_resnet.model.resnet import ResNet


def test_a_larger_network_takes_longer(tiny_spec: Any) -> None:
    large = replace(tiny_spec, image_size=64, widths=(64, 64), stem_width=64)
    small, slow = latencies([ResNet(tiny_spec), ResNet(large)], choose("cpu"), num_repeats=5)
    assert 0 < small.median_s < slow.median_s
    assert small.quartiles_s[0] <= small.median_s <= small.quartiles_s[1]
    assert small.num_repeats == 5
    assert torch.is_grad_enabled()


def test_networks_take_turns_after_a_warm_up(tiny_spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock moves a second with the first network, three with the second, and warm-ups are not counted."""
    clock, turns = SimpleNamespace(now_s=0.0), []

    class Timed(ResNet):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            turns.append(self)
            clock.now_s += 1 if self is models[0] else 3
            assert x_BCHW.shape == (2, 3, 8, 8)
            assert not self.training
            return x_BCHW

    models = [Timed(tiny_spec), Timed(tiny_spec)]
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: clock.now_s))
    found = latencies(models, choose("cpu"), batch_size=2, num_repeats=3)
    assert [each.median_s for each in found] == [1, 3]
    assert turns == models * (NUM_WARM_UPS + 3)
