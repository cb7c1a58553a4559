"""docs/threats.md: every row has a test, marked with the row's number."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| (\d+) \| ", re.MULTILINE)
MARK = re.compile(r"^@pytest\.mark\.threat\(([\d, ]+)\)$", re.MULTILINE)


def test_rows_and_marks_match() -> None:
    rows = [int(number) for number in ROW.findall((ROOT / "docs" / "threats.md").read_text(encoding="utf-8"))]
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    marked = {int(number) for text in texts for numbers in MARK.findall(text) for number in numbers.split(",")}
    assert rows == sorted(set(rows))
    assert marked == set(rows)
