"""Builds programs for ExecuTorch from a trained model.

Shapes: N images, C channels, S x S pixels.
"""

import logging

from torch import nn

from pocket_resnet.exporting.exporter import Exporter
from pocket_resnet.exporting.parity import ExportPrecision
from pocket_resnet.exporting.pte.program import Program, program
from pocket_resnet.exporting.pte.quantization import quantized_module

_log = logging.getLogger(__name__)


class PteExporter(Exporter):
    """Builds programs for ExecuTorch, which take one picture at a time."""

    file_kind = "a .pte file"
    extension = "pte"
    precisions = ("fp32", "int8")
    batch_sizes = (1,)

    def build(self, precision: ExportPrecision) -> bytes:
        """The content of the file."""
        network: nn.Module = self.model
        if precision == "int8":
            calibration_NCSS, _ = self.calibration_images()
            network = quantized_module(self.model, calibration_NCSS)
        _log.info("building the program")
        size = self.card.spec.image_size
        metadata: dict[str, str | tuple[str, ...]] = {
            **self.metadata(precision),
            "class_names": self.card.class_names,
            "input": f"images: uint8 [1, {size}, {size}, 3]: an upright RGB picture's centre square, resized",
            "outputs": "logits and probabilities: float [1, class]",
        }
        return program(network, size, metadata)

    def runnable(self, content: bytes) -> Program:
        """The file in ExecuTorch's runtime."""
        return Program(content)
