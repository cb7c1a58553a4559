"""The README's results table, made from leaderboard.csv; nobody types a number into it.

python results/table.py            # print the table and put it into README.md
python results/table.py --check    # exit with 1 where README.md has another one
"""

import argparse
import csv
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
LEADERBOARD, README = HERE / "leaderboard.csv", HERE.parent / "README.md"
BEGIN, END = "<!-- results -->", "<!-- /results -->"
COLUMNS = [
    *("recipe", "command", "data", "split", "num_params", "num_macs", "epochs", "seeds", "accuracy_mean"),
    *("accuracy_sd", "views", "seconds_mean", "train_pflop", "machine", "commit", "date"),
]
HEADER = (
    "| command | data, split | parameters | accuracy | views | training | machine | commit |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | --- | --- |"
)
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


def read_leaderboard(path: Path = LEADERBOARD) -> list[dict[str, str]]:
    """The rows, checked. Raises ValueError naming the line and column that break the rules of README.md."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{path}: its columns are not {', '.join(COLUMNS)}")
        rows = []
        for row in reader:
            _check_row(row, f"{path}:{reader.line_num}")
            rows.append(row)
    return rows


def _check_row(row: dict[str, str], where: str) -> None:
    if None in row or None in row.values():
        raise ValueError(f"{where}: has not {len(COLUMNS)} columns (quote what holds a comma)")
    for column, pattern in PATTERNS.items():
        if not re.fullmatch(pattern, row[column]):
            raise ValueError(f"{where}: {column} = {row[column]!r} does not match {pattern}")
    if (row["seeds"] == "1") != (row["accuracy_sd"] == ""):
        raise ValueError(f"{where}: accuracy_sd is for two seeds or more, and left empty for one")


def table(rows: list[dict[str, str]]) -> str:
    """The rows as a Markdown table, in the leaderboard's order."""
    return "\n".join([HEADER, *map(_line, rows)]) if rows else "No measured rows yet."


def _line(row: dict[str, str]) -> str:
    accuracy, seeds = f"{100 * float(row['accuracy_mean']):.2f}%", row["seeds"]
    if row["accuracy_sd"]:
        accuracy = f"{accuracy} ± {100 * float(row['accuracy_sd']):.2f} (n={seeds})"
    else:
        accuracy += " (n=1)"
    cells = (
        f"`{row['command']}`",
        f"{row['data']}, {row['split']}",
        f"{int(row['num_params']):,}",
        accuracy,
        row["views"],
        f"{_duration(float(row['seconds_mean']))}, {float(row['train_pflop']):.2g} PFLOP",
        row["machine"],
        row["commit"][:7],
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def with_table(readme: str, results: str) -> str:
    """The README's text with the table between its markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{results}\n{END}{after}"


def main() -> None:
    """Update or check README.md."""
    parser = argparse.ArgumentParser(description="Make the README's results table from leaderboard.csv.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where the README differs")
    is_check: bool = parser.parse_args().check
    results, readme = table(read_leaderboard()), README.read_text(encoding="utf-8")
    updated = with_table(readme, results)
    print(results)
    if is_check and updated != readme:
        sys.exit("README.md has another table: run python results/table.py")
    if not is_check:
        README.write_text(updated, encoding="utf-8")


if __name__ == "__main__":
    main()
