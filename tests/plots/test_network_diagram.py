"""The parts of the network's diagram add up to the network."""

import pytest

from pocket_resnet.model.catalog import CATALOG
from pocket_resnet.model.counts import layers, num_macs, num_params
from pocket_resnet.plots.network_diagram import parts


@pytest.mark.parametrize("name", CATALOG)
def test_parts_of_any_network_add_up(name: str) -> None:
    spec = CATALOG[name]
    drawn_parts = parts(spec)
    assert [part.name for part in drawn_parts] == [
        "stem", *(f"stage {stage + 1}" for stage in range(len(spec.widths))), "head"
    ]  # fmt: skip
    assert sum(part.num_params for part in drawn_parts) == num_params(spec)
    assert sum(part.num_macs for part in drawn_parts) == num_macs(spec)
    shapes = {layer.name: layer.out_shape for layer in layers(spec)}
    assert drawn_parts[-1].out_shape == shapes["head"]
    assert [part.out_shape[0] for part in drawn_parts[1:-1]] == list(spec.stage_channels)
