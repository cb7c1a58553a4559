"""Builds ONNX files of a trained model.

Shapes: N images, C channels, S x S pixels.
"""

import json
import logging
from functools import cached_property
from typing import get_args

import onnx
import torch

from pocket_resnet.exporting.exporter import Exporter, Target
from pocket_resnet.exporting.graph import network_graph, with_half_weights, with_preprocessing
from pocket_resnet.exporting.parity import BATCH_SIZES, ExportPrecision, check_preprocessing
from pocket_resnet.exporting.quantization import quantized
from pocket_resnet.exporting.session import Session

_log = logging.getLogger(__name__)


class OnnxExporter(Exporter):
    """Builds ONNX files, all from the same fp32 graph."""

    file_kind = "an ONNX file"
    extension = "onnx"
    precisions = get_args(ExportPrecision)
    targets = get_args(Target)
    batch_sizes = BATCH_SIZES

    @cached_property
    def network(self) -> onnx.ModelProto:
        """The fp32 graph without preprocessing. Raises ParityError if the preprocessing differs too much from ours."""
        _log.info("building the graph")
        network = network_graph(self.model)
        session = Session(self._complete(network, "fp32"), torch.get_num_threads())
        check_preprocessing(session, self.model, self.val.images_NCHW)
        return network

    def build(self, precision: ExportPrecision) -> bytes:
        """The content of the file."""
        network = self.network
        if precision == "fp16":
            network = with_half_weights(network)
        elif precision == "int8":
            calibration_NCSS, choice_NCSS = self.calibration_images()
            network = quantized(
                network,
                calibration_NCSS,
                choice_NCSS,
                reduce_range=self.options.target == "any",
                num_threads=torch.get_num_threads(),
            )
        content: bytes = self._complete(network, precision).SerializeToString(deterministic=True)
        return content

    def runnable(self, content: bytes) -> Session:
        """The file in onnxruntime."""
        return Session(content, torch.get_num_threads(), exact_int8=self.options.target == "vnni")

    def _complete(self, network: onnx.ModelProto, precision: ExportPrecision) -> onnx.ModelProto:
        metadata = self.metadata(precision) | {
            "class_names": json.dumps(self.card.class_names, ensure_ascii=False),
            "input": "images: uint8 [batch, height, width, 3], RGB, upright, any size; the centre square is resized",
            "outputs": "logits and probabilities: float [batch, class]",
        }
        if precision == "int8":
            metadata["precision"] += f", target {self.options.target}"
        return with_preprocessing(network, self.card.spec.image_size, metadata)
