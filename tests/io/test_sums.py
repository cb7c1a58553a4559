"""The content of SHA256SUMS."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from pocket_resnet.errors import ArtifactError
from pocket_resnet.io import sums

DIGEST = "0" * 64
FILES = {"a.bin": b"one", "config.json": b"{}", "README.md": b"# mine"}


def test_as_sha256sum_reads_them(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "sums").write_bytes(sums.of(FILES))
    done = subprocess.run(["sha256sum", "-c", "sums"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["a.bin: OK", "config.json: OK"]


def test_parse() -> None:
    recorded = sums.parse(sums.of(FILES), "here")
    assert recorded == {name: hashlib.sha256(FILES[name]).hexdigest() for name in ("a.bin", "config.json")}


@pytest.mark.parametrize(
    "line", ["x", "0" * 64, "0" * 64 + "  ", "0" * 63 + "  a", "0" * 64 + "  ../a", "0" * 64 + " a"]
)
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(ArtifactError, match="here: line 2 is not"):
        sums.parse(sums.of({"a": b""}) + line.encode(), "here")


def test_check() -> None:
    sums.check(b"one", hashlib.sha256(b"one").hexdigest(), "here")
    with pytest.raises(ArtifactError, match="here: damaged: SHA-256 is 7692c3ad3540…, 000000000000… was written"):
        sums.check(b"one", "0" * 64, "here")
