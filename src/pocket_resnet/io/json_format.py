"""Readable JSON: a line for each field, and lists of plain values on one line.

The confusion matrix of 1,000 classes has 1,000 lines instead of a million.
"""

import json
from typing import Any


def json_text(value: Any, encoding: str = "utf-8") -> str:
    """The value as JSON; characters that the encoding lacks are escaped. Raises ValueError for NaN and infinity.

    File names that are not UTF-8 have such characters: lone surrogates, which Python's json reads back.
    """
    text = _lines(value, "") + "\n"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        text = "".join(char if char.isascii() else json.dumps(char)[1:-1] for char in text)
    return text


def _lines(value: Any, margin: str) -> str:
    inner = f"{margin}  "
    if isinstance(value, dict) and value:
        entries = [f"{_plain(str(key))}: {_lines(each, inner)}" for key, each in value.items()]
    elif isinstance(value, list | tuple) and value and isinstance(value[0], dict | list | tuple):
        entries = [_lines(each, inner) for each in value]
    else:
        return _plain(value)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(entries) + f"\n{margin}{closing}"


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
