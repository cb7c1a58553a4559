"""Standard streams that are closed, broken, or whose encoding lacks characters of the names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = f"{sys.executable} -m pocket_resnet"


def shell(command: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash, in which POCKET is the command."""
    line = command.replace("POCKET", PROGRAM)
    variables = {**os.environ, **environment}
    return subprocess.run(["bash", "-c", line], cwd=folder, env=variables, capture_output=True, check=False)


@pytest.mark.threat(53)
@pytest.mark.parametrize(
    ("command", "code", "out", "err"),
    [
        ("POCKET summary resnet20 >&-", 0, b"", b""),
        ("POCKET evaluate none >&-", 2, b"", b"pocket-resnet: none: no model here"),
        ("POCKET evaluate none 2>&-", 2, b"", b""),
        ("POCKET evaluate none >&- 2>&- <&-", 2, b"", b""),
        ("POCKET summary resnet20 --no-such-flag 2>&-", 2, b"", b""),
        ("POCKET summary resnet20 >/dev/full", 5, b"", b"pocket-resnet: error: No space left on device\n"),
    ],
)
def test_closed_and_full(command: str, code: int, out: bytes, err: bytes) -> None:
    """No output, the command's own exit code; messages for standard error never appear on standard output."""
    done = shell(command)
    assert (done.returncode, done.stdout) == (code, out)
    assert done.stderr.startswith(err)
    assert done.stderr.count(b"\n") == err.count(b"\n") + (b"none" in err) * 2
    assert b"Traceback" not in done.stderr


@pytest.mark.threat(53)
def test_json_stays_alone_where_standard_error_is_closed(tmp_path: Path) -> None:
    done = shell(f"POCKET summary resnet20 --json --out {tmp_path}/output.json 2>&-")
    assert json.loads(done.stdout) == json.loads((tmp_path / "output.json").read_bytes())


@pytest.mark.threat(51)
@pytest.mark.parametrize(
    "arguments", ["summary resnet20", "summary resnet20 --json", "train --help", "--help", "data digits"]
)
def test_a_closed_pipe_on_standard_output_exits_with_141(arguments: str) -> None:
    """No message; exit code 141, like any program that SIGPIPE ends."""
    done = shell(f"POCKET {arguments} | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.threat(51)
def test_a_closed_pipe_on_standard_error_does_not_stop_training(tmp_path: Path) -> None:
    """The run ends as usual; then its result cannot be printed."""
    words = "--data digits --min-steps 0 --epochs 2 --batch-size 64 --validate-every 1 --no-report --run r"
    words += " --model.widths 8 16 16 --model.stem-width 8 --norm-images 64"
    done = shell(f"POCKET train fast {words} 2>&1 | head -n 1; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert done.returncode == 141
    assert done.stdout.count(b"\n") == 1
    assert (tmp_path / "runs" / "r" / "result.json").exists()


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and pictures of odd names."""
    from PIL import Image

    from pocket_resnet.recipe.toml import load_recipe, override
    from pocket_resnet.training.run import train

    folder = tmp_path_factory.mktemp("odd")
    changes = {"data.name": "digits", "max_steps": 1, "batch_size": 32, "budget": "20K", "hardware.num_threads": 1}
    train(override(load_recipe("fast"), changes), runs_dir=folder, run="r")
    (folder / "pictures").mkdir()
    for name in (b"caf\xe9.png", b"new\nline.png", "ü🦉.png".encode()):
        Image.new("RGB", (8, 8)).save(folder / "x.png")
        (folder / "x.png").rename(folder / "pictures" / os.fsdecode(name))
    return folder


@pytest.mark.threat(53)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_every_row_is_kept(encoding: str, predicted: Path) -> None:
    """Names that the output's encoding lacks, or that are not text, are escaped."""
    done = shell("POCKET predict r pictures", predicted, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    rows = done.stdout.decode(encoding).splitlines()
    assert ["caf\\udce9" in rows[0], "new\\nline" in rows[1], len(rows)] == [True, True, 3]
    assert {"utf-8": "ü🦉", "ascii": "\\xfc\\U0001f989", "latin-1": "ü\\U0001f989"}[encoding] in rows[2]
    done = shell("POCKET predict r pictures --json", predicted, PYTHONIOENCODING=encoding)
    names = [os.fsencode(Path(row["image"]).name) for row in json.loads(done.stdout.decode(encoding))["predictions"]]
    assert names == [b"caf\xe9.png", b"new\nline.png", "ü🦉.png".encode()]


@pytest.mark.threat(53)
def test_errors_and_help_in_ascii(predicted: Path) -> None:
    done = shell("POCKET predict r $'none\\xe9' ü.png", predicted, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 3
    assert b"none\\udce9: cannot be read" in done.stderr
    assert b"\\xfc.png: cannot be read" in done.stderr
    for name in ("train", "predict"):
        done = shell(f"POCKET {name} --help", PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.isascii()


@pytest.mark.threat(53)
def test_a_path_that_a_recipe_cannot_hold(tmp_path: Path) -> None:
    """TOML is UTF-8, so training refuses the path before any work; `data` still describes such a folder."""
    from PIL import Image

    folder = tmp_path / os.fsdecode(b"d\xe9ta")
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    done = shell("POCKET train fast --data $'d\\xe9ta' --batch-size 2 --data-dir data", tmp_path)
    assert done.returncode == 2
    assert b"\npocket-resnet: data.name '" in b"\n" + done.stderr
    assert b"d\\udce9ta' is not UTF-8\n  rename it" in done.stderr
    assert not (tmp_path / "runs").exists()
    assert shell("POCKET data $'d\\xe9ta' --data-dir data", tmp_path).returncode == 0
