"""The commands: one class each, whose fields are its flags.

Each command imports what it needs when it runs, so that --help answers at once.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from pocket_resnet.cli import console
from pocket_resnet.cli.flags import DataDir, Json, Model, OutFile, Views, flag, several
from pocket_resnet.cli.json_output import JsonOutput
from pocket_resnet.cli.search_command import Search
from pocket_resnet.errors import DataError, UsageError, listed
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import override


@dataclass
class Train:
    """Train a network and write checkpoints, metrics and the model to `runs/NAME`. Ctrl-C saves before it stops.

    pocket-resnet train fast --data digits

    RECIPE comes first: a name from recipes/ or a .toml file (default: fast). Every recipe key is also a flag.
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
    data_dir: DataDir = None
    runs_dir: Annotated[Path, flag("Folder for runs.", "DIR")] = Path("runs")
    run: Annotated[
        str | None, flag("Name of the run's folder (default: built from recipe, data and seed).", "NAME")
    ] = None
    resume: Annotated[bool, flag("Resume an interrupted run, or start it if it does not exist.")] = False
    fork: Annotated[bool, flag("Resume even if the recipe or the data have changed since the run began.")] = False
    report: Annotated[bool, flag("Write an HTML report to the run's folder at the end.")] = True
    json: Json = False
    out: OutFile = None
    debug: ClassVar[bool] = False

    def execute(self) -> None:
        from pocket_resnet.device import keep_freed_memory
        from pocket_resnet.training.distributed import is_writer
        from pocket_resnet.training.run import train

        output = JsonOutput(self.json, self.out)
        if not is_writer():  # only rank 0 logs
            logging.getLogger("pocket_resnet").setLevel(logging.ERROR)
        keep_freed_memory()
        short = {"data.name": self.data, "teacher.model": self.teacher}
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
            output.tell(result.__dict__, lambda: console.result(result.__dict__))
            page = self._write_report(Path(result.model).parent) if self.report else None
            if not output.on_stdout:
                console.next_steps(result.model, page)

    def _write_report(self, folder: Path) -> Path | None:
        """The report's page. The run is already saved, so a failure here only prints a line."""
        try:
            from pocket_resnet.reporting.report import write_report

            return write_report([folder], data_dir=self.data_dir)
        except Exception as error:
            console.no_report(error, folder, debug=self.debug)
            return None


@dataclass
class Evaluate:
    """Measure a model: accuracy with a 95% interval, accuracy per class, confusion matrix and calibration.

    pocket-resnet evaluate runs/fast-cifar10-seed0
    """

    model: Model
    data: Annotated[
        str | None, flag("cifar10, cifar100, digits, auto or a folder (default: the data of the training).", "DATA")
    ] = None
    split: Annotated[
        Literal["val", "test", "all"] | None,
        flag("Images to use (default: val, or all for a --data folder without train/).", "{val,test,all}"),
    ] = None
    views: Views = 1
    data_dir: DataDir = None
    json: Json = False
    out: OutFile = None

    def execute(self) -> None:
        from pocket_resnet.inference.evaluate import evaluate_model

        output = JsonOutput(self.json, self.out)
        found = evaluate_model(self.model, data=self.data, split=self.split, views=self.views, data_dir=self.data_dir)
        output.tell(found.to_json(), lambda: console.evaluation(found.to_json(), found.caveat))
        if found.caveat and output.on_stdout:
            print(found.caveat, file=sys.stderr)


@dataclass
class Report:
    """Write an HTML report about one run, several runs, or a search: curves, confusion, calibration, examples.

    pocket-resnet report runs/fast-cifar10-seed0
    """

    runs: tyro.conf.Positional[
        Annotated[
            tuple[Path, ...],
            several(
                "Folders of finished runs, or of one search. The first run is the baseline of the comparison.", "RUN"
            ),
        ]
    ]
    out: Annotated[
        Path | None,
        flag("Folder for report.html and plots/ (default: the run's folder, or `report` beside the first run).", "DIR"),
    ] = None
    data: Annotated[str | None, flag("New location of the runs' data (default: where training read them).", "DATA")] = (
        None
    )
    data_dir: DataDir = None

    def execute(self) -> None:
        from pocket_resnet.reporting.report import write_report

        print(f"report      {write_report(self.runs, self.out, self.data_dir, self.data)}")


@dataclass
class Predict:
    """Predict the classes of images.

    pocket-resnet predict runs/fast-cifar10-seed0 cat.jpg holiday-pictures/
    """

    model: Model
    images: tyro.conf.Positional[Annotated[tuple[Path, ...], several("Image files, or folders of them.", "IMAGE")]]
    top: int = 3
    """Number of classes to list for each image."""
    views: Views = 1
    json: Json = False
    out: OutFile = None

    def execute(self) -> None:
        from pocket_resnet.inference.predict import predict_files

        output = JsonOutput(self.json, self.out)
        rows, bad = predict_files(self.model, self.images, self.top, self.views)
        output.tell({"predictions": rows}, lambda: console.predictions(rows))
        if bad:
            what = f"{len(bad)} of {len(rows) + len(bad)} files cannot be read:\n  " + listed(bad, "\n  ")
            raise DataError(what, hint="check the paths, save the files again as images, or omit them")
        if not rows:
            raise UsageError("no images", hint="give image files or folders")


@dataclass
class Summary:
    """Show a network's layers and its exact parameters, multiply-adds, bytes and peak activation memory.

    pocket-resnet summary original
    """

    network: tyro.conf.Positional[
        Annotated[
            str,
            flag(
                "A recipe, a network (resnet20, wrn-16-4, ...), a model directory or a finished run's folder.",
                "NETWORK",
            ),
        ]
    ]
    json: Json = False
    out: OutFile = None

    def execute(self) -> None:
        from pocket_resnet.recipe.summary import find_spec, summarise

        output = JsonOutput(self.json, self.out)
        found = summarise(find_spec(self.network))
        output.tell(found, lambda: console.summary(self.network, found))


@dataclass
class Design:
    """Show the network that fits a budget, and why it was chosen.

    pocket-resnet design --budget 5M --max-macs 100M --epochs 20
    """

    budget: str = "5M"
    """Maximum number of parameters, such as 5M, 500K or 4697742."""
    max_macs: Annotated[str | None, flag("Maximum multiply-adds per image, such as 100M or 1.5G.", "COUNT")] = None
    max_bytes: Annotated[str | None, flag("Maximum size of the fp32 weights, such as 1MB or 500KB.", "BYTES")] = None
    epochs: Annotated[
        int | None, flag("Planned number of training epochs (default: that of the recipe `best`).", "COUNT")
    ] = None
    num_classes: int = 10
    """Number of classes in the data."""
    json: Json = False
    out: OutFile = None

    def execute(self) -> None:
        from pocket_resnet.recipe.summary import designed

        output = JsonOutput(self.json, self.out)
        limits = {"budget": self.budget, "max_macs": self.max_macs, "max_bytes": self.max_bytes}
        found = designed({key: text for key, text in limits.items() if text is not None}, self.epochs, self.num_classes)
        output.tell(found, lambda: console.design(found))


@dataclass
class Data:
    """Download, verify and describe a data set.

    pocket-resnet data cifar10 --verify
    """

    name: tyro.conf.Positional[
        Annotated[str, flag("cifar10, cifar100, digits, auto, or a folder (./digits is a folder).", "[DATA]")]
    ] = "cifar10"
    verify: bool = False
    """Read every file again and check its hash."""
    data_dir: DataDir = None
    json: Json = False
    out: OutFile = None

    def execute(self) -> None:
        from pocket_resnet.data.datasets import open_source
        from pocket_resnet.data.source import describe

        output = JsonOutput(self.json, self.out)
        source = open_source(self.name, data_dir=self.data_dir)
        if self.verify:
            source.verify()
        description = describe(source)
        output.tell(description, lambda: console.description(description, verified=self.verify))


COMMANDS: dict[str, Any] = {
    "train": Train,
    "search": Search,
    "evaluate": Evaluate,
    "report": Report,
    "predict": Predict,
    "summary": Summary,
    "design": Design,
    "data": Data,
}
