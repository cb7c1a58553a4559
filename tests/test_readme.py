"""The README and other documents are right: commands parse, files exist, links resolve, numbers are measured."""

import csv
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.cli.commands import COMMANDS
from pocket_resnet.cli.main import main
from pocket_resnet.model.counts import num_macs, num_params
from pocket_resnet.recipe.toml import load_recipe
from tools import table
from tools.ladder import LADDER

ROOT = Path(__file__).parents[1]

README = ROOT / "README.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/*.md")])
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
CODE_BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`(pocket-resnet [^`]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def commands(text: str) -> list[list[str]]:
    """The arguments of every pocket-resnet command in the code blocks and code spans; a lone command gets --help."""
    lines = [line for block in CODE_BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines = [line for line in lines if re.match(r"(\S+=\S+ )*(\S*/)?pocket-resnet ", line)]
    spans = CODE_SPAN.findall(CODE_BLOCK.sub("", text))
    argument_lists = []
    for line in [*lines, *spans]:
        words = shlex.split(line, comments=True)
        start = next(index for index, word in enumerate(words) if Path(word).name == "pocket-resnet")
        arguments = words[start + 1 :]
        argument_lists.append([*arguments, "--help"] if len(arguments) == 1 and line in spans else arguments)
    return argument_lists


def parse(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command as the program does, without doing it. Fails where the program would refuse it."""
    monkeypatch.chdir(ROOT)
    for name in COMMANDS.values():
        monkeypatch.setattr(name, "execute", lambda _: None)
    exit_code: object = 0
    try:
        main(arguments)
    except SystemExit as ending:
        exit_code = ending.code
    assert exit_code == 0, f"pocket-resnet {shlex.join(arguments)}"


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as Markdown viewers make them."""
    headings = re.findall(r"^#+ (.+)$", CODE_BLOCK.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [name for name in NAMES if name != "docs/log.md"])
def test_commands_parse(document: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Except in the log, which keeps the flags of its day."""
    for arguments in commands((ROOT / document).read_text(encoding="utf-8")):
        parse(arguments, monkeypatch)


def test_every_command_is_shown() -> None:
    shown = {arguments[0] for arguments in commands(README.read_text(encoding="utf-8"))}
    assert set(COMMANDS) <= shown


@pytest.mark.parametrize("wrong", ["trian fast", "train fast --epohcs 3", "evaluate", "summary original --top 3"])
def test_wrong_commands_fail_the_check(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        parse(wrong.split(), monkeypatch)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    named = set(re.findall(r"^make (\w+)|`make (\w+)`", text, re.MULTILINE))
    assert named
    for target in {"".join(pair) for pair in named}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


def test_every_path_of_the_tree_exists() -> None:
    section = README.read_text(encoding="utf-8").split("<!-- tree -->")[1].split("<!-- /tree -->")[0]
    paths = [line.split()[0] for line in CODE_BLOCK.findall(section)[0].splitlines()]
    assert "src/pocket_resnet/" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", NAMES)
def test_links_resolve(document: str) -> None:
    path = ROOT / document
    for target in LINK.findall(CODE_BLOCK.sub("", path.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_leaderboard_rows_match_the_present_recipes() -> None:
    plain = [
        row
        for row in table.read_leaderboard()
        if re.fullmatch(r"pocket-resnet train [\w-]+ --data \w+", row["command"])
    ]
    assert plain
    for row in plain:
        recipe = load_recipe(row["recipe"])
        counts = (num_params(recipe.model), num_macs(recipe.model), recipe.epochs)
        assert counts == tuple(int(row[name]) for name in ("num_params", "num_macs", "epochs")), row["command"]


def test_published_numbers_say_where_they_come_from() -> None:
    for row in csv.DictReader((ROOT / "docs/pictures/published.csv").read_text(encoding="utf-8").splitlines()):
        assert re.search(r"arXiv:\d{4}\.\d{5}|github\.com/\S+", row["note"]), row["model"]


def test_leaderboard_commands_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in [*table.read_leaderboard(), *table.read_leaderboard(LADDER)]:
        parse(shlex.split(row["command"])[1:], monkeypatch)


def a_row(**changes: str) -> dict[str, str]:
    values = (
        "fast|pocket-resnet train fast|cifar10|val|295096|19887392|4|3|0.8712|0.0031|1|131.5|0.0123|a CPU, 2 threads"
        "|0123456789|2026-01-31"
    )
    return dict(zip(table.COLUMNS, values.split("|"), strict=True)) | changes


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    lines = [",".join(f'"{value}"' for value in row.values()) for row in rows]
    path.write_text("\n".join([",".join(table.COLUMNS), *lines]) + "\n", encoding="utf-8")
    return path


def test_a_training_becomes_a_line(tmp_path: Path) -> None:
    six_views = a_row(views="6", seeds="1", accuracy_mean="0.8801", accuracy_sd="")
    other = a_row(commit="1123456789", split="test")
    rows = table.read_leaderboard(write_rows(tmp_path / "l.csv", a_row(), six_views, other))
    first, second = table.leaderboard_table(rows).splitlines()[2:]
    assert first == (
        "| `pocket-resnet train fast` | 295,096 | 87.12% ± 0.31 (n=3) | 88.01% (n=1) | 132 s, 0.012 PFLOP "
        "| a CPU, 2 threads | 0123456 |"
    )
    assert second.startswith("| `pocket-resnet train fast` (test images) | 295,096 | 87.12% ± 0.31 (n=3) |  |")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("accuracy_mean", "87.12"),
        ("accuracy_sd", ""),
        ("seeds", "0"),
        ("split", "train"),
        ("commit", "main"),
        ("command", "make"),
        ("views", "3"),
    ],
)
def test_a_row_without_a_measurement_is_refused(tmp_path: Path, column: str, value: str) -> None:
    path = write_rows(tmp_path / "l.csv", a_row(**{column: value}))
    with pytest.raises(ValueError, match=rf"l\.csv:2.*{column}"):
        table.read_leaderboard(path)
