"""The verbs of the command line: one class each, whose fields are its flags.

Each verb imports what it needs when it runs, so that --help answers at once.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from pocket_resnet.cli import console
from pocket_resnet.cli.export import Export
from pocket_resnet.cli.json_output import JsonOutput
from pocket_resnet.errors import DataError, UsageError, listed
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import override

DataDir = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
DataName = Annotated[str | None, tyro.conf.arg(metavar="DATA")]
Json = Annotated[bool, tyro.conf.arg(help="Print one JSON object on standard output, and nothing else there.")]
OutFile = Annotated[
    Path | None,
    tyro.conf.arg(metavar="FILE", help="Write the JSON object to a file; a link, FIFO or device is written through."),
]


@dataclass
class Train:
    """Train a network; `runs/NAME` gets checkpoints, metrics and the model, and Ctrl-C loses nothing.

    pocket-resnet train fast --data digits

    RECIPE (default: fast) comes first: a name of recipes/ or a .toml file. Every key of it is a flag.
    """

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    data: DataName = None
    """cifar10, cifar100, digits, auto, or a folder with one subfolder a class; short for --data.name.

    With a slash it is a folder (./digits). With --resume: the new location of the run's data.
    """
    teacher: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A trained model whose answers the network learns; short for --teacher.model."""
    data_dir: DataDir = None
    """Folder for data sets (default: $POCKET_RESNET_DATA, else the user's cache folder)."""
    runs_dir: Path = Path("runs")
    """Folder for runs."""
    run: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the run's folder (default: made of recipe, data and seed)."""
    resume: bool = False
    """Resume an interrupted run; start it if there is none."""
    fork: bool = False
    """Resume a run even if recipe or data have changed since it began."""
    report: bool = True
    """Write a page of curves, confusions and examples into the run's folder at the end."""
    json: Json = False
    out: OutFile = None
    debug: ClassVar[bool] = False

    def run_verb(self) -> None:
        from pocket_resnet.device import keep_freed_memory
        from pocket_resnet.training.distributed import is_writer
        from pocket_resnet.training.run import train

        output = JsonOutput(self.json, self.out)
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
        if is_writer():  # of several processes one speaks
            output.tell(result.__dict__, lambda: console.result(result.__dict__))
            page = self._write_report(Path(result.model).parent) if self.report else None
            if not output.on_stdout:
                console.next_steps(result.model, page)

    def _write_report(self, folder: Path) -> Path | None:
        """The report's page. The run is safe by now: where drawing fails, a line says so and nothing else happens."""
        try:
            from pocket_resnet.reporting.report import write_report

            return write_report([folder], data_dir=self.data_dir)
        except Exception as error:
            console.no_report(error, folder, debug=self.debug)
            return None


@dataclass
class Evaluate:
    """Measure a model: accuracy with a 95% interval, per class, confusion, likelihood and calibration.

    pocket-resnet evaluate runs/fast-cifar10-seed0
    """

    model: tyro.conf.Positional[Path]
    """A model directory, or a finished run's."""
    data: DataName = None
    """cifar10, cifar100, digits, auto or a folder (default: what the model was trained on, if that is unchanged)."""
    split: Literal["val", "test", "all"] | None = None
    """Default: val; for a folder given by --data that has no train/, every image in it."""
    views: Literal[1, 2, 6] = 1
    """Average over this many views of each image: 2 adds the mirror image, 6 shifts both."""
    data_dir: DataDir = None
    """Folder for data sets."""
    json: Json = False
    out: OutFile = None

    def run_verb(self) -> None:
        from pocket_resnet.inference.evaluate import evaluate_model

        output = JsonOutput(self.json, self.out)
        found = evaluate_model(self.model, data=self.data, split=self.split, views=self.views, data_dir=self.data_dir)
        for remark in found.remarks:
            print(remark, file=sys.stderr)
        output.tell(found.to_json(), lambda: console.evaluation(found.to_json(), found.caveat))
        if found.caveat and output.on_stdout:
            print(found.caveat, file=sys.stderr)


@dataclass
class Report:
    """Write a page about a run, or several compared: curves, confusions, calibration, examples, Grad-CAM.

    pocket-resnet report runs/fast-cifar10-seed0
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs; the first is what the others are compared with."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where report.html and plots/ go (default: the run's folder; of several runs, `report` beside the first)."""
    data: DataName = None
    """New location of the runs' data (default: where training read them, if they are unchanged)."""
    data_dir: DataDir = None
    """Folder for data sets."""

    def run_verb(self) -> None:
        from pocket_resnet.reporting.report import write_report

        print(f"report      {write_report(self.runs, self.out, self.data_dir, self.data)}")


@dataclass
class Predict:
    """Tell the classes of images.

    pocket-resnet predict runs/fast-cifar10-seed0 cat.jpg holiday-pictures/
    """

    model: tyro.conf.Positional[Path]
    """A model directory, or a finished run's."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    top: int = 3
    """How many classes to name for each image."""
    views: Literal[1, 2, 6] = 1
    """Average over this many views of each image: 2 adds the mirror image, 6 shifts both."""
    json: Json = False
    out: OutFile = None

    def run_verb(self) -> None:
        from pocket_resnet.inference.predict import predict_files

        output = JsonOutput(self.json, self.out)
        rows, bad, remarks = predict_files(self.model, self.images, self.top, self.views)
        output.tell({"predictions": rows}, lambda: console.predictions(rows))
        for remark in remarks:
            print(remark, file=sys.stderr)
        if bad:
            what = f"{len(bad)} of {len(rows) + len(bad)} files cannot be read:\n  " + listed(bad, "\n  ")
            raise DataError(what, mend="check the paths, save the files again as images, or leave them out")
        if not rows:
            raise UsageError("no images", mend="name image files or folders of them")


@dataclass
class Summary:
    """Show layers, exact parameters, multiply-adds, bytes and peak activation memory of a network.

    pocket-resnet summary original
    """

    network: tyro.conf.Positional[str]
    """A recipe, a network's name (resnet20, wrn-16-4, ...), a model directory or a finished run's."""
    json: Json = False
    out: OutFile = None

    def run_verb(self) -> None:
        from pocket_resnet.recipe.summary import find_spec, summarise

        output = JsonOutput(self.json, self.out)
        found = summarise(find_spec(self.network))
        output.tell(found, lambda: console.summary(self.network, found))


@dataclass
class Design:
    """Show the network that a budget buys, and why it is this one.

    pocket-resnet design --budget 5M --max-macs 100M --epochs 20
    """

    budget: str = "5M"
    """Most parameters: 5M, 500K, 4697742."""
    max_macs: Annotated[str | None, tyro.conf.arg(metavar="COUNT")] = None
    """Most multiply-adds for one image: 100M, 1.5G."""
    max_bytes: Annotated[str | None, tyro.conf.arg(metavar="BYTES")] = None
    """Most bytes of fp32 weights: 1MB, 500KB."""
    epochs: Annotated[int | None, tyro.conf.arg(metavar="COUNT")] = None
    """How long it will be trained (default: as in the recipe `best`)."""
    num_classes: int = 10
    """How many classes the data have."""
    json: Json = False
    out: OutFile = None

    def run_verb(self) -> None:
        from pocket_resnet.recipe.summary import designed

        output = JsonOutput(self.json, self.out)
        limits = {"budget": self.budget, "max_macs": self.max_macs, "max_bytes": self.max_bytes}
        found = designed({key: text for key, text in limits.items() if text is not None}, self.epochs, self.num_classes)
        output.tell(found, lambda: console.design(found))


@dataclass
class Data:
    """Fetch, verify and describe a data set.

    pocket-resnet data cifar10 --verify
    """

    name: tyro.conf.Positional[str] = "cifar10"
    """cifar10, cifar100, digits, auto, or a folder; with a slash it is a folder (./digits)."""
    verify: bool = False
    """Read and hash every file again."""
    data_dir: DataDir = None
    """Folder for data sets."""
    json: Json = False
    out: OutFile = None

    def run_verb(self) -> None:
        from pocket_resnet.data.source import describe, open_source, verify

        output = JsonOutput(self.json, self.out)
        source = open_source(self.name, data_dir=self.data_dir)
        if self.verify:
            verify(source)
        description = describe(source)
        output.tell(description, lambda: console.description(description, verified=self.verify))


VERBS: dict[str, Any] = {
    "train": Train,
    "evaluate": Evaluate,
    "report": Report,
    "predict": Predict,
    "summary": Summary,
    "design": Design,
    "export": Export,
    "data": Data,
}
