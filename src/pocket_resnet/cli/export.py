"""The command `export`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pocket_resnet.cli.flags import DataDir, Json, Model, flag
from pocket_resnet.cli.json_output import JsonOutput
from pocket_resnet.errors import UsageError

if TYPE_CHECKING:
    from pocket_resnet.exporting.exporter import Exported


@dataclass
class Export:
    """Write a model as one ONNX file for other runtimes: pictures in, probabilities out, compared with the model.
    With --format web, write one HTML page that classifies pictures in the visitor's browser, also offline.
    With --format pte, write a program for ExecuTorch, PyTorch's runtime for phones and small boards.

    pocket-resnet export pocket-5m --precision int8

    pocket-resnet export pocket-5m --format web

    Needs the extra `export`, for --format pte the extra `executorch`: pip install 'pocket-resnet[export,executorch]'
    """

    model: Model
    format: Annotated[
        Literal["onnx", "pte", "web"], flag("File format: an ONNX file, an ExecuTorch program, or an HTML page.")
    ] = "onnx"
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        flag(
            "Number format of the weights. fp16 takes half the bytes and computes in fp32, but not in pte; int8 takes "
            "a quarter (default: fp32, for a page int8 if it agrees with the model; with --max-bytes the most exact "
            "that fits).",
            "{fp32,fp16,int8}",
        ),
    ] = None
    target: Annotated[
        Literal["any", "vnni"],
        flag("Processors for int8. vnni is more exact, but saturates on processors without 8-bit dot products."),
    ] = "any"
    max_bytes: Annotated[
        str | None, flag("Maximum size of the file, such as 1MB or 500KB. Picks the precision.", "BYTES")
    ] = None
    out: Annotated[Path, flag("Folder for the file.", "DIR")] = Path("exports")
    data: Annotated[
        str | None,
        flag("Data for calibration and comparison: a name or folder (default: the data of the training).", "DATA"),
    ] = None
    data_dir: DataDir = None
    samples: Annotated[
        int,
        flag(
            "Number of validation images that the page shows as samples to click. Others can see them (default: digits "
            "if trained on the digits, else drawings of the classes that have one).",
            "N",
        ),
    ] = 0
    json: Json = False

    def execute(self) -> None:
        require_packages(self.format)
        output = JsonOutput(self.json, None)
        exported = self.write_file().to_json()
        output.write(exported, lambda: print_exported(exported))

    def write_file(self) -> "Exported":
        """Export the model in the format."""
        if self.samples and self.format != "web":
            raise UsageError("only a page has samples", hint="omit --samples, or add --format web")
        if self.target == "vnni" and self.format != "onnx":
            what = {"web": "a page has no target: its visitors have any processor", "pte": "a .pte file has no target"}
            raise UsageError(what[self.format], hint="omit --target")
        return {"onnx": self._write_onnx, "pte": self._write_pte, "web": self._write_page}[self.format]()

    def _write_onnx(self) -> "Exported":
        from pocket_resnet.exporting.export import export_onnx

        return export_onnx(self.model, target=self.target, **self._choices())

    def _write_pte(self) -> "Exported":
        from pocket_resnet.exporting.pte.export import export_pte

        return export_pte(self.model, **self._choices())

    def _write_page(self) -> "Exported":
        from pocket_resnet.exporting.web.page import export_page

        return export_page(self.model, num_samples=self.samples, **self._choices())

    def _choices(self) -> dict[str, Any]:
        """The arguments that all formats take."""
        names = ("precision", "max_bytes", "out", "data", "data_dir")
        return {name: getattr(self, name) for name in names}


def require_packages(file_format: str) -> None:
    """Raise EnvironmentFault if a package that writes the format is not installed."""
    from pocket_resnet.exporting.requirements import require_extra

    if file_format == "pte":
        require_extra("executorch", "the format pte")
    else:
        require_extra("export")


def print_exported(exported: Mapping[str, Any]) -> None:
    """Print the file and its comparison with the model."""
    print(f"file        {exported['file']}")
    print(f"bytes       {exported['num_bytes']:,} ({exported['bytes_per_param']:.3f} per parameter)")
    print(f"logits      differ from the model's by at most {exported['largest_difference']:.2g}")
    num_images = f"{exported['num_images']:,} validation images"
    print(f"agreement   {exported['agreement']:.2%} of {num_images} get the model's class")
    print(
        f"accuracy    {exported['accuracy_exported']:.2%} with the file, {exported['accuracy']:.2%} with the model "
        f"({exported['num_lost']} lost, {exported['num_won']} won)"
    )
    if exported["caveat"]:
        print(f"            {exported['caveat']}")
