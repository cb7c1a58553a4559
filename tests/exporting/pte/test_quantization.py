"""Which layers are quantised, and how."""

from typing import Any

import numpy as np
import pytest
import torch

from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import NetworkSpec

pytest.importorskip("executorch.runtime", reason="executorch is not installed")


def layers(num_classes: int) -> tuple[list[Any], list[torch.Tensor]]:
    """The convolutions and the head of a quantised network, in order, and the stored weights of those in int8."""
    from pocket_resnet.exporting.pte.quantization import quantized_module

    torch.manual_seed(0)
    model = ResNet(
        NetworkSpec(num_classes=num_classes, num_blocks=(1, 1, 1), widths=(16, 32, 64), stem_width=16)
    ).eval()
    images_NCSS = np.random.default_rng(0).random((8, 3, 32, 32), np.float32)
    network: Any = quantized_module(model, images_NCSS)
    kinds = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
    nodes = [node for node in network.graph.nodes if node.target in kinds]
    dequantized = [node.args[1] for node in nodes if "dequantize_per_channel" in str(node.args[1].target)]
    return nodes, [getattr(network, node.args[0].target) for node in dequantized]


@pytest.mark.parametrize(("num_classes", "num_in_fp32"), [(2, 2), (100, 1)])
def test_all_but_the_first_convolution_and_a_small_head(num_classes: int, num_in_fp32: int) -> None:
    nodes, weights = layers(num_classes)
    assert len(weights) == len(nodes) - num_in_fp32
    assert "dequantize" not in str(nodes[0].args[1].target)
    assert ("dequantize" in str(nodes[-1].args[1].target)) == (num_in_fp32 == 1)
    for weight in weights:
        assert weight.dtype == torch.int8
        largest_D = weight.flatten(1).abs().amax(1)
        assert largest_D.eq(127).all(), "a scale for each channel"
