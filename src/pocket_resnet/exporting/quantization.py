"""Static quantisation to 8-bit weights and activations, calibrated on training images.

Activations are unsigned with a zero point; weights are signed with one scale per channel (QDQ format). Additions, the
first convolution and a small head stay in fp32: the last two have few weights and cost the most accuracy when
quantised. So do convolutions with a few hundred weights, as in the squeeze-and-excitation of narrow networks: the nodes
around them would take more bytes and time than they save. The range of an activation is a percentile of its values. The
percentile is the one with the smallest error of the logits on other training images. docs/log.md has the figures.

Source: Nagel et al. 2021 (arXiv:2106.08295), sections 2 and 3. Shapes: N images, C channels, S x S pixels, K classes.
"""

import copy
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from pocket_resnet.exporting.exporter import MAX_FP32_HEAD
from pocket_resnet.exporting.graph import compact
from pocket_resnet.exporting.quiet import quiet
from pocket_resnet.exporting.session import Session, batches

PERCENTILES = (99.999, 99.9999, 100.0)
QUANTIZED = ("Conv", "MaxPool", "Gemm")
MAX_FP32_WEIGHTS = 256  # of a convolution that stays in fp32
_BATCH = 50


def quantized(
    network: onnx.ModelProto,
    calibration_NCSS: NDArray[np.float32],
    choice_NCSS: NDArray[np.float32],
    *,
    reduce_range: bool,
    num_threads: int,
) -> onnx.ModelProto:
    """The network with 8-bit weights and activations.

    `calibration_NCSS` determine the ranges of activations, and `choice_NCSS` one of PERCENTILES. With `reduce_range`
    weights have 7 bits: processors with AVX2 or AVX-512 but without VNNI add two products in 16 bits, which would
    saturate with 8.
    """
    expected_NK = Session(network, num_threads).logits(choice_NCSS, _BATCH)

    def error(candidate: onnx.ModelProto) -> float:
        actual_NK = Session(candidate, num_threads).logits(choice_NCSS, _BATCH)
        return float(np.square(actual_NK - expected_NK).mean())

    with quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save(network, path)
        prepared = load_model_with_shape_infer(path)
        all_ranges = _ranges(path, calibration_NCSS)
        candidates = [_quantize(prepared, ranges, reduce_range) for ranges in all_ranges]
    return compact(min(candidates, key=error))


def _ranges(path: Path, images_NCSS: NDArray[np.float32]) -> list[TensorsData]:
    """The range of every activation, once for each of PERCENTILES."""
    calibrator = create_calibrator(
        path,
        QUANTIZED,
        augmented_model_path=str(path.with_name("augmented.onnx")),
        calibrate_method=CalibrationMethod.Percentile,
    )
    for batch_BCSS in batches(images_NCSS, _BATCH):  # the activations of all images would take gigabytes
        calibrator.collect_data(_Reader(batch_BCSS))
    ranges = []
    for percentile in PERCENTILES:
        calibrator.collector.percentile = percentile
        ranges.append(calibrator.compute_data())
    return ranges


def _quantize(prepared: onnx.ModelProto, ranges: TensorsData, reduce_range: bool) -> onnx.ModelProto:
    quantizer = QDQQuantizer(
        copy.deepcopy(prepared),
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=_left_in_fp32(prepared),
        op_types_to_quantize=list(QUANTIZED),
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    model: onnx.ModelProto = quantizer.model.model
    return model


def _left_in_fp32(prepared: onnx.ModelProto) -> list[str]:
    """The names of the first convolution, of tiny ones and, if it is small, of the head."""
    num_weights = {tensor.name: math.prod(tensor.dims) for tensor in prepared.graph.initializer}
    most = MAX_FP32_HEAD * sum(num_weights.values())
    first, *others = (node for node in prepared.graph.node if node.op_type == "Conv")
    tiny = (conv.name for conv in others if num_weights[conv.input[1]] <= MAX_FP32_WEIGHTS)
    heads = (node for node in prepared.graph.node if node.op_type == "Gemm")
    return [first.name, *tiny, *(head.name for head in heads if num_weights[head.input[1]] <= most)]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """One batch, in the form that onnxruntime's calibration takes."""

    def __init__(self, batch_BCSS: NDArray[np.float32]) -> None:
        self.left = [batch_BCSS]

    def get_next(self) -> dict[str, Any] | None:
        return {"pixels": self.left.pop()} if self.left else None
