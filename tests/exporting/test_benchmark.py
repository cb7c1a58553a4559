"""The benchmark measures every runtime and number of threads, and says what it measured."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.cli.main import main
from pocket_resnet.errors import UsageError
from pocket_resnet.exporting import benchmark as benchmark_module
from pocket_resnet.exporting.benchmark import benchmark
from pocket_resnet.exporting.memory import peak_bytes
from pocket_resnet.model.artifact import load_model

RUNTIMES = ["torch fp32", "onnxruntime fp32", "onnxruntime int8"]


def test_command(digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "speed.png"
    main(["benchmark", str(digits_run), "--threads", "1", "2", "--rounds", "2", "--plot", str(plot), "--json"])
    found = json.loads(capsys.readouterr().out)
    _, card = load_model(digits_run)
    assert found["models"]["digits"]["num_params"] == card.num_params
    rows = found["timings"]
    assert [(row["runtime"], row["num_threads"]) for row in rows] == [(name, n) for name in RUNTIMES for n in (1, 2)]
    assert all(0 < row["median_ms"] <= row["p90_ms"] for row in rows)
    torch_bytes, fp32_bytes, int8_bytes = (row["num_bytes"] for row in rows[::2])
    assert torch_bytes == 4 * card.num_params < fp32_bytes
    assert int8_bytes < fp32_bytes
    assert rows[2]["peak_bytes"] < rows[0]["peak_bytes"]  # a process that runs an exported file does not load torch
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_table(digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["benchmark", str(digits_run), "--threads", "1", "--rounds", "2"])
    shown = capsys.readouterr().out
    assert "digits: " in shown
    assert all(runtime in shown for runtime in RUNTIMES)


def test_without_the_extra(digits_run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(benchmark_module, "missing_packages", lambda _: ["onnx"])
    found = benchmark([digits_run], threads=[1], num_rounds=2)
    assert [timing.runtime for timing in found.timings] == ["torch fp32"]
    assert "onnxruntime is not timed: it needs pip install 'pocket-resnet[export]'" in caplog.messages


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"num_rounds": 0}, "rounds: 0 rounds are too few\n  use 2 or more"),
        ({"num_rounds": 1}, "rounds: 1 rounds are too few\n  use 2 or more"),
        ({"threads": [0]}, "threads: 0 threads cannot compute\n  use 1 or more"),
    ],
)
def test_wrong_numbers(wrong: dict[str, Any], told: str, digits_run: Path) -> None:
    with pytest.raises(UsageError, match=told):
        benchmark([digits_run], **wrong)


def test_same_model_twice(digits_run: Path) -> None:
    with pytest.raises(UsageError, match="the same name"):
        benchmark([digits_run, digits_run / "model"])


def allocate(_: Path) -> None:
    """Touch 200 MB."""
    assert sum(bytearray(b"\1" * 200_000_000)[::4096]) > 0


def nothing(_: Path) -> None:
    """Do nothing."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_the_child_s(tmp_path: Path) -> None:
    """The large parent does not count, and what the child touches does."""
    large = bytearray(b"\1" * 500_000_000)
    least, most = peak_bytes(nothing, tmp_path), peak_bytes(allocate, tmp_path)
    assert least < len(large)
    assert 150e6 < most - least < 450e6
