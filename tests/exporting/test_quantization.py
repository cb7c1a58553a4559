"""Which layers of a network become int8."""

import math
from dataclasses import replace

import numpy as np
from onnx import numpy_helper

from pocket_resnet.exporting.graph import network_graph
from pocket_resnet.exporting.quantization import MAX_FP32_WEIGHTS, quantized
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import NetworkSpec


def test_the_first_and_tiny_convolutions_stay_in_fp32(tiny_spec: NetworkSpec) -> None:
    """Squeeze-and-excitation of a few channels would get more nodes and bytes, and take more time."""
    spec = replace(
        tiny_spec, squeeze_excite="block", widths=tuple(8 * (stage + 1) for stage in range(len(tiny_spec.widths)))
    )
    images_NCSS = np.random.default_rng(0).random((8, 3, spec.image_size, spec.image_size), np.float32)
    graph = quantized(network_graph(ResNet(spec)), images_NCSS, images_NCSS, reduce_range=True, num_threads=1).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    first, *others = (node for node in graph.node if node.op_type == "Conv")
    assert stored[first.input[1]].dtype == np.float32
    in_fp32 = [math.prod(stored[conv.input[1]].shape) for conv in others if conv.input[1] in stored]
    in_int8 = [stored[producers[conv.input[1]].input[0]] for conv in others if conv.input[1] not in stored]
    assert in_fp32
    assert max(in_fp32) <= MAX_FP32_WEIGHTS
    assert in_int8
    assert all(weight.dtype == np.int8 and weight.size > MAX_FP32_WEIGHTS for weight in in_int8)
