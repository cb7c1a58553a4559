"""Whole files changed at random: bits flipped, pieces cut out, doubled, inserted or moved, values exchanged.

conftest.py sets the number of examples.
"""

import copy
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pocket_resnet.io.files import SUMS_NAME

FUZZING = settings(
    settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SLOW = settings(FUZZING, max_examples=FUZZING.max_examples // 4)

Edit = tuple[str, float, int, int]


def apply(content: bytes, edit: Edit) -> bytes:
    """The content after one change at a share of its length; `number` and `size` mean what the kind makes of them."""
    kind, share, number, size = edit
    at = int(share * len(content))
    piece = content[at : at + size]
    if kind == "flip" and piece:
        return content[:at] + bytes([piece[0] ^ (1 << number % 8)]) + content[at + 1 :]
    if kind == "set":
        return content[:at] + (number & 0xFFFFFFFF).to_bytes(4, "little")[: size % 4 + 1] + content[at + size % 4 + 1 :]
    if kind == "cut":
        return content[:at] + content[at + size :]
    if kind == "end":
        return content[:at]
    if kind == "double":
        return content[:at] + piece * 2 + content[at + size :]
    if kind == "swap":
        return content[:at] + content[at + size : at + 2 * size] + piece + content[at + 2 * size :]
    return content[:at] + bytes([number & 0xFF]) * size + content[at:]


SHARES = st.one_of(st.floats(0, 1, exclude_max=True), st.floats(0, 0.02), st.floats(0.98, 1, exclude_max=True))
EDITS = st.tuples(
    st.sampled_from(["flip", "set", "cut", "end", "double", "swap", "insert"]),
    SHARES,
    st.one_of(st.integers(0, 255), st.sampled_from([2**31 - 1, 2**31, 2**32 - 1, 10**6])),
    st.one_of(st.integers(1, 16), st.integers(1, 4_000)),
)


def changed(*whole: bytes) -> st.SearchStrategy[bytes]:
    """One of these files after up to five changes, or sometimes unrelated bytes."""

    def change(drawn: tuple[int, list[Edit]]) -> bytes:
        number, edits = drawn
        content = whole[number]
        for edit in edits:
            content = apply(content, edit)
        return content

    edited = st.tuples(st.integers(0, len(whole) - 1), st.lists(EDITS, max_size=5)).map(change)
    return st.one_of(edited, edited, edited, st.binary(max_size=300))


JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([10**6, 2**31, 2**63, -(2**63), 10**30]),
        st.floats(),
        st.text(max_size=20),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def other_values(content: bytes) -> st.SearchStrategy[bytes]:
    """A JSON object with a few of its values, at any depth, replaced, removed or doubled under another name."""

    def replace(drawn: tuple[list[tuple[float, str]], Any]) -> bytes:
        places, value = drawn
        document = json.loads(content)
        for share, how in places:
            entries = [(section, key) for section in sections(document) for key in section]
            section, key = entries[int(share * len(entries))]
            if how == "remove":
                del section[key]
            else:
                section[key if how == "replace" else f"{key}2"] = copy.deepcopy(
                    section[key] if how == "double" else value
                )
        return json.dumps(document).encode()

    places = st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(["replace", "replace", "remove", "double"]))
    return st.tuples(st.lists(places, min_size=1, max_size=3), JSON_VALUES).map(replace)


def sections(document: Any) -> Iterator[dict[str, Any]]:
    """The object and those in it, without empty ones."""
    if isinstance(document, dict) and document:
        yield document
        for value in document.values():
            yield from sections(value)


def other_header(content: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file with other values in its header, whose length is right."""
    start = 8 + int.from_bytes(content[:8], "little")

    def join(header: bytes) -> bytes:
        return len(header).to_bytes(8, "little") + header + content[start:]

    formats = st.sampled_from([b"F64", b"F16", b"I8", b"U64", b"BOOL", b"F4", b"F8_E8M0", b"C64", b"XX"])
    renamed = formats.map(lambda name: content[8:start].replace(b"F32", name, 1))
    return st.one_of(other_values(content[8:start]), renamed).map(join)


def names(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def write_summed(folder: Path, files: dict[str, bytes]) -> None:
    """Write the files with matching sums, as an attacker would; without syncing."""
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {SUMS_NAME: sums.encode(), **files}.items():
        (folder / name).write_bytes(content)
