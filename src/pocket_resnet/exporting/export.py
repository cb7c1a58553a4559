"""Writes a trained model as one file for other programs."""

from pathlib import Path
from typing import Literal, get_args

from pocket_resnet.errors import UsageError
from pocket_resnet.exporting.exporter import Exported, Exporter, ExportOptions, Target
from pocket_resnet.exporting.parity import ExportPrecision
from pocket_resnet.extras import require_extra
from pocket_resnet.torch_settings import own_settings

Format = Literal["onnx", "pte", "web"]


@own_settings()
def export(
    model: str | Path,
    format: Format = "onnx",
    *,
    precision: ExportPrecision | None = None,
    target: Target = "any",
    max_bytes: str | int | None = None,
    out: str | Path = "exports",
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
    samples: int = 0,
) -> Exported:
    """Write a model (see `load`) as `out`/NAME-PRECISION.onnx, .pte or .html, and return its path and figures.

    The file is compared with the model on validation images of its own data, or of `data`. `format` is "onnx", "pte"
    for ExecuTorch, or "web" for a page that classifies pictures in the browser. The default precision is fp32, for a
    page int8, or fp16 if int8 differs too much; with `max_bytes` (a number, or text such as "1MB") it is the most exact
    one that fits. `target` is the processor for int8 in ONNX; sums in a "vnni" file may saturate on other processors.
    `samples` is the number of validation images that a page shows as samples.
    Needs the extra `export`, for "pte" the extra `executorch`. Raises UsageError for a missing model, options that the
    format lacks, or if no precision fits; DataError if the data are missing or have changed since the training;
    ArtifactError if the model is damaged, and its subclass ParityError if file and model differ too much;
    EnvironmentFault if a package of the extra is missing or the file cannot be written. Nothing is written then.

    Example:

        exported = pocket_resnet.export("pocket-5m", precision="int8")
        print(exported.file, exported.num_bytes, exported.comparison.agreement)
    """
    require_packages(format)
    options = ExportOptions(precision, target, max_bytes, samples, out, data, data_dir)
    return _exporter(format)(model, options).write()


def require_packages(format: Format) -> None:
    """Raise EnvironmentFault if a package that writes the format is missing, UsageError if there is no such format."""
    if format not in get_args(Format):
        raise UsageError(f"unknown format {format!r}", hint=f"choose one of {', '.join(get_args(Format))}")
    if format == "pte":
        require_extra("executorch", "the format pte")
    else:
        require_extra("export")


def is_exported(path: Path) -> bool:
    """Whether the path is that of an ONNX file, not of a model directory or run."""
    return path.suffix.lower() == ".onnx" and not path.is_dir()


def _exporter(format: Format) -> type[Exporter]:
    """The class that writes the format; it imports the format's packages."""
    match format:
        case "onnx":
            from pocket_resnet.exporting.onnx_exporter import OnnxExporter

            return OnnxExporter
        case "pte":
            from pocket_resnet.exporting.pte.exporter import PteExporter

            return PteExporter
        case "web":
            from pocket_resnet.exporting.web.exporter import PageExporter

            return PageExporter
