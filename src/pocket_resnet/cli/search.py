"""The command `search`: its flags and its output."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pocket_resnet.cli import console
from pocket_resnet.cli.command_output import CommandOutput
from pocket_resnet.cli.flags import DataDir, Json, OutFile, flag
from pocket_resnet.model.counts import operations
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import override
from pocket_resnet.tuning.settings import NUM_SEEDS

if TYPE_CHECKING:
    from pocket_resnet.tuning.record import SearchRecord
    from pocket_resnet.tuning.search import SearchResult


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
    trials: Annotated[int, flag("Number of trials. Most of them stop early, unless --trade is given.")] = 40
    hours: Annotated[float | None, flag("Begin no trial after this many hours.", "HOURS")] = None
    workers: Annotated[int, flag("Trials that train in parallel, each with its share of the CPU cores.")] = 1
    trade: Annotated[
        Literal["latency", "macs", "bytes", "params"] | None,
        flag(
            "Search for high accuracy and low cost at once: the result is a Pareto front of recipes.",
            "{latency,macs,bytes,params}",
        ),
    ] = None
    equal_cost: Annotated[
        bool, flag("Also compare with the untuned recipe trained longer, at the same cost as the search. Slow.")
    ] = False
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
        from pocket_resnet.extras import require_extra

        require_extra("search")
        from pocket_resnet.tuning.search import search
        from pocket_resnet.tuning.settings import Request

        output = CommandOutput(self.json, self.out)
        request = Request(
            recipe=self.recipe if self.data is None else override(self.recipe, {"data.name": self.data}),
            num_trials=self.trials,
            hours=self.hours,
            num_workers=self.workers,
            trade=self.trade,
            equal_cost=self.equal_cost,
            space=self.space,
            storage=self.storage,
            folder=self.dir,
            data_dir=self.data_dir,
            resume=self.resume,
        )
        result = search(request)
        output.write(result.record.to_json, lambda: print_search(result))
        if self.report:
            from pocket_resnet.reporting.report import write_report

            page = write_report(result.folder)
            if not output.on_stdout:
                print(f"report      {page}")


def print_search(result: "SearchResult") -> None:
    """Print the cost of the trials, the comparison or the front, and the command to try next."""
    record = result.record
    for name, text in (*_cost_lines(record), *_comparison_lines(record)):
        print(f"{name:12}{text}")
    if record.front:
        console.print_search_front(record, result.recipes)
    elif result.recipes:
        print(f"next        pocket-resnet train {result.recipes[0]}")
    else:
        print("no trial trained to the end: see the report, or search.json, for the reasons")


def _cost_lines(record: "SearchRecord") -> Iterator[tuple[str, str]]:
    outcomes = [trial.outcome for trial in record.trials]
    yield "trials", f"{outcomes.count('complete')} trained to the end, {outcomes.count('pruned')} stopped earlier"
    trials, finals, one = record.trials_flops, record.finals_flops, record.training_flops
    total = f"{operations(trials + finals)} in {record.seconds_total:,.0f} s over all workers"
    yield "cost", total + (f" ({operations(finals)} of it for the final comparison)" if finals else "")
    if one:
        yield "", f"trials: {trials / one:.1f} times one training of the untuned recipe, which costs {operations(one)}"


def _comparison_lines(record: "SearchRecord") -> Iterator[tuple[str, str]]:
    for candidate in record.compared:
        (accuracy, spread), (nll, nll_spread) = (record.mean_and_sd(candidate, what) for what in ("accuracy", "nll"))
        text = f"{accuracy:.2%} ± {spread:.2%}, loss {nll:.4f} ± {nll_spread:.4f} (n = {NUM_SEEDS})"
        longer = f", untuned for {record.longer_epochs} epochs: the cost of the trials and one training of the winner"
        yield candidate, text + (longer if candidate == "longer" else "")
    verdict = record.verdict
    if verdict is None:
        return
    if verdict.diverged is not None:
        what = f"the {verdict.diverged} recipe diverged with a fresh seed"
        yield "verdict", f"{what}: use the {verdict.recommended} recipe"
        return
    if verdict.accuracy_difference is None:
        yield "verdict", "no trial beat the untuned recipe: stay with the untuned recipe"
        return
    yield "difference", f"tuned - untuned {_points(verdict.accuracy_difference)} (95% Welch interval)"
    if verdict.longer_difference is not None:
        yield "", f"tuned - longer {_points(verdict.longer_difference)}"
    is_gain = verdict.recommended == "tuned"
    yield "verdict", "a gain: use the tuned recipe" if is_gain else "no gain beyond noise: stay with the untuned recipe"


def _points(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f} points of accuracy"
