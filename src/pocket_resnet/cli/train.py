"""The command `train`. Its flags for recipe keys are made in train_flags.py."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from pocket_resnet.cli import console
from pocket_resnet.cli.export import Export, print_exported, require_packages
from pocket_resnet.cli.flags import DataDir, Json, OutFile, flag
from pocket_resnet.cli.json_output import JsonOutput
from pocket_resnet.errors import PocketError
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import override

_log = logging.getLogger(__name__)


@dataclass
class Train:
    """Train a network and write checkpoints, metrics and the model to `runs/NAME`. Ctrl-C saves and stops.

    pocket-resnet train fast --data digits

    RECIPE comes first. It is a name from recipes/ or a .toml file (default: fast, or finetune with --from). Every
    recipe key is also a flag.
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
            "{onnx,web,pte}-{fp32,fp16,int8}",
        ),
    ] = None
    json: Json = False
    out: OutFile = None
    debug: ClassVar[bool] = False

    def execute(self) -> None:
        from pocket_resnet.device import keep_freed_memory
        from pocket_resnet.training.distributed import is_writer
        from pocket_resnet.training.run import train

        if self.export:
            require_packages(self.export.partition("-")[0])
        output = JsonOutput(self.json, self.out)
        keep_freed_memory()
        short = {
            "data.name": self.data,
            "teacher.model": self.teacher,
            "pretrained.model": self.from_model,
            "pretrained.freeze_epochs": self.freeze,
        }
        recipe = override(self.recipe, {key: value for key, value in short.items() if value is not None})
        result = train(
            recipe,
            data_dir=self.data_dir,
            runs_dir=self.runs_dir,
            run=self.run,
            resume=self.resume,
            fork=self.fork,
        )
        if is_writer():
            output.write(result.__dict__, lambda: console.print_result(result.__dict__))
            self._write_extras(Path(result.model), output)

    def _write_extras(self, model: Path, output: JsonOutput) -> None:
        """Write the report and the exported file of a finished run."""
        page = self._write_report(model.parent) if self.report else None
        exported = self._write_export(self.export, model.parent) if self.export else None
        if not output.on_stdout:
            if exported:
                print_exported(exported)
            console.print_next_steps(str(model), page)

    def _write_report(self, folder: Path) -> Path | None:
        """The report's page. The run is already saved, so a failure here only prints a line."""
        try:
            from pocket_resnet.reporting.report import write_report

            return write_report([folder], data_dir=self.data_dir)
        except Exception as error:
            console.print_no_report(error, folder, debug=self.debug)
            return None

    def _write_export(self, choice: str, folder: Path) -> dict[str, Any]:
        """The exported file's figures. The run is already saved, so a failure does not lose it."""
        kind: Any
        precision: Any
        kind, precision = choice.split("-")
        try:
            export = Export(folder, kind, precision, out=folder, data_dir=self.data_dir)
            return export.write_file().to_json()
        except PocketError:
            _log.warning("%s: the run is finished and saved, but not exported", folder)
            raise
