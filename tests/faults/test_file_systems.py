"""File systems that lack a feature: Google Drive's folder in Colab, some NFS and FUSE."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pocket_resnet.io import files
from system_calls import refuse

Run = Callable[..., tuple[int, str, str]]
sync = os.fsync


def sync_files_alone(descriptor: int) -> None:
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    sync(descriptor)


LACKING: dict[str, tuple[object, str, Callable[..., None], str]] = {
    "locks": (fcntl, "flock", refuse(errno.ENOSYS), "the file system does not support locks"),
    "links": (os, "symlink", refuse(errno.EPERM), "cannot create the link `latest` to r (Operation not permitted)"),
    "folder sync": (os, "fsync", sync_files_alone, "the file system cannot sync"),
    "sync": (os, "fsync", refuse(errno.ENOTSUP), "the file system cannot sync"),
}


@pytest.mark.threat(54)
@pytest.mark.parametrize("what", LACKING)
@pytest.mark.usefixtures("synthetic")
def test_training_works_with_a_warning(
    what: str,
    run: Run,
    recipe_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One warning for the missing feature, and the run can be resumed and evaluated."""
    where, name, replacement, message = LACKING[what]
    monkeypatch.setattr(where, name, replacement)
    monkeypatch.setattr(files, "_warned", set())
    arguments = ("train", recipe_path, "--no-report", "--runs-dir", tmp_path / "runs", "--run", "r")
    code, _, err = run(*arguments, "--max-steps", 1)
    assert code == 0
    assert err.count(message) == 1
    assert run(*arguments, "--resume")[0] == 0
    assert run("evaluate", tmp_path / "runs" / "r")[0] == 0


@pytest.mark.threat(54)
def test_a_failing_disk_is_still_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(files.EnvironmentFault, match="Input/output error"):
        files.write_bytes(tmp_path / "x", b"x")
