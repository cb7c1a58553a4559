"""The command `export`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pocket_resnet.cli.flags import DataDir, Json, Model, flag
from pocket_resnet.cli.json_output import JsonOutput


@dataclass
class Export:
    """Write a model as one ONNX file for other runtimes: pictures in, probabilities out, compared with the model.

    pocket-resnet export pocket-5m --precision int8

    Needs the extra `export`: pip install 'pocket-resnet[export]'
    """

    model: Model
    format: Annotated[Literal["onnx"], flag("File format.")] = "onnx"
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        flag(
            "Number format of the weights. fp16 takes half the bytes and computes in fp32; int8 takes a quarter "
            "(default: fp32, or the most exact that fits in --max-bytes).",
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
    json: Json = False

    def execute(self) -> None:
        from pocket_resnet.exporting.requirements import require_extra

        require_extra("export")
        from pocket_resnet.exporting.export import export_onnx

        output = JsonOutput(self.json, None)
        found = export_onnx(
            self.model,
            precision=self.precision,
            target=self.target,
            max_bytes=self.max_bytes,
            out=self.out,
            data=self.data,
            data_dir=self.data_dir,
        ).to_json()
        output.tell(found, lambda: _print(found))


def _print(found: Mapping[str, Any]) -> None:
    """The file and its comparison with the model."""
    print(f"file        {found['file']}")
    print(f"bytes       {found['num_bytes']:,} ({found['bytes_per_param']:.3f} per parameter)")
    print(f"logits      differ from the model's by at most {found['largest_difference']:.2g}")
    print(f"agreement   {found['agreement']:.2%} of {found['num_images']:,} validation images get the model's class")
    print(
        f"accuracy    {found['accuracy_exported']:.2%} in onnxruntime, {found['accuracy']:.2%} in torch "
        f"({found['num_lost']} lost, {found['num_won']} won)"
    )
    if found["caveat"]:
        print(f"            {found['caveat']}")
