"""Archives that attack or are damaged: refused, and nothing is written, neither inside nor outside."""

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pocket_resnet.data import archive
from pocket_resnet.data.archive import extract
from pocket_resnet.errors import DataError

CONTENT = os.urandom(5_000)


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = CONTENT) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    return info


def pack(*entries: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for info in (entry("data", tarfile.DIRTYPE), entry("data/a.bin"), *entries):
            tar.addfile(info, io.BytesIO(CONTENT[: info.size] if info.size <= len(CONTENT) else bytes(info.size)))
    return packed.getvalue()


def try_to_extract(folder: Path, content: bytes, name: str = "data/a.bin") -> Path:
    (folder / "in").mkdir(parents=True)
    (folder / "some.tar.gz").write_bytes(content)
    extract(folder / "some.tar.gz", {name: folder / "in" / "a.bin"})
    return folder / "in" / "a.bin"


@pytest.mark.threat(28)
def test_only_expected_files_are_written(tmp_path: Path) -> None:
    """Other members of the archive are not extracted."""
    path = try_to_extract(tmp_path, pack(entry("data/other.bin"), entry("b.html")))
    assert path.read_bytes() == CONTENT
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.bin", "in", "some.tar.gz"]


ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "parent": (lambda: pack(entry("data/../../evil")), "outside"),
    "absolute": (lambda: pack(entry("/tmp/evil")), "outside"),
    "symlink": (lambda: pack(entry("data/link", tarfile.SYMTYPE, "/etc/passwd")), "link"),
    "hard link": (lambda: pack(entry("data/link", tarfile.LNKTYPE, "data/a.bin")), "link"),
    "device": (lambda: pack(entry("data/null", tarfile.CHRTYPE)), "device"),
    "fifo": (lambda: pack(entry("data/fifo", tarfile.FIFOTYPE)), "special file"),
    "bomb": (lambda: pack(entry("data/zeros", content=bytes(3_000_000))), "exceeds the size limit"),
    "many entries": (lambda: pack(*(entry(f"data/{n}", content=b"x") for n in range(1_001))), "entries"),
    "expected name as link": (lambda: pack(entry("data/a.bin", tarfile.SYMTYPE, "/etc/passwd")), "link"),
    "cut": (lambda: pack()[:-2_000], "damaged"),
    "no gzip": (lambda: b"<html>no</html>" * 100, "damaged"),
    "gzip of something": (lambda: gzip.compress(os.urandom(2_000)), "damaged"),
    "empty": (lambda: b"", "damaged"),
}


@pytest.mark.threat(28)
@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_refused(attack: str, tmp_path: Path) -> None:
    """And nothing is written, neither inside nor outside."""
    make, what = ATTACKS[attack]
    with pytest.raises(DataError, match=what) as raised:
        try_to_extract(tmp_path / "x", make())
    assert raised.value.exit_code == 3
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "some.tar.gz", "x"]


@pytest.mark.threat(28)
def test_claimed_sizes_are_refused(tmp_path: Path) -> None:
    """Bombs by their header; what they cost is measured in test_limits.py."""
    for number, (kind, size) in enumerate([(tarfile.REGTYPE, 10**13), (tarfile.XHDTYPE, 2**33), (b"L", 2**33)]):
        info = tarfile.TarInfo("data/a.bin")
        info.type, info.size = kind, size
        content = gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000_000))
        with pytest.raises(DataError, match=r"exceeds the size limit|damaged"):
            try_to_extract(tmp_path / str(number), content)


def test_missing_member_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not contain data/z\.bin"):
        try_to_extract(tmp_path, pack(), "data/z.bin")


def test_limits_hold_a_real_cifar_archive() -> None:
    assert archive.MAX_MEMBER_BYTES > 50_000 * 3_074 * 1.02
    assert archive.MAX_TOTAL_BYTES > 60_000 * 3_074 * 1.02
