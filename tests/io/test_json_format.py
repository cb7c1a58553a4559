"""JSON that people can read and every encoding can hold."""

import json
import os
from typing import Any

import pytest

from pocket_resnet.io.json_format import json_text

VALUES: list[Any] = [
    {},
    [],
    None,
    "a\nb",
    [1, 2.5, None, "ü"],
    {"a": {"b": [[1, 2], [3, 4]], "c": ()}, "d": [{"e": 1}, {}]},
    {1: "a number as a key"},
]


@pytest.mark.parametrize("value", VALUES)
def test_python_reads_it_back(value: Any) -> None:
    assert json.loads(json_text(value)) == json.loads(json.dumps(value))


def test_a_line_a_field_and_plain_lists_on_one() -> None:
    assert (
        json_text({"a": [1, 2], "b": [[1, 0], [0, 1]]})
        == '{\n  "a": [1, 2],\n  "b": [\n    [1, 0],\n    [0, 1]\n  ]\n}\n'
    )


@pytest.mark.threat(59)
def test_a_thousand_classes_are_a_thousand_lines() -> None:
    """And not a million."""
    text = json_text({"confusion": [[0] * 1_000 for _ in range(1_000)]})
    assert text.count("\n") < 1_010
    assert len(text) < 4e6


@pytest.mark.threat(53)
@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "ü → 🦉"), ("latin-1", "\\u00fc"), ("ascii", "\\ud83e\\udd89")]
)
def test_characters_that_an_encoding_lacks_are_escaped(encoding: str, shown: str) -> None:
    text = json_text(["ü → 🦉"], encoding)
    assert shown in text
    assert json.loads(text.encode(encoding)) == ["ü → 🦉"]


@pytest.mark.threat(53)
def test_file_names_that_are_not_utf_8() -> None:
    """They are read back as the same bytes."""
    name = os.fsdecode(b"caf\xe9.png")
    text = json_text({"image": name, "label": "ü"})
    assert os.fsencode(json.loads(text.encode())["image"]) == b"caf\xe9.png"


@pytest.mark.parametrize("value", [float("nan"), [float("inf")]])
def test_values_that_are_not_json_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_text(value)
