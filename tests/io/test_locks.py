"""A folder for one process alone, also on file systems without locks."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import IO, Any

import pytest

from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.io import files, locks
from pocket_resnet.io.locks import exclusive, is_in_use, lock_folder


@pytest.mark.threat(12)
def test_lock(tmp_path: Path) -> None:
    """Also within one process; free again after the block, even after an error."""
    with lock_folder(tmp_path / "f") as notice:
        assert notice is None
        with (
            pytest.raises(EnvironmentFault, match=f"in use by process {os.getpid()}"),
            lock_folder(tmp_path / "f"),
        ):
            pass
    with pytest.raises(RuntimeError), lock_folder(tmp_path / "f"):
        raise RuntimeError
    with lock_folder(tmp_path / "f") as notice:
        assert notice is None


def test_a_new_folder_in_which_nothing_was_written_is_removed(tmp_path: Path) -> None:
    """Also after an error; not if it was there before, or if anything was written."""
    with lock_folder(tmp_path / "runs" / "f"):
        assert is_in_use(tmp_path / "runs" / "f")
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]
    with pytest.raises(RuntimeError), lock_folder(tmp_path / "runs" / "f"):
        raise RuntimeError
    assert not list((tmp_path / "runs").iterdir())
    with lock_folder(tmp_path / "f"):
        (tmp_path / "f" / "written").touch()
    (tmp_path / "f" / "written").unlink()
    with lock_folder(tmp_path / "f"):
        pass
    assert [path.name for path in (tmp_path / "f").iterdir()] == [".lock"]
    assert not is_in_use(tmp_path / "f")
    (tmp_path / "f" / ".lock").write_text("1")  # of a dead process
    assert not is_in_use(tmp_path / "f")


@pytest.mark.threat(12)
def test_a_folder_that_is_removed_meanwhile_is_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock would be that of a deleted file: a third process could lock the new one."""
    folder, lock = tmp_path / "f", locks.lock
    first = lock_folder(folder)
    first.__enter__()

    def end_first(file: IO[Any]) -> bool:
        monkeypatch.setattr(locks, "lock", lock)
        first.__exit__(None, None, None)
        assert not folder.exists()
        return lock(file)

    monkeypatch.setattr(locks, "lock", end_first)
    with lock_folder(folder), pytest.raises(EnvironmentFault, match="in use by process"), lock_folder(folder):
        pass
    assert not folder.exists()


@pytest.mark.threat(12)
def test_processes_that_create_and_remove_a_folder_never_share_it(tmp_path: Path, start_child: Any) -> None:
    def work() -> None:
        for _ in range(300):
            with contextlib.suppress(EnvironmentFault), lock_folder(tmp_path / "f"):
                (tmp_path / "alone").touch(exist_ok=False)
                assert (tmp_path / "f" / ".lock").read_text() == str(os.getpid())
                (tmp_path / "alone").unlink()

    assert [child.wait() for child in [start_child(work) for _ in range(3)]] == [0, 0, 0]


def test_lock_in_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(EnvironmentFault, match="cannot write"), lock_folder(tmp_path / "f"):
        pass


@pytest.mark.threat(54)
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EPERM])
def test_file_systems_without_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Google Drive's folder in Colab, some NFS: a warning, and work continues."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(files, "_warned", set())
    with lock_folder(tmp_path / "f") as warning:
        assert warning is not None
        assert str(tmp_path / "f") in warning
        assert "does not support locks" in warning
    with exclusive(tmp_path / "archive", wait_s=0.0):
        pass
    assert "does not support locks" in caplog.text


@pytest.mark.threat(27)
def test_waiting_for_another_process_times_out(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    with (
        exclusive(path),
        pytest.raises(EnvironmentFault, match="another process"),
        exclusive(path, wait_s=0.2),
    ):
        pass


def test_a_wait_is_watched_and_can_be_ended(tmp_path: Path) -> None:
    path, watched = tmp_path / "file.gz", []

    def watch() -> None:
        watched.append(len(watched))
        if len(watched) == 3:
            raise KeyboardInterrupt

    with exclusive(path), pytest.raises(KeyboardInterrupt), exclusive(path, watch=watch):
        pass
    assert watched == [0, 1, 2]
    with exclusive(path, watch=watch):
        assert watched == [0, 1, 2]


def test_what_a_killed_process_left_of_this_path_is_removed(tmp_path: Path) -> None:
    """Files and folders; not those of other paths, which may be in use."""
    stale, others = [".tmp-7-file.gz", ".tmp-8-file.gz"], [".tmp-7-other.gz", ".tmp-7-a-file.gz", "file.gz"]
    (tmp_path / stale[0]).touch()
    (tmp_path / stale[1]).mkdir()
    (tmp_path / stale[1] / "content").touch()
    for name in others:
        (tmp_path / name).touch()
    with exclusive(tmp_path / "file.gz"):
        assert {path.name for path in tmp_path.iterdir()} == {*others, ".file.gz.lock"}
