"""`--json` and `--out`: where the document is written, and which files are never replaced."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pocket_resnet.cli.command_output import CommandOutput
from pocket_resnet.errors import EnvironmentFault, UsageError

Run = Callable[..., tuple[int, str, str]]


def write_object(out: Path | None = None, *, json: bool = False) -> None:
    CommandOutput(json, out).write(lambda: {"name": "ü"}, lambda: print("for people"))


def test_standard_output_has_only_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    write_object(json=True)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"name": "ü"}
    assert captured.err == ""


def test_a_file_and_lines_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is created with its folder, and replaced if it exists."""
    path = tmp_path / "new" / "output.json"
    for _ in range(2):
        write_object(path)
        assert json.loads(path.read_bytes()) == {"name": "ü"}
        assert capsys.readouterr() == ("for people\n", f"wrote {path}\n")
    write_object(path, json=True)
    assert json.loads(capsys.readouterr().out) == {"name": "ü"}
    assert [entry.name for entry in path.parent.iterdir()] == ["output.json"]


@pytest.mark.threat(51)
def test_a_link_is_written_through(tmp_path: Path) -> None:
    """Links to a file, to another link, and to a file that does not exist yet."""
    (tmp_path / "kept").mkdir()
    for name, target in (("link", "kept/a.json"), ("further", "link"), ("dangling", "kept/b.json")):
        (tmp_path / name).symlink_to(target)
        write_object(tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert json.loads((tmp_path / name).read_bytes()) == {"name": "ü"}
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["a.json", "b.json"]


@pytest.mark.threat(51)
def test_a_fifo_is_written_into(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["cat", str(fifo)], stdout=subprocess.PIPE) as reader:
        write_object(fifo)
        assert json.loads(reader.communicate(timeout=10)[0]) == {"name": "ü"}
    assert fifo.is_fifo()


@pytest.mark.threat(51)
def test_a_device_is_written_into() -> None:
    """/dev/null stays what it is; a full device is a full disk."""
    write_object(Path("/dev/null"))
    assert Path("/dev/null").is_char_device()
    with pytest.raises(EnvironmentFault, match="/dev/full: the disk is full"):
        write_object(Path("/dev/full"))


@pytest.mark.threat(51)
@pytest.mark.parametrize("spelling", ["-", "/dev/stdout", "/dev/fd/1"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_standard_output_as_a_file(spelling: str, kind: str, tmp_path: Path) -> None:
    """As with `--json`, nothing else is written to it, and a redirection is not replaced."""
    command = [sys.executable, "-m", "pocket_resnet", "summary", "resnet20", "--out", spelling]
    redirected = tmp_path / "output.json"
    with redirected.open("w") as file:
        done = subprocess.run(command, stdout=file if kind == "file" else subprocess.PIPE, check=True)
    assert json.loads(redirected.read_bytes() if kind == "file" else done.stdout)["num_params"] > 0


@pytest.mark.parametrize("json_too", [False, True])
def test_the_file_is_written_although_nobody_reads_standard_output(
    json_too: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise BrokenPipeError

    output = CommandOutput(json_too, tmp_path / "output.json")
    with monkeypatch.context() as patch:
        patch.setattr(sys.stdout, "flush", gone)
        with pytest.raises(BrokenPipeError):
            output.write(lambda: {"name": "ü"}, gone)
    assert json.loads((tmp_path / "output.json").read_bytes()) == {"name": "ü"}


@pytest.mark.threat(51)
def test_unwritable_paths_are_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An existing file too: it is replaced through a temporary file in its folder."""
    with pytest.raises(UsageError, match="a folder, not a writable file"):
        CommandOutput(False, tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(EnvironmentFault, match="loop"):
        CommandOutput(False, tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(tmp_path / "socket"))
        with pytest.raises(UsageError, match="a block device or socket, not a writable file"):
            CommandOutput(False, tmp_path / "socket")
    (tmp_path / "there.json").touch()
    with pytest.raises(EnvironmentFault, match="Not a directory"):
        CommandOutput(False, tmp_path / "there.json" / "x.json")
    monkeypatch.setattr(os, "access", lambda *_: False)
    for name in ("x.json", "there.json", "new/folder/x.json"):
        with pytest.raises(EnvironmentFault, match="Permission denied"):
            CommandOutput(False, tmp_path / name)
    CommandOutput(False, Path("/dev/null"))


@pytest.mark.threat(51)
def test_files_of_a_run_or_model_are_refused_also_through_a_link(trained: Path, tmp_path: Path) -> None:
    for name in ("result.json", "recipe.toml", "metrics.jsonl", "model/config.json", "model/README.md"):
        before = (trained / name).read_bytes()
        (tmp_path / "link").symlink_to(trained / name)
        for path in (trained / name, tmp_path / "link"):
            with pytest.raises(UsageError, match="this file belongs to a run or model"):
                CommandOutput(False, path)
        (tmp_path / "link").unlink()
        assert (trained / name).read_bytes() == before
    for _ in range(2):
        write_object(trained / "evaluation.json")


@pytest.mark.parametrize(
    "arguments",
    [("summary", "resnet20"), ("design", "--budget", "50K"), ("data", "digits"), ("evaluate",), ("predict",)],
)
def test_every_command_has_json_and_out(
    arguments: tuple[str, ...], run: Run, trained: Path, picture: Path, tmp_path: Path
) -> None:
    more = {"evaluate": (trained,), "predict": (trained, picture)}.get(arguments[0], ())
    run("--version")  # discards the output of the training
    code, out, err = run(*arguments, *more, "--json")
    assert (code, err) == (0, "")
    code, for_people, err = run(*arguments, *more, "--out", tmp_path / "output.json")
    assert (code, err) == (0, f"wrote {tmp_path / 'output.json'}\n")
    assert isinstance(json.loads(out), dict)
    assert json.loads(out) == json.loads((tmp_path / "output.json").read_bytes())
    with pytest.raises(ValueError, match="char"):
        json.loads(for_people)


@pytest.mark.usefixtures("synthetic")
def test_train_has_json_and_out(run: Run, recipe_path: Path, tmp_path: Path) -> None:
    """--out cannot replace the result of the run that it trains."""
    arguments = ("train", recipe_path, "--no-report", "--max-steps", 1, "--runs-dir", tmp_path, "--run", "r")
    code, out, _ = run(*arguments, "--json", "--out", tmp_path / "output.json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "output.json").read_bytes())
    code, _, err = run(*arguments[:-1], "s", "--out", tmp_path / "s" / "result.json")
    assert code == 2
    assert "this file belongs to a run or model" in err
    assert (tmp_path / "s" / "model" / "config.json").exists()


def test_json_takes_no_argument(run: Run, trained: Path, tmp_path: Path) -> None:
    code, _, err = run("evaluate", trained, "--json", tmp_path / "output.json")
    assert code == 2
    assert "output.json" in err
