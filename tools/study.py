"""Runs a study: many short trainings that differ in one thing, each with one row in a CSV file.

Rows are added as they are measured. Existing rows are not measured again, so an interrupted study can be resumed, or
extended by more seeds or cases. An empty accuracy means that training reached NaN or infinity.
"""

import argparse
import csv
import io
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

import tools
from pocket_resnet.device import choose, keep_freed_memory, machine
from pocket_resnet.errors import NonFiniteError, Stopped
from pocket_resnet.inference.evaluate import evaluate_model
from pocket_resnet.io.files import append_line
from pocket_resnet.model.counts import num_macs, num_params
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import override
from pocket_resnet.training.run import train

RESULTS = Path(__file__).parents[1] / "results"
MEASURED = ("num_params", "num_macs", "accuracy", "nll", "pflop", "seconds", "machine", "commit")


def parser(description: str | None, target: str, *, budget: str, epochs: int) -> argparse.ArgumentParser:
    """The options of every study, with its own defaults; `target` is its file in results/."""
    options = tools.parser(description, "data", "data_dir")
    options.add_argument("--budget", default=budget, help="parameters of each network")
    options.add_argument("--epochs", type=int, default=epochs, help="epochs of each training")
    options.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0 on")
    options.add_argument("--only", nargs="+", metavar="CASE", help="measure only these cases")
    options.add_argument("--out", type=Path, default=RESULTS / target, help="file of the rows")
    return options


def measure(recipe: Recipe, data_dir: Path | None) -> dict[str, Any]:
    """The columns MEASURED after a training of the recipe, with torch's current number of threads."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    recipe = override(recipe, {"hardware.num_threads": threads})
    sizes = {"num_params": num_params(recipe.model), "num_macs": num_macs(recipe.model), "commit": commit()}
    with tempfile.TemporaryDirectory() as runs_dir:
        try:
            result = train(recipe, data_dir=data_dir, runs_dir=Path(runs_dir))
        except NonFiniteError as error:
            print(error, file=sys.stderr)
            return sizes
        except Stopped:
            sys.exit("stopped; the same command continues")
        sizes |= {"num_params": result.num_params, "num_macs": result.num_macs}  # with the data's number of classes
        nll = evaluate_model(Path(result.model), split="val", data_dir=data_dir).nll
    return sizes | {
        "accuracy": round(result.accuracy, 4),
        "nll": round(nll, 4),
        "pflop": round(result.train_flops / 1e15, 5),
        "seconds": round(result.seconds, 1),
        "machine": machine(choose(num_threads=threads)),
    }


def commit() -> str:
    """The working tree's commit, with "+" if files have changed since; empty outside a repository."""
    command = ["git", "-C", str(RESULTS), "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def run(
    options: argparse.Namespace, variable: str, cases: Collection[str], make: Callable[[str, str, int], Recipe]
) -> None:
    """Measure every case that has no row yet, seed by seed; `make` turns case, budget and epochs into a recipe."""
    if unknown := set(options.only or ()) - set(cases):
        sys.exit(f"no such case: {', '.join(sorted(unknown))}; known: {', '.join(cases)}")
    keys = ("data", "budget", variable, "epochs", "seed")
    whole = {"min_steps": 0, "validate_every": options.epochs, "data.name": options.data}

    def recipe_of(row: dict[str, Any]) -> Recipe:
        return override(make(row[variable], options.budget, options.epochs), whole | {"seed": row["seed"]})

    rows = [
        dict(zip(keys, (options.data, options.budget, case, options.epochs, seed), strict=True))
        for seed, case in itertools.product(range(options.seeds), options.only or cases)
    ]
    add_rows(options.out, rows, recipe_of, options.data_dir)


def add_rows(
    out: Path, requested: list[dict[str, Any]], recipe_of: Callable[[dict[str, Any]], Recipe], data_dir: Path | None
) -> None:
    """Measure the recipe of each of these rows that the file does not have yet, and add the row to the file."""
    keys = tuple(requested[0])
    columns = (*keys, *MEASURED)
    if not out.exists():
        append_line(out, ",".join(columns))
    done = {tuple(row[key] for key in keys) for row in _rows(out, columns)}
    for row in requested:
        key = tuple(map(str, row.values()))
        if key not in done:
            measured = row | measure(recipe_of(row), data_dir)
            csv.DictWriter(line := io.StringIO(), columns, lineterminator="").writerow(measured)
            append_line(out, line.getvalue())
            done.add(key)
            print(measured, file=sys.stderr)


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of the file. Exits if it has other columns, or if its last line is not whole, after a crash."""
    text = path.read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    if tuple(rows.fieldnames or ()) != columns:
        sys.exit(f"{path}: not a file of this study, whose columns are {', '.join(columns)}")
    if not text.endswith("\n"):
        sys.exit(f"{path}: its last line is not whole: delete it")
    return list(rows)
