"""The tests name the faults that they cover: "Row N" in a docstring is row N of the project's table of faults."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
COVERED = range(1, 41)
NAMED = re.compile(r"\bRows? (\d+(?:, \d+)*)")


def docstrings() -> Iterator[str]:
    """Of all functions that pytest collects."""
    for path in TESTS.rglob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                yield ast.get_docstring(node) or ""


@pytest.mark.parametrize("row", COVERED)
def test_row_is_named_by_a_test(row: int) -> None:
    named = {number for text in docstrings() for numbers in NAMED.findall(text) for number in numbers.split(", ")}
    assert str(row) in named
