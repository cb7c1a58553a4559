"""Builds pages for the browser from a trained model."""

import logging
from pathlib import Path

from pocket_resnet.exporting.exporter import Exported, ExportOptions, licence
from pocket_resnet.exporting.onnx_exporter import OnnxExporter
from pocket_resnet.exporting.parity import ExportPrecision, ParityError
from pocket_resnet.exporting.web.page import render
from pocket_resnet.exporting.web.samples import choose_samples
from pocket_resnet.exporting.web.template import Page

_log = logging.getLogger(__name__)


class PageExporter(OnnxExporter):
    """Builds pages that contain an ONNX file, which is compared with the model."""

    file_kind = "a page"
    extension = "html"
    default_precision = "int8"
    targets = ("any",)  # visitors have any processor
    has_samples = True

    def __init__(self, path: str | Path, options: ExportOptions) -> None:
        super().__init__(path, options)
        self.samples = choose_samples(self.source, self.val, self.card.class_names, options.samples)

    def wrap(self, network: bytes, precision: ExportPrecision) -> bytes:
        """The page with the ONNX file."""
        size = self.card.spec.image_size
        return render(Page(self.name, self.card.class_names, size, self._facts(precision), self.samples), network)

    def write(self) -> Exported:
        """Write the page; by default in int8, or in fp16 if the int8 file differs too much from the model."""
        try:
            return super().write()
        except ParityError as error:
            if self.options.precision or self.limit:
                raise
            _log.warning("%s; the page contains fp16 instead", error.what)
            return self._write_first_that_fits("fp16")

    def _facts(self, precision: ExportPrecision) -> dict[str, str]:
        card = self.card
        images = {"val": "validation images", "test": "test images"}.get(card.split, f"images ({card.split})")
        facts = {
            "Name": self.name,
            "Parameters": f"{card.num_params:,}, stored as {precision}",
            "Training data": card.data,
            "Accuracy": f"{card.accuracy:.2%} of {card.num_images:,} {images}, measured in fp32",
            "Licence": licence(self.path),
            "Trained by": f"PocketResNet {card.version}",
        }
        return facts | ({"Note": card.caveat} if card.caveat else {})
