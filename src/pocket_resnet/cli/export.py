"""The command `export`: a class whose fields are its flags, and what it prints."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pocket_resnet.cli.json_output import JsonOutput


@dataclass
class Export:
    """Write a model as an ONNX file for other runtimes, checked against the model: pictures in, probabilities out.

    pocket-resnet export pocket-5m --precision int8

    Needs the extra `export`: pip install 'pocket-resnet[export]'
    """

    model: tyro.conf.Positional[Path]
    """A model directory, a finished run's, or a released model's name."""
    format: Literal["onnx"] = "onnx"
    """File format."""
    precision: Literal["fp32", "fp16", "int8"] | None = None
    """fp32; fp16: half the bytes, computes in fp32; int8: a quarter (default: fp32, or what --max-bytes allows)."""
    target: Literal["any", "vnni"] = "any"
    """Processors for int8. vnni is more exact there, and may saturate where 8-bit dot products are missing."""
    max_bytes: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None
    """Most bytes of the file: 1MB, 500KB. The most exact precision that fits is taken."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("exports")
    """Folder for the file."""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """Data to check and calibrate on: a name or folder (default: what the model was trained on, if unchanged)."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for data sets."""
    json: Annotated[bool, tyro.conf.arg(help="Print one JSON object on standard output, and nothing else there.")] = (
        False
    )

    def execute(self) -> None:
        from pocket_resnet.exporting.requirements import require_extra

        require_extra()
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
            notify=lambda line: print(line, file=sys.stderr, flush=True),
        ).to_json()
        output.tell(found, lambda: _print(found))


def _print(found: Mapping[str, Any]) -> None:
    """A line a figure: the file, and how it compares with its model."""
    print(f"file        {found['file']}")
    print(f"bytes       {found['num_bytes']:,} ({found['bytes_per_param']:.3f} a parameter)")
    print(f"logits      {found['largest_difference']:.2g} at most from the model's")
    print(f"agreement   {found['agreement']:.2%} of {found['num_images']:,} validation images have the model's class")
    print(
        f"accuracy    {found['accuracy_exported']:.2%} in onnxruntime, {found['accuracy']:.2%} in torch "
        f"({found['num_lost']} lost, {found['num_won']} won)"
    )
    if found["caveat"]:
        print(f"            {found['caveat']}")
