"""Builds the ONNX graph: from a batch of uint8 RGB images of any height and width to probabilities.

It repeats `data/image.py` and `ResNet.forward`: centre square, resize, scale to 0..1, normalise, network, softmax.

Shapes: B images, H x W pixels of any size, S x S pixels of the network, K classes.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import torch
from onnx import numpy_helper, parser
from onnx.helper import get_attribute_value

from pocket_resnet.exporting.quiet import quiet
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.version import __version__

OPSET = 20  # the first with Gelu and with Resize's antialias together
IR_VERSION = 10
MIN_FP16_VALUES = 1024  # smaller weights stay in fp32: the extra node would cost more than it saves
_CONV_DEFAULTS = {"auto_pad": b"NOTSET", "group": 1, "strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0]}

# Pillow's bicubic filter has a = -0.5 and uses no pixels beyond the border. The resize works on uint8: onnxruntime and
# Pillow then both round between the horizontal and the vertical pass, and differ by at most one level in few pixels.
_PREPROCESSING = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
preprocessing (uint8[batch, height, width, 3] images) => (float[batch, 3, {size}, {size}] pixels)
{{
  picture_size = Shape <start = 1, end = 3> (images)
  square_side = ReduceMin <keepdims = 1> (picture_size)
  margins = Sub (picture_size, square_side)
  two = Constant <value_ints = [2]> ()
  square_start = Div (margins, two)
  square_end = Add (square_start, square_side)
  square_axes = Constant <value_ints = [1, 2]> ()
  square = Slice (images, square_start, square_end, square_axes)
  planes = Transpose <perm = [0, 3, 1, 2]> (square)
  network_size = Constant <value_ints = [{size}, {size}]> ()
  resized = Resize <mode = "cubic", cubic_coeff_a = -0.5, antialias = 1, exclude_outside = 1, axes = [2, 3]>
    (planes, , , network_size)
  levels = Cast <to = 1> (resized)
  white = Constant <value_float = 255.0> ()
  pixels = Div (levels, white)
}}
"""


def network_graph(model: ResNet) -> onnx.ModelProto:
    """The network alone, in fp32: from `pixels`, float [B, 3, S, S] from 0 to 1, to `logits` [B, K].

    Batch norms are folded into the preceding convolutions.
    """
    size = model.spec.image_size
    example_BCHW = torch.zeros(2, 3, size, size)
    with quiet():
        program = torch.onnx.export(
            model.eval(),
            (example_BCHW,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None  # without a file name, the exporter returns the program
    graph: onnx.ModelProto = program.model_proto
    _strip(graph)
    return graph


def with_preprocessing(network: onnx.ModelProto, size: int, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The complete model: from `images`, uint8 [B, H, W, 3], to `logits` and `probabilities` [B, K]."""
    complete = parser.parse_model(_PREPROCESSING.format(ir_version=IR_VERSION, opset=OPSET, size=size))
    complete.graph.name = "pocket_resnet"
    complete.producer_name, complete.producer_version = "pocket-resnet", __version__
    complete.graph.node.extend(network.graph.node)
    complete.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
    complete.graph.initializer.extend(network.graph.initializer)
    del complete.graph.output[:]
    num_classes = network.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    complete.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", num_classes])
        for name in ("logits", "probabilities")
    )
    onnx.helper.set_model_props(complete, dict(metadata))
    onnx.checker.check_model(complete, full_check=True)
    return complete


def with_half_weights(network: onnx.ModelProto) -> onnx.ModelProto:
    """The network with its weights stored as fp16. onnxruntime casts them to fp32 once, when it loads the file."""
    halved = onnx.ModelProto()
    halved.CopyFrom(network)
    del halved.graph.node[:], halved.graph.initializer[:]
    for tensor in network.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= MIN_FP16_VALUES:
            stored = f"{tensor.name}.fp16"
            with np.errstate(over="ignore"):  # infinity beyond fp16's range; the parity check refuses it
                halved.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), stored))
            cast = onnx.helper.make_node("Cast", [stored], [tensor.name], to=onnx.TensorProto.FLOAT)
            halved.graph.node.append(cast)
        else:
            halved.graph.initializer.append(tensor)
    halved.graph.node.extend(network.graph.node)
    return halved


def compact(network: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in fewer bytes: numbers for inner names, no zero points of biases, no default attributes.

    In an int8 file of 100,000 parameters, the long names alone would take two thirds of a byte per parameter.
    """
    short = onnx.ModelProto()
    short.CopyFrom(network)
    graph = short.graph
    _remove_zero_points(graph)
    for node in graph.node:
        given = [attribute for attribute in node.attribute if not _is_implied(node.op_type, attribute)]
        del node.attribute[:]
        node.attribute.extend(given)
    new_names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}  # "" is an absent input

    def renamed(names: Iterable[str]) -> list[str]:
        return [new_names.setdefault(name, f"{len(new_names):x}") for name in names]

    for node in graph.node:
        node.ClearField("name")
        node.input[:], node.output[:] = renamed(node.input), renamed(node.output)
    for tensor in graph.initializer:
        [tensor.name] = renamed([tensor.name])
    del graph.value_info[:]
    return short


def _remove_zero_points(graph: onnx.GraphProto) -> None:
    """Of the biases, whose zero point is always 0. Without those of weights, onnxruntime may fail."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        value = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if value is not None and value.data_type == onnx.TensorProto.INT32:
            del node.input[2:]
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for name, tensor in constants.items() if name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _is_implied(operator: str, attribute: onnx.AttributeProto) -> bool:
    """Whether a convolution computes the same without this attribute."""
    if operator != "Conv":
        return False
    return attribute.name == "kernel_shape" or _CONV_DEFAULTS.get(attribute.name) == get_attribute_value(attribute)


def _strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes: stack traces with this machine's paths, shapes, versions."""
    del model.graph.value_info[:], model.metadata_props[:], model.graph.metadata_props[:]
    model.ClearField("doc_string")
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.ClearField("doc_string")
