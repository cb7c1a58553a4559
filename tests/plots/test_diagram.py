"""The network's diagram: its parts are the network."""

import pytest

from pocket_resnet.model.catalog import CATALOG
from pocket_resnet.model.counts import layers, num_macs, num_params
from pocket_resnet.plots.diagram import parts


@pytest.mark.parametrize("name", CATALOG)
def test_parts_of_any_network_add_up(name: str) -> None:
    spec = CATALOG[name]
    found = parts(spec)
    assert [part.name for part in found] == [
        "stem", *(f"stage {stage + 1}" for stage in range(len(spec.widths))), "head"
    ]  # fmt: skip
    assert sum(part.num_params for part in found) == num_params(spec)
    assert sum(part.num_macs for part in found) == num_macs(spec)
    shapes = {layer.name: layer.out_shape for layer in layers(spec)}
    assert found[-1].out_shape == shapes["head"]
    assert [part.out_shape[0] for part in found[1:-1]] == list(spec.stage_channels)
