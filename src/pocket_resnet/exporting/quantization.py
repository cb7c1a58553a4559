"""8-bit weights and activations: static quantisation, calibrated on training images.

Activations are unsigned with a zero point, weights signed with a scale a channel (QDQ format). The first convolution
stays in fp32: quantised, it costs the most accuracy, and it has the fewest weights. The range of an activation is a
percentile of its values; which one is chosen by the error of the logits, on other training images.

Source: Nagel et al. 2021 (arXiv:2106.08295), sections 2 and 3. Shapes: N images, C channels, S x S pixels, K classes.
"""

import copy
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

from pocket_resnet.exporting.quiet import quiet
from pocket_resnet.exporting.session import batches, open_session, outputs

PERCENTILES = (99.99, 99.999, 100.0)
QUANTIZED = ("Conv", "MaxPool", "Gemm")
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

    `calibration_NCSS` give the ranges, `choice_NCSS` decide between PERCENTILES. `reduce_range`: weights of 7 bits, for
    processors that add two 8-bit products in 16 bits and would saturate: those with AVX2 or AVX-512 and no VNNI.
    """
    wanted_NK = outputs(open_session(network, num_threads), choice_NCSS, _BATCH)

    def error(candidate: onnx.ModelProto) -> float:
        found_NK = outputs(open_session(candidate, num_threads), choice_NCSS, _BATCH)
        return float(np.square(found_NK - wanted_NK).mean())

    with quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save(network, path)
        prepared = load_model_with_shape_infer(path)
        all_ranges = _ranges(path, calibration_NCSS)
        candidates = [_quantize(prepared, ranges, reduce_range) for ranges in all_ranges]
    return min(candidates, key=error)


def _ranges(path: Path, images_NCSS: NDArray[np.float32]) -> list[TensorsData]:
    """The smallest and largest value of every activation, once for each of PERCENTILES."""
    calibrator = create_calibrator(
        path,
        QUANTIZED,
        augmented_model_path=str(path.with_name("augmented.onnx")),
        calibrate_method=CalibrationMethod.Percentile,
    )
    for batch_BCSS in batches(images_NCSS, _BATCH):  # all at once, its activations take gigabytes
        calibrator.collect_data(_Reader(batch_BCSS))
    found = []
    for percentile in PERCENTILES:
        calibrator.collector.percentile = percentile
        found.append(calibrator.compute_data())
    return found


def _quantize(prepared: onnx.ModelProto, ranges: TensorsData, reduce_range: bool) -> onnx.ModelProto:
    first_conv = next(node.name for node in prepared.graph.node if node.op_type == "Conv")
    quantizer = QDQQuantizer(
        copy.deepcopy(prepared),
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[first_conv],
        op_types_to_quantize=list(QUANTIZED),
        extra_options={},
    )
    quantizer.quantize_model()
    model: onnx.ModelProto = quantizer.model.model
    return model


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """One batch, in the form that onnxruntime's calibration asks for."""

    def __init__(self, batch_BCSS: NDArray[np.float32]) -> None:
        self.left = [batch_BCSS]

    def get_next(self) -> dict[str, Any] | None:
        return {"pixels": self.left.pop()} if self.left else None
