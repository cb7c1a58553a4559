"""`pocket-resnet search`: its flags, and what it prints."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pocket_resnet.cli import console
from pocket_resnet.cli.flags import DataDir, Json, OutFile, flag
from pocket_resnet.cli.json_output import JsonOutput
from pocket_resnet.io.files import expanded
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import override

STORAGE_VARIABLE = "POCKET_RESNET_STORAGE"


@dataclass
class Search:
    """Search for the most accurate recipe on your own data within a budget, and compare it with the untuned one.

    pocket-resnet search fast --data digits --budget 100K --trials 20 --workers 2

    RECIPE comes first: a name from recipes/ or a .toml file (default: fast). Every recipe key is also a flag, and keeps
    its value unless the search space names it. Needs the extra `search`. docs/search.md says what a search costs.
    """

    recipe: Recipe
    data: Annotated[
        str | None,
        flag(
            "cifar10, cifar100, digits, auto, or a folder with one subfolder per class (./digits is a folder).", "DATA"
        ),
    ] = None
    trials: Annotated[int, flag("Number of trials. Most of them stop early.")] = 40
    hours: Annotated[float | None, flag("Begin no trial after this many hours.", "HOURS")] = None
    workers: Annotated[int, flag("Trials that train side by side, each with its share of the processor.")] = 1
    trade: Annotated[
        Literal["latency", "macs", "bytes", "params"] | None,
        flag(
            "Search for accuracy and a low cost at once: the result is a front of recipes.",
            "{latency,macs,bytes,params}",
        ),
    ] = None
    space: Annotated[
        Path | None,
        flag(
            "Which keys to search, as TOML (default: RECIPE.space.toml beside RECIPE.toml, or the built-in space).",
            "FILE",
        ),
    ] = None
    storage: Annotated[
        str | None,
        flag(
            "PostgreSQL server that several machines share (default: $POCKET_RESNET_STORAGE or a file in the folder).",
            "URL",
        ),
    ] = None
    dir: Annotated[Path | None, flag("Folder of the search (default: searches/RECIPE-DATA).", "DIR")] = None
    resume: Annotated[bool, flag("Resume an interrupted search, or start it if it does not exist.")] = False
    data_dir: DataDir = None
    report: Annotated[bool, flag("Write an HTML report to the search's folder at the end.")] = True
    json: Json = False
    out: OutFile = None
    debug: ClassVar[bool] = False

    def execute(self) -> None:
        from pocket_resnet.tuning.settings import require_optuna

        require_optuna()
        from pocket_resnet.tuning.search import Request, search

        output = JsonOutput(self.json, self.out)
        request = Request(
            recipe=self.recipe if self.data is None else override(self.recipe, {"data.name": self.data}),
            num_trials=self.trials,
            hours=self.hours,
            num_workers=self.workers,
            trade=self.trade,
            space=self.space,
            storage=self.storage or os.environ.get(STORAGE_VARIABLE) or None,
            folder=self.dir,
            data_dir=self.data_dir,
            resume=self.resume,
        )
        record, folder = search(request)
        output.write(asdict(record), lambda: console.search(record, folder))
        if self.report:
            from pocket_resnet.reporting.report import write_report

            page = write_report(folder)
            if not output.on_stdout:
                print(f"report      {page}")


def space_beside(recipe: str) -> Path | None:
    """RECIPE.space.toml, if the recipe was given as RECIPE.toml and there is one."""
    path = expanded(recipe)
    beside = path.with_suffix(".space.toml")
    return beside if path.suffix == ".toml" and beside.is_file() else None
