"""Generates the tables of README.md, docs/report.md and docs/own-images.md from the CSV files.

python -m tools.table            # print the leaderboard, and write every table into its document
python -m tools.table --check    # exit with 1 if a document has another table

A table is between `<!-- NAME -->` and `<!-- /NAME -->`, where NAME is a key of TABLES.
"""

import argparse
import csv
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.ladder import LADDER, fit, frontier, of_recipes, rungs
from tools.results import ALL_ON, RESULTS, Case, Rows, calibrations, read_rows, series, studies

ROOT = Path(__file__).parents[1]
LEADERBOARD = RESULTS / "leaderboard.csv"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "report.md", ROOT / "docs" / "own-images.md")
NOTHING = "Not measured yet."
NUM_SHAPES = 10  # in the table; the picture and results/shapes.csv have all
COLUMNS = [
    *("recipe", "command", "data", "split", "num_params", "num_macs", "epochs", "seeds", "accuracy_mean"),
    *("accuracy_sd", "views", "seconds_mean", "train_pflop", "machine", "commit", "date"),
]
PATTERNS = {
    "command": r"pocket-resnet train\b.*",
    "split": r"val|test",
    "num_params": r"[1-9]\d*",
    "num_macs": r"[1-9]\d*",
    "epochs": r"[1-9]\d*",
    "seeds": r"[1-9]\d*",
    "accuracy_mean": r"0\.\d+|1(\.0*)?",
    "accuracy_sd": r"(0\.\d+)?",
    "views": r"[126]",
    "seconds_mean": r"\d+(\.\d+)?",
    "train_pflop": r"\d+(\.\d+)?",
    "machine": r".+",
    "commit": r"[0-9a-f]{7,40}",
    "date": r"\d{4}-\d\d-\d\d",
}


def read_leaderboard(*paths: Path) -> list[dict[str, str]]:
    """The checked rows of these files, by default of the leaderboard.

    Raises ValueError naming the line and column that break the rules of README.md, or a line that repeats another.
    """
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for path in paths or (LEADERBOARD,):
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != COLUMNS:
                raise ValueError(f"{path}: its columns are not {', '.join(COLUMNS)}")
            for row in reader:
                _check_row(row, f"{path}:{reader.line_num}")
                key = (*_training(row), row["views"])
                if key in rows:
                    raise ValueError(f"{path}:{reader.line_num}: another row has the same training and views")
                rows[key] = row
    return list(rows.values())


def _training(row: dict[str, str]) -> tuple[str, ...]:
    """What identifies the trainings of a row; rows of several numbers of views share them."""
    return tuple(row[name] for name in ("command", "data", "split", "machine", "commit"))


def _check_row(row: dict[str, str], where: str) -> None:
    if None in row or None in row.values():
        raise ValueError(f"{where}: has not {len(COLUMNS)} columns (quote values with a comma)")
    for column, pattern in PATTERNS.items():
        if not re.fullmatch(pattern, row[column]):
            raise ValueError(f"{where}: {column} = {row[column]!r} does not match {pattern}")
    if (row["seeds"] == "1") != (row["accuracy_sd"] == ""):
        raise ValueError(f"{where}: accuracy_sd is for two seeds or more, and left empty for one")


def markdown(columns: dict[str, str], rows: list[list[str]]) -> str:
    """A Markdown table; `columns` maps each heading to `<` or `>`, the alignment of its cells."""
    rules = ["---" if alignment == "<" else "---:" for alignment in columns.values()]
    lines = [list(columns), rules, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else NOTHING


def leaderboard_table(rows: Rows) -> str:
    """One line per training, in the leaderboard's order, without those of the dial, which `ladder_table` shows."""
    columns = {"command": "<", "parameters": ">", "single view": ">", "six views": ">", "training": ">", "machine": "<"}
    by_training: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    dial = set(map(_training, series(rows)))
    for row in rows:
        if _training(row) not in dial:
            by_training.setdefault(_training(row), {})[row["views"]] = row
    return markdown(columns | {"commit": "<"}, [_leaderboard_line(by_views) for by_views in by_training.values()])


def _leaderboard_line(by_views: dict[str, dict[str, str]]) -> list[str]:
    row = next(iter(by_views.values()))
    return [
        f"`{row['command']}`" + (" (test images)" if row["split"] == "test" else ""),
        f"{int(row['num_params']):,}",
        *(_accuracy(by_views[views]) if views in by_views else "" for views in ("1", "6")),
        f"{_duration(float(row['seconds_mean']))}, {_pflop(float(row['train_pflop']))} PFLOP",
        row["machine"],
        row["commit"][:7],
    ]


def _accuracy(row: dict[str, str]) -> str:
    accuracy = f"{100 * float(row['accuracy_mean']):.2f}%"
    return (
        f"{accuracy} ± {100 * float(row['accuracy_sd']):.2f} (n={row['seeds']})"
        if row["accuracy_sd"]
        else f"{accuracy} (n=1)"
    )


def _pflop(value: float) -> str:
    """The value with two digits, or all digits from 10 on."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def ladder_table(rows: Rows) -> str:
    """The runs of each size, cheapest first, and the power law through those that no cheaper run beats."""
    columns = {"at most": ">", "run": "<"} | dict.fromkeys(["parameters", "epochs", "PFLOP", "accuracy"], ">")
    lines = [
        [
            size,
            f"`{row['command'].removeprefix('pocket-resnet train ')}`",
            f"{int(row['num_params']):,}",
            row["epochs"],
            _pflop(float(row["train_pflop"])),
            _accuracy(row),
        ]
        for size, of_size in rungs(rows).items()
        for row in of_size
    ]
    law = fit(frontier(of_recipes(rows)))
    text = (
        f"The dashed line is a power law through the runs that no cheaper one beats: error = {law.at_1_pflop:.1f}% x "
        f"PFLOP<sup>-{law.exponent:.2f}</sup>."
    )
    table = f"{markdown(columns, lines)}\n\n{text}"
    return with_picture("ladder", "Accuracy against training operations, by size", table)


def ablation_table(rows: Rows) -> str:
    """The effect of each switch, the most useful first."""
    alt = "Change of validation accuracy when a switch of the original recipe is off"
    return with_picture("ablation", alt, changes_table(rows, "switched_off"))


def changes_table(rows: Rows, variable: str) -> str:
    """One table per setting: the case "nothing", then the others by their change; empty without rows."""
    columns = {variable.replace("_", " "): "<", "accuracy": ">", "change, same seeds, points": ">", "n": ">"}
    tables = []
    for setting, cases in studies(rows, variable).items():
        ranked = sorted(cases, key=lambda case: (case.name != ALL_ON, case.rank))
        tables.append(f"{setting}:\n\n{markdown(columns, [_change_line(case) for case in ranked])}")
    return "\n\n".join(tables)


def _change_line(case: Case) -> list[str]:
    failed = [f"{case.num_failed} met NaN or infinity"] if case.num_failed else []
    accuracy = [f"{case.accuracy:.2f}%{_spread(case.accuracies)}"] if case.accuracies else []
    change = ""
    if case.differences and case.name != ALL_ON:
        change = f"{case.difference:+.2f}{_spread(case.differences)}".replace("-", "−")
    return [case.name, ", ".join(accuracy + failed), change, str(len(case.accuracies) + case.num_failed)]


def _spread(values: Sequence[float]) -> str:
    return f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""


def shapes_table(rows: Rows) -> str:
    """The most accurate shapes of the setting that has most of them, with their accuracy in every setting."""
    cases_of = studies(rows, "shape")
    by_shape = [{case.name: case for case in cases if case.accuracies} for cases in cases_of.values()]
    ranked = sorted(max(by_shape, key=len, default={}).values(), key=lambda case: -case.accuracy)
    lines = [
        [shape.name, *(_shape_cell(cases[shape.name]) if shape.name in cases else "" for cases in by_shape)]
        for shape in ranked[:NUM_SHAPES]
    ]
    columns = {"shape": "<"} | dict.fromkeys(map(str, cases_of), ">")
    return with_picture("shapes", "Accuracy of network shapes with as many parameters", markdown(columns, lines))


def _shape_cell(case: Case) -> str:
    seeds = f" (n={len(case.accuracies)})" if len(case.accuracies) > 1 else ""
    return f"{case.accuracy:.2f}%{_spread(case.accuracies)}{seeds}"


def calibration_table(rows: Rows) -> str:
    """Confidence and accuracy of each run."""
    columns = {"run": "<"} | dict.fromkeys(["accuracy", "mean confidence", "expected calibration error"], ">")
    lines = [
        [
            f"{each.name}, seed {each.seed}",
            f"{each.accuracy:.2%}",
            f"{each.confidence:.2%}",
            f"{100 * each.error:.1f} points",
        ]
        for each in calibrations(rows)
    ]
    return with_picture("calibration", "Accuracy against confidence", markdown(columns, lines))


def transfer_table(rows: Rows) -> str:
    """Accuracy by images and start of a training, mean and spread over the seeds."""
    starts = list(dict.fromkeys(row["start"] for row in rows))
    accuracies: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        accuracies.setdefault(row["data"], {}).setdefault(row["start"], []).append(100 * float(row["accuracy"]))
    lines = [
        [
            data,
            *(
                f"{statistics.mean(cells[start]):.2f}%{_spread(cells[start])}" if start in cells else ""
                for start in starts
            ),
        ]
        for data, cells in accuracies.items()
    ]
    return markdown({"images": "<"} | dict.fromkeys(starts, ">"), lines)


def with_picture(name: str, alt: str, table: str) -> str:
    """The picture that tools/pictures.py draws of the same rows, and the table; or NOTHING."""
    return f"![{alt}](pictures/{name}.png)\n\n{table}" if table not in ("", NOTHING) else NOTHING


TABLES: dict[str, Callable[[], str]] = {
    "results": lambda: leaderboard_table(read_leaderboard()),
    "ladder": lambda: ladder_table(read_leaderboard(LEADERBOARD, LADDER)),
    "ablation": lambda: ablation_table(read_rows("ablation.csv")),
    "shapes": lambda: shapes_table(read_rows("shapes.csv")),
    "calibration": lambda: calibration_table(read_rows("calibration.csv")),
    "transfer": lambda: transfer_table(read_rows("transfer.csv")),
}


def filled(document: str) -> str:
    """The document with the current tables between its markers. Raises ValueError if a marker has no end."""
    for name, make in TABLES.items():
        before, begin, rest = document.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if begin and not end:
            raise ValueError(f"<!-- {name} --> has no <!-- /{name} -->")
        document = f"{before}{begin}\n{make()}\n{end}{after}" if begin else before
    return document


def main() -> None:
    """Update or check the documents."""
    parser = argparse.ArgumentParser(description="Make the tables of README.md and docs/*.md.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a document differs")
    is_check: bool = parser.parse_args().check
    print(TABLES["results"]())
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        updated = filled(text)
        if is_check and updated != text:
            sys.exit(f"{path.name} has another table: run python -m tools.table")
        if not is_check:
            path.write_text(updated, encoding="utf-8")


if __name__ == "__main__":
    main()
