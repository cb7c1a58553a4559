"""docs/threats.md: every row of faults has tests, and all of them exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
ROWS = {int(number): tests for number, tests in re.findall(r"^\| (\d+) \| .+? \| (.+) \|$", TEXT, re.MULTILINE)}
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def test_all_rows_are_there() -> None:
    assert list(ROWS) == sorted(ROWS)
    assert set(range(1, 41)) <= ROWS.keys()


@pytest.mark.parametrize("row", ROWS)
def test_row_has_tests(row: int) -> None:
    assert NAMED.search(ROWS[row])


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED.findall(TEXT)}))
def test_every_named_test_exists(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    written = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {name for named_file, name in NAMED.findall(TEXT) if named_file == file} <= written


def test_long_tests_are_in_italics() -> None:
    """Others are not, because `make test` runs them."""
    for file, name in set(NAMED.findall(TEXT)):
        source = (ROOT / file).read_text(encoding="utf-8")
        is_long = re.search(rf"^@pytest\.mark\.long\n(?:@.*\n)*def {name}\(", source, re.MULTILINE) is not None
        assert (f"*`{file}::{name}`*" in TEXT) == is_long, f"{file}::{name}"
