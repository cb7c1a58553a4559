"""What an export refuses, whichever format, and how it finds its model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pocket_resnet
from hub_server import Hub
from pocket_resnet.errors import UsageError
from pocket_resnet.exporting.exporter import Exported, licence

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


def test_licence(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a released model, by its name or by its path from anywhere; not of one's own."""
    monkeypatch.chdir(ROOT)
    found = [licence(Path(path)) for path in ("pocket-1m", "models/pocket-1m", ROOT / "models/pocket-1m")]
    assert found == ["MIT"] * 3
    assert licence(digits_run) == "unknown"


def test_no_precision_fits(run: Run, digits_run: Path, exports: dict[str, Exported], tmp_path: Path) -> None:
    code, out, err = run("export", digits_run, "--max-bytes", "10KB", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert f"fp32 takes {exports['fp32'].num_bytes:,}, fp16 takes {exports['fp16'].num_bytes:,}, int8 takes" in err
    assert f"allow --max-bytes {exports['int8'].num_bytes}, or train a network of about" in err
    assert not (tmp_path / "out").exists()


def test_invalid_usage(run: Run, digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for arguments, what in [
        (("--out", tmp_path / "file"), "not a folder"),
        (("--precision", "fp16", "--target", "vnni"), "fp16 has no target"),
        (("--max-bytes", "many"), "max_bytes 'many' is not a"),
    ]:
        code, out, err = run("export", digits_run, *arguments)
        assert (code, out) == (2, "")
        assert what in err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"format": "tflite"}, "unknown format 'tflite'"),
        ({"precision": "int4"}, "an ONNX file has no int4"),
        ({"target": "neon"}, "an ONNX file has no target neon"),
        ({"samples": 3}, "only a page has samples"),
        ({"max_bytes": 0}, "max_bytes '0' is not a"),
    ],
)
def test_invalid_arguments(options: dict[str, Any], what: str, digits_run: Path, tmp_path: Path) -> None:
    """Python programs get the command's errors, also for values that the command's parser refuses."""
    with pytest.raises(UsageError, match=what):
        pocket_resnet.export(digits_run, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("use", ["export", "benchmark"])
def test_an_address_on_the_hub_is_looked_up_once(use: str, hub: Hub, digits_run: Path, tmp_path: Path) -> None:
    """So name, weights and figures are those of one commit, whoever pushes meanwhile."""
    pocket_resnet.push(digits_run, "ann/numerals")
    hub.requests.clear()
    if use == "export":
        assert pocket_resnet.export("hf://ann/numerals", out=tmp_path).file == tmp_path / "numerals-fp32.onnx"
    else:
        measured = pocket_resnet.benchmark("hf://ann/numerals", threads=[1], rounds=2)
        assert {timing.model for timing in measured.timings} == {"numerals"}
    assert [request for request in hub.requests if "/api/" in request] == ["GET /api/models/ann/numerals/revision/main"]
