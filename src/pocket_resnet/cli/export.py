"""The command `export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pocket_resnet.cli.command_output import CommandOutput
from pocket_resnet.cli.flags import DataDir, Json, Model, flag

if TYPE_CHECKING:
    from pocket_resnet.exporting.exporter import Exported


@dataclass
class Export:
    """Write a model as one ONNX file for other runtimes: images in, probabilities out, compared with the model.
    With --format web, write one HTML page that classifies images in the visitor's browser, also offline.
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
            "Number format of the weights. fp16 takes half the bytes and computes in fp32; pte does not have it. int8 "
            "takes a quarter (default: fp32, for a page int8 if it agrees with the model; with --max-bytes the most "
            "exact that fits).",
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
        flag("Data for calibration and comparison: a name or folder (default: the model's training data).", "DATA"),
    ] = None
    data_dir: DataDir = None
    samples: Annotated[
        int,
        flag(
            "Number of validation images that the page shows as samples. Every visitor can see them (default: digits "
            "if trained on the digits, else drawings of the classes that have one).",
            "N",
        ),
    ] = 0
    json: Json = False

    def execute(self) -> None:
        from pocket_resnet.exporting.export import export

        output = CommandOutput(self.json, None)
        exported = export(
            self.model,
            self.format,
            precision=self.precision,
            target=self.target,
            max_bytes=self.max_bytes,
            out=self.out,
            data=self.data,
            data_dir=self.data_dir,
            samples=self.samples,
        )
        output.write(exported.to_json, lambda: print_exported(exported))


def print_exported(exported: "Exported") -> None:
    """Print the file and its comparison with the model."""
    comparison = exported.comparison
    print(f"file        {exported.file}")
    per_param = f" ({exported.bytes_per_param:.3f} per parameter)" if exported.file.suffix != ".html" else ""
    print(f"bytes       {exported.num_bytes:,}{per_param}")
    print(f"logits      differ from the model's by at most {comparison.largest_difference:.2g}")
    num_images = f"{comparison.num_images:,} validation images"
    print(f"agreement   {comparison.agreement:.2%} of {num_images} get the model's class")
    print(
        f"accuracy    {comparison.accuracy_exported:.2%} with the file, {comparison.accuracy:.2%} with the model "
        f"({comparison.num_lost} lost, {comparison.num_won} won)"
    )
    if exported.caveat:
        print(f"            {exported.caveat}")
