"""Templates: text is escaped, missing values are errors, numbers have one format."""

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import pocket_resnet
from pocket_resnet.reporting import page

PACKAGE = Path(pocket_resnet.__file__).parent


def test_text_is_escaped() -> None:
    html = page.render("base", {"title": "a < b & <b>"})
    assert html.count("a &lt; b &amp; &lt;b&gt;") == 2
    assert "<b>" not in html


def test_missing_values_are_errors() -> None:
    with pytest.raises(UndefinedError, match="title"):
        page.render("base", {})


def test_no_template_marks_text_as_safe() -> None:
    """Of reports, exported pages and the server."""
    templates = sorted(PACKAGE.rglob("*.jinja"))
    assert {path.parents[1].name for path in templates} == {"reporting", "web", "serving"}
    for path in templates:
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (page.count(12345), "12,345"),
        (page.fixed(0.123, 4), "0.1230"),
        (page.signed(-1.2), "−1.20"),
        (page.signed(1.2), "+1.20"),
        (page.percent(0.93214), "93.21%"),
        (page.interval((0.9, 0.95), "–", 1), "90.0%–95.0%"),
        (page.p_value(0.0312), "0.0312"),
        (page.p_value(0.00001), "< 0.0001"),
    ],
)
def test_numbers(written: str, expected: str) -> None:
    assert written == expected
