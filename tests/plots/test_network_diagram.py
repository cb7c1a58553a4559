"""The parts of the network's diagram add up to the network."""

from dataclasses import replace

import pytest
import torch

from pocket_resnet.model.catalog import CATALOG
from pocket_resnet.model.counts import layers, num_macs, num_params
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import NetworkSpec
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


POOLED = NetworkSpec(
    num_blocks=(1, 0),
    widths=(8, 16),
    kernel_sizes=(3, 3),
    shortcut_kernel_sizes=(1, 1),
    stem_width=8,
    downsample="pool",
)


@pytest.mark.parametrize(
    "spec",
    [
        POOLED,
        replace(POOLED, batch_norm=False),
        replace(POOLED, batch_norm=False, num_blocks=(0, 0), downsample="pool-late"),
        replace(POOLED, squeeze_excite="block", stem="whitening", stem_kernel_size=2),
        replace(POOLED, squeeze_excite="stem", downsample="stride", num_blocks=(1, 1), preactivation=True),
    ],
)
def test_shapes_are_those_of_the_built_network(spec: NetworkSpec) -> None:
    """Also without batch norm, where no layer with weights follows a max-pool."""
    model, shapes = ResNet(spec).eval(), []
    for part in (model.stem, *model.stages, model.head):
        part.register_forward_hook(lambda _, __, out: shapes.append(tuple(out[0].shape)))
    model(torch.zeros(1, 3, spec.image_size, spec.image_size))
    *body, (num_classes,) = shapes
    assert [part.out_shape for part in parts(spec)] == [*body, (num_classes, 1, 1)]
