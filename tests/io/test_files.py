"""The atomic writer, verified folders and locks."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocket_resnet.errors import ArtifactError, EnvironmentFault, UsageError
from pocket_resnet.io import files
from system_calls import refuse

FOLDER = {"a.bin": b"\x00\x01", "b.json": b"{}", "README.md": b"# hello"}
LIMIT = 1_000


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(f"{files.TEMPORARY_PREFIX}*")]


def test_write_and_replace(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ä\n.txt"
    for content in (b"one", b"two", b""):
        files.write_bytes(path, content)
        assert path.read_bytes() == content
    files.write_text(path, "grün")
    assert path.read_text(encoding="utf-8") == "grün"
    assert leftovers(tmp_path) == []


@pytest.mark.threat(5)
@pytest.mark.parametrize("what", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES])
def test_failure_leaves_the_old_file(what: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 5, path and bytes needed; the old file whole and nothing beside it."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    target = (os, "fsync") if what == "fsync" else (Path, "replace")
    with monkeypatch.context() as patched:
        patched.setattr(*target, refuse(number))
        with pytest.raises(EnvironmentFault) as raised:
            files.write_bytes(path, b"x" * 12_345)
    assert raised.value.exit_code == 5
    assert raised.value.where == path
    assert "12,345 bytes needed" in str(raised.value)
    assert ("the disk is full" in str(raised.value)) == (number != errno.EACCES)
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_replacing_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with files.replacing(path) as file:
        file.write(b"one")
        assert not path.exists()
        file.write(b"two")
    assert path.read_bytes() == b"onetwo"
    with contextlib.suppress(RuntimeError), files.replacing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"onetwo"
    assert leftovers(tmp_path) == []


def test_json() -> None:
    assert files.json_bytes({"é": [1, None]}).decode() == '{\n  "é": [1, null]\n}\n'
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            files.json_bytes([value])


def test_folder_round_trip(tmp_path: Path) -> None:
    """Sums of everything but Markdown; a second writing replaces all of the first."""
    folder = tmp_path / "f"
    files.write_folder(folder, {"old": b"x"})
    files.write_folder(folder, FOLDER)
    assert files.read_folder(folder, ("a.bin", "b.json"), LIMIT) == {"a.bin": b"\x00\x01", "b.json": b"{}"}
    sums = (folder / files.SUMS_NAME).read_text().splitlines()
    assert f"{hashlib.sha256(b'{}').hexdigest()}  b.json" in sums
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", files.SUMS_NAME, "a.bin", "b.json"]
    assert leftovers(tmp_path) == []


def test_temporaries_of_a_killed_process_with_the_same_number(tmp_path: Path) -> None:
    """In containers, a program often has the same process number each time."""
    folder = tmp_path / "f"
    files.write_folder(folder, FOLDER)
    for name in ("f", "f.old"):
        temporary = tmp_path / f"{files.TEMPORARY_PREFIX}{os.getpid()}-{name}"
        temporary.mkdir()
        (temporary / "half").touch()
    files.write_folder(folder, {"c": b"new"})
    assert files.read_folder(folder, ("c",), LIMIT) == {"c": b"new"}
    (tmp_path / f"{files.TEMPORARY_PREFIX}{os.getpid()}-f").mkdir()
    files.remove_folder(folder)
    assert leftovers(tmp_path) == []


@pytest.mark.threat(5)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_failure_leaves_the_old_folder(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_folder(tmp_path / "f", FOLDER)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse(number))
        with pytest.raises(EnvironmentFault, match="3 bytes needed"):
            files.write_folder(tmp_path / "f", {"c": b"new"})
    assert files.read_folder(tmp_path / "f", ("a.bin",), LIMIT)["a.bin"] == FOLDER["a.bin"]
    assert leftovers(tmp_path) == []


@pytest.mark.threat(6, 21, 30)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "a.bin").unlink(), "a.bin: missing"),
        (lambda f: (f / "a.bin").write_bytes(b"\x00\x02"), "a.bin: damaged: SHA-256 is"),
        (lambda f: (f / "a.bin").write_bytes(bytes(LIMIT + 1)), "a.bin: 1,001 bytes, over the limit of 1,000"),
        (lambda f: (f / files.SUMS_NAME).unlink(), "SHA256SUMS: missing"),
        (lambda f: (f / files.SUMS_NAME).write_bytes(b""), "a.bin is not listed"),
        (lambda f: (f / files.SUMS_NAME).write_bytes(b"hello\n"), "line 1 is not `SHA-256  file name`"),
        (lambda f: (f / files.SUMS_NAME).write_bytes(64 * b"a" + b"  ../x\n"), "line 1 is not"),
        (lambda f: (f / files.SUMS_NAME).write_bytes(64 * b"a" + b"  /etc/passwd\n"), "line 1 is not"),
        (lambda f: (f / files.SUMS_NAME).write_bytes(bytes(10**6)), "over the limit"),
        (lambda f: ((f / "a.bin").unlink(), os.mkfifo(f / "a.bin")), "a.bin: not a plain file"),
        (lambda f: ((f / "a.bin").unlink(), (f / "a.bin").symlink_to("/dev/zero")), "a.bin: not a plain file"),
    ],
)
def test_damaged_folder(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    """Named, never outside of the folder, never waited for."""
    files.write_folder(tmp_path / "f", FOLDER)
    damage(tmp_path / "f")
    with pytest.raises(ArtifactError) as raised:
        files.read_folder(tmp_path / "f", ("a.bin",), LIMIT)
    assert message in str(raised.value)
    assert str(tmp_path / "f") in str(raised.value)


@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,8}\.bin", fullmatch=True), st.binary(max_size=50), min_size=1, max_size=4)
)
def test_any_content_round_trips(tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes]) -> None:
    folder = tmp_path_factory.mktemp("any") / "f"
    files.write_folder(folder, content)
    assert files.read_folder(folder, tuple(content), LIMIT) == content


def test_remove_folder_and_temporaries(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "f", FOLDER)
    files.remove_folder(tmp_path / "f")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".tmp-1-x").touch()
    (tmp_path / ".tmp-1-y").mkdir()
    (tmp_path / ".tmp-1-y" / "z").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / ".tmp-deep").touch()
    assert files.remove_temporaries(tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / ".tmp-deep").exists()
    assert files.remove_temporaries(tmp_path / "none") == 0


def test_point_to(tmp_path: Path) -> None:
    for target in ("a", "b"):
        files.point_to(tmp_path / "latest", target)
        assert str((tmp_path / "latest").readlink()) == target
    assert leftovers(tmp_path) == []
    (tmp_path / "mine").mkdir()
    files.point_to(tmp_path / "mine", "a")
    assert (tmp_path / "mine").is_dir()


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    assert files.digest(tmp_path / "x") == hashlib.sha256(b"hello").hexdigest()
    assert files.digest(tmp_path / "x", "md5") == hashlib.md5(b"hello").hexdigest()


def test_folder_moved_aside_goes_back(tmp_path: Path) -> None:
    """Killed between moving the old folder aside and putting the new one in its place: the old one is not lost."""
    (tmp_path / ".tmp-123-model.old").mkdir()
    (tmp_path / ".tmp-123-model.old" / "kept").touch()
    (tmp_path / ".tmp-123-model").mkdir()
    assert files.remove_temporaries(tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "kept").exists()
    (tmp_path / ".tmp-9-model.old").mkdir()
    files.remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_append_line(tmp_path: Path) -> None:
    """What is there stays; a folder that is not there is named."""
    path = tmp_path / "lines"
    for line in ("a", "é"):
        files.append_line(path, line)
    assert path.read_text(encoding="utf-8") == "a\né\n"
    with pytest.raises(EnvironmentFault, match=r"none/lines: cannot write: No such file .* \(3 bytes needed\)"):
        files.append_line(tmp_path / "none" / "lines", "é")


def test_what_is_not_a_path_is_refused() -> None:
    """Such as a program's result in place of `result.model`."""
    with pytest.raises(UsageError, match="dict is not a path"):
        files.expanded({})  # type: ignore[arg-type]
