"""Addresses on the hub, which arrive as paths."""

from pathlib import Path

import pytest

from pocket_resnet.errors import UsageError
from pocket_resnet.io.hub_address import Address, check_repository, is_address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://ann/tiny", Address("ann/tiny", "main")),
        ("hf://ann/tiny@v1.0", Address("ann/tiny", "v1.0")),
        ("hf://ann/tiny@refs/pr/3", Address("ann/tiny", "refs/pr/3")),
        ("hf://a-b_c.d/1.x_y-z", Address("a-b_c.d/1.x_y-z")),
    ],
)
def test_parts(text: str, address: Address) -> None:
    assert is_address(Path(text))
    assert parse_address(Path(text)) == address
    assert str(address) == text


@pytest.mark.parametrize("path", ["ann/tiny", "./hf:/ann", "/hf:/ann/tiny", "hf", "runs/latest"])
def test_other_paths(path: str) -> None:
    assert is_address(Path(path)) == (path == "./hf:/ann")


@pytest.mark.threat(62)
@pytest.mark.parametrize(
    "name",
    [
        *("", "ann", "ann/", "/tiny", "ann/tiny/more", "../tiny", "ann/..", "ann/.", "ann/.tiny", "ann/tiny-"),
        *("ann/ti..ny", "ann/ti--ny", "an--n/tiny", "ann/tiny.git", "ann/ti ny", "ann/tiny\n", "ann/tïny", "ann\\tiny"),
        *("a" * 97 + "/tiny", "ann/" + "a" * 97, "ann/ti%2e"),
    ],
)
def test_invalid_names(name: str) -> None:
    with pytest.raises(UsageError, match="is not a name on the hub"):
        check_repository(name)


def test_longest_names() -> None:
    check_repository("a" * 96 + "/" + "b" * 96)


@pytest.mark.threat(62)
@pytest.mark.parametrize("revision", ["..", "a/../b", "-x", "a b", "a..b", "x" * 256, "vï", "a@b"])
def test_invalid_revisions(revision: str) -> None:
    with pytest.raises(UsageError, match="is not a revision"):
        parse_address(Path(f"hf://ann/tiny@{revision}"))
