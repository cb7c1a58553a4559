"""The command `train`. Its flags for recipe keys are made in train_flags.py."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import tyro

from pocket_resnet.cli import console
from pocket_resnet.cli.command_output import CommandOutput
from pocket_resnet.cli.export import print_exported
from pocket_resnet.cli.flags import DataDir, Json, OutFile, flag
from pocket_resnet.errors import PocketError
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import with_choices

if TYPE_CHECKING:
    from pocket_resnet.exporting.export import Format
    from pocket_resnet.exporting.exporter import Exported
    from pocket_resnet.exporting.parity import ExportPrecision
    from pocket_resnet.inference.evaluation import Evaluation
    from pocket_resnet.training.result import Result

_log = logging.getLogger(__name__)


@dataclass
class Train:
    """Train a network and write checkpoints, metrics and the model to `runs/NAME`. Ctrl-C saves and stops.

    pocket-resnet train fast --data digits

    RECIPE comes first: a name from recipes/ or a .toml file. Without RECIPE, `--resume --run NAME` uses the run's own
    recipe, `--from` uses finetune, and otherwise the recipe is fast. Every recipe key is also a flag.
    """

    recipe: Recipe
    data: Annotated[
        str | None,
        flag(
            "cifar10, cifar100, digits, auto, or a folder with one subfolder per class (./digits is a folder). "
            "With --resume: the new location of the run's data.",
            "DATA",
        ),
    ] = None
    teacher: Annotated[
        str | None, flag("Distil from this trained model: the network learns to match its predictions.", "MODEL")
    ] = None
    from_model: Annotated[
        str | None,
        tyro.conf.arg(name="from"),
        flag("Fine-tune this trained model on the data's classes (default recipe: finetune).", "MODEL"),
    ] = None
    freeze: Annotated[
        int | None, flag("With --from: train only the head for this many epochs, then everything.", "EPOCHS")
    ] = None
    data_dir: DataDir = None
    runs_dir: Annotated[Path, flag("Folder for runs.", "DIR")] = Path("runs")
    run: Annotated[
        str | None, flag("Name of the run's folder (default: built from recipe, data and seed).", "NAME")
    ] = None
    resume: Annotated[bool, flag("Resume an interrupted run, or start it if it does not exist.")] = False
    fork: Annotated[bool, flag("Resume even if the recipe or the data has changed since the run started.")] = False
    report: Annotated[bool, flag("Write an HTML report to the run's folder at the end.")] = True
    export: Annotated[
        Literal["onnx-fp32", "onnx-fp16", "onnx-int8", "web-fp32", "web-fp16", "web-int8", "pte-fp32", "pte-int8"]
        | None,
        flag(
            "Export the model to the run's folder at the end, as `export` does: onnx-int8 is an ONNX file in int8, "
            "web-int8 a page for the browser, pte-int8 an ExecuTorch program. Repeat it with --resume.",
            "{onnx,web}-{fp32,fp16,int8}|pte-{fp32,int8}",
        ),
    ] = None
    json: Json = False
    out: OutFile = None
    debug: ClassVar[bool] = False

    def execute(self) -> None:
        from pocket_resnet.device import keep_freed_memory
        from pocket_resnet.training.callbacks import LastEvaluation
        from pocket_resnet.training.distributed import is_writer
        from pocket_resnet.training.run import train

        if self.export is not None:
            from pocket_resnet.exporting.export import require_packages

            require_packages(_parts(self.export)[0])
        output = CommandOutput(self.json, self.out)
        keep_freed_memory()
        short = {
            "data.name": self.data,
            "teacher.model": self.teacher,
            "pretrained.model": self.from_model,
            "pretrained.freeze_epochs": self.freeze,
        }
        changes: dict[str, Any] = {key: value for key, value in short.items() if value is not None}
        result = train(
            with_choices(self.recipe, changes),
            data_dir=self.data_dir,
            runs_dir=self.runs_dir,
            run=self.run,
            resume=self.resume,
            fork=self.fork,
            callbacks=[last := LastEvaluation()],
        )
        if is_writer():
            if not output.on_stdout:
                console.print_result(result)
            self._finish(result, last.evaluation, output)

    def _finish(self, result: "Result", evaluation: "Evaluation | None", output: CommandOutput) -> None:
        """Write the report, the exported file and the JSON; the last even if one of the others fails."""
        folder, report, exported = result.folder, None, None
        try:
            if self.report:
                report = self._write_report(folder, evaluation)
            if self.export is not None:
                exported = self._write_export(self.export, folder)
        finally:
            extras = {"report": report and str(report), "exported": exported and exported.to_json()}
            output.write(lambda: asdict(result) | extras, lambda: _print_extras(result, report, exported))

    def _write_report(self, folder: Path, evaluation: "Evaluation | None") -> Path | None:
        """The path of the report. The run is already saved, so a failure here only prints a line."""
        try:
            from pocket_resnet.reporting.report import write_report

            device = self.recipe.hardware.device
            return write_report([folder], data_dir=self.data_dir, device=device, evaluation=evaluation)
        except Exception as error:
            console.print_no_report(error, folder, debug=self.debug)
            return None

    def _write_export(self, choice: str, folder: Path) -> "Exported":
        """The exported file. The run is already saved, so a failure does not lose it."""
        from pocket_resnet.exporting.export import export

        file_format, precision = _parts(choice)
        try:
            return export(folder, file_format, precision=precision, out=folder, data_dir=self.data_dir)
        except PocketError:
            _log.warning("%s: the run is finished and saved, but not exported", folder)
            raise


def _parts(choice: str) -> "tuple[Format, ExportPrecision]":
    """The format and the precision of a choice of `--export`."""
    return cast("tuple[Format, ExportPrecision]", tuple(choice.split("-")))


def _print_extras(result: "Result", report: Path | None, exported: "Exported | None") -> None:
    """Print the exported file, the report's path and the command to try next."""
    if exported is not None:
        print_exported(exported)
    console.print_next_steps(result.model, report)
