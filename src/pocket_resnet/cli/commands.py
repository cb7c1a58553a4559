"""The commands: one class each, whose fields are its flags. COMMANDS lists them all; longer ones have their own file.

Each command imports what it needs when it runs, so that --help answers at once.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pocket_resnet.cli import console
from pocket_resnet.cli.benchmark import Benchmark
from pocket_resnet.cli.command_output import CommandOutput
from pocket_resnet.cli.export import Export
from pocket_resnet.cli.flags import Csv, CsvOutFile, DataDir, Device, Json, Model, OutFile, Views, flag, one_or_more
from pocket_resnet.cli.predict import Predict
from pocket_resnet.cli.push import Push
from pocket_resnet.cli.search import Search
from pocket_resnet.cli.serve import Serve
from pocket_resnet.cli.train import Train
from pocket_resnet.io.progress import print_line


@dataclass
class Evaluate:
    """Measure a model: accuracy with a 95% interval, accuracy per class, confusion matrix and calibration.

    pocket-resnet evaluate runs/fast-cifar10-seed0

    pocket-resnet evaluate runs/finetune-pictures-seed0 --csv --out images.csv
    """

    model: Model
    data: Annotated[
        str | None, flag("cifar10, cifar100, digits, auto or a folder (default: the model's training data).", "DATA")
    ] = None
    split: Annotated[
        Literal["train", "val", "trainval", "test", "all"] | None,
        flag(
            "Images to use (default: val, or all for a --data folder without train/). trainval is train and val.",
            "{train,val,trainval,test,all}",
        ),
    ] = None
    views: Views = 1
    precision: Annotated[
        Literal["fp32", "bf16"], flag("Number format of multiplications. Cards are measured in fp32.")
    ] = "fp32"
    device: Device = "auto"
    data_dir: DataDir = None
    csv: Csv = False
    json: Json = False
    out: CsvOutFile = None

    def execute(self) -> None:
        from pocket_resnet.inference.evaluate import evaluate_model
        from pocket_resnet.inference.evaluation import ImageOutcome

        output = CommandOutput(self.json, self.out, csv=self.csv)
        evaluation = evaluate_model(
            self.model,
            data=self.data,
            split=self.split,
            views=self.views,
            precision=self.precision,
            device=self.device,
            data_dir=self.data_dir,
        )
        output.write(
            evaluation.to_json,
            lambda: console.print_evaluation(evaluation),
            lambda: [ImageOutcome._fields, *evaluation.outcomes()],
        )
        if evaluation.caveat and output.on_stdout:
            print_line(evaluation.caveat)


@dataclass
class Report:
    """Write an HTML report on a run, several runs or a search: learning curves, confusion, calibration, examples.

    pocket-resnet report runs/fast-cifar10-seed0
    """

    runs: tyro.conf.Positional[
        Annotated[
            tuple[Path, ...],
            one_or_more(
                "Folders of finished runs, or of one search. The first run is the baseline of the comparison.", "RUN"
            ),
        ]
    ]
    out: Annotated[
        Path | None,
        flag(
            "Folder for report.html and plots/ (default: the folder of the run or search; for several runs, `report` "
            "beside the first one).",
            "DIR",
        ),
    ] = None
    data: Annotated[
        str | None, flag("Where the runs' data are now (default: where they were in training).", "DATA")
    ] = None
    device: Device = "auto"
    data_dir: DataDir = None
    json: Json = False

    def execute(self) -> None:
        from pocket_resnet.reporting.report import PLOTS_NAME, write_report

        output = CommandOutput(self.json, None)
        page = write_report(self.runs, self.out, self.data_dir, self.data, self.device)
        output.write(
            lambda: {"page": str(page), "plots": str(page.parent / PLOTS_NAME)},
            lambda: print(f"report      {page}"),
        )


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

        output = CommandOutput(self.json, self.out)
        spec = find_spec(self.network)
        output.write(lambda: summarise(spec), lambda: console.print_summary(self.network, spec))


@dataclass
class Design:
    """Show the network chosen for a budget, and why.

    pocket-resnet design --budget 5M --max-macs 100M --epochs 20
    """

    budget: Annotated[str, flag("Maximum number of parameters, such as 5M, 500K or 4697742.", "COUNT")] = "5M"
    max_macs: Annotated[str | None, flag("Maximum multiply-adds per image, such as 100M or 1.5G.", "COUNT")] = None
    max_bytes: Annotated[str | None, flag("Maximum size of the fp32 weights, such as 1MB or 500KB.", "BYTES")] = None
    epochs: Annotated[
        int | None, flag("Planned number of training epochs (default: as in the recipe `best`).", "COUNT")
    ] = None
    num_classes: int = 10
    """Number of classes in the data."""
    json: Json = False
    out: OutFile = None

    def execute(self) -> None:
        from pocket_resnet.recipe.summary import design_json, find_design

        output = CommandOutput(self.json, self.out)
        given = {"budget": self.budget, "max_macs": self.max_macs, "max_bytes": self.max_bytes}
        limits = {key: text for key, text in given.items() if text is not None}
        design = find_design(limits, self.epochs, self.num_classes)
        flags = limits if self.epochs is None else limits | {"epochs": str(self.epochs)}
        output.write(lambda: design_json(design, flags), lambda: console.print_design(design, flags))


@dataclass
class Data:
    """Download, verify and describe a data set.

    pocket-resnet data cifar10 --verify
    """

    name: tyro.conf.Positional[
        Annotated[str, flag("cifar10, cifar100, digits, auto, or a folder (./digits is a folder).", "[DATA]")]
    ] = "cifar10"
    verify: bool = False
    """Read every file again and compare it with its hash, to find damaged files."""
    data_dir: DataDir = None
    json: Json = False
    out: OutFile = None

    def execute(self) -> None:
        from pocket_resnet.data.datasets import open_source
        from pocket_resnet.data.source import describe

        output = CommandOutput(self.json, self.out)
        source = open_source(self.name, data_dir=self.data_dir)
        verified = source.verify() if self.verify else None
        description = describe(source, verified)
        output.write(lambda: asdict(description), lambda: console.print_description(description))


COMMANDS: dict[str, Any] = {
    "train": Train,
    "search": Search,
    "evaluate": Evaluate,
    "report": Report,
    "predict": Predict,
    "summary": Summary,
    "design": Design,
    "export": Export,
    "benchmark": Benchmark,
    "serve": Serve,
    "data": Data,
    "push": Push,
}
