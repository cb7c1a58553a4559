"""Writes a trained model as one program for ExecuTorch, after comparing it with the model.

Shapes: N images, C channels, S x S pixels.
"""

import logging
from pathlib import Path

from torch import nn

from pocket_resnet.errors import UsageError
from pocket_resnet.exporting.exporter import Exported, Exporter
from pocket_resnet.exporting.parity import Precision
from pocket_resnet.exporting.pte.program import Program, program
from pocket_resnet.exporting.pte.quantization import quantized
from pocket_resnet.torch_settings import own_settings

_log = logging.getLogger(__name__)


@own_settings()
def export_pte(
    path: str | Path,
    *,
    precision: Precision | None = None,
    max_bytes: str | None = None,
    out: str | Path = "exports",
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> Exported:
    """Write `out`/NAME-PRECISION.pte, compared with the model on validation images of its training data, or of `data`.

    The default precision is fp32, or with `max_bytes` the most exact one that fits. Raises ParityError if file and
    model differ too much, and UsageError for fp16 or if no precision fits. Nothing is written then.
    """
    if precision == "fp16":
        raise UsageError("a .pte file has no fp16", hint="export with --precision fp32 or --precision int8")
    exporter = PteExporter(path, out=out, max_bytes=max_bytes, target="any", data=data, data_dir=data_dir)
    return exporter.write(precision, default="fp32")


class PteExporter(Exporter):
    """Builds programs for ExecuTorch, which take one picture at a time."""

    extension = "pte"
    precisions = ("fp32", "int8")
    batch_sizes = (1,)

    def build(self, precision: Precision) -> bytes:
        """The content of the file."""
        network: nn.Module = self.model
        if precision == "int8":
            calibration_NCSS, _ = self.calibration_images()
            network = quantized(self.model, calibration_NCSS)
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
