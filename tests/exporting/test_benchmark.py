"""The benchmark measures every runtime and number of threads, and reports what it measured."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pocket_resnet import extras
from pocket_resnet.cli.main import main
from pocket_resnet.errors import ArtifactError, EnvironmentFault, UsageError
from pocket_resnet.exporting import benchmark as benchmark_module
from pocket_resnet.exporting import memory
from pocket_resnet.exporting.benchmark import benchmark
from pocket_resnet.exporting.exporter import Exported
from pocket_resnet.exporting.graph import network_graph, with_preprocessing
from pocket_resnet.exporting.memory import peak_bytes
from pocket_resnet.model.artifact import load_model
from pocket_resnet.model.resnet import ResNet

RUNTIMES = ["torch fp32", "onnxruntime fp32", "onnxruntime int8"]


def test_command(digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "speed.png"
    main(["benchmark", str(digits_run), "--threads", "1", "2", "--rounds", "2", "--plot", str(plot), "--json"])
    report = json.loads(capsys.readouterr().out)
    _, card = load_model(digits_run)
    assert report["models"]["digits"]["num_params"] == card.num_params
    rows = report["timings"]
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


def test_torch_is_timed_as_the_package_predicts(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and filters channels last: contiguous filters took 1.3 times as long (pocket-5m)."""
    layouts = set()

    def noted(model: ResNet, images_BCHW: Tensor) -> Tensor:
        tensors = (images_BCHW, *(each for each in model.parameters() if each.ndim == 4 and each.shape[1] > 1))
        layouts.update(each.is_contiguous(memory_format=torch.channels_last) for each in tensors)
        return forward(model, images_BCHW)

    forward = ResNet.forward
    monkeypatch.setattr(ResNet, "forward", noted)
    monkeypatch.setattr(benchmark_module, "missing_packages", lambda _: ["onnx"])
    benchmark([digits_run], threads=[1], rounds=2)
    assert layouts == {True}


def test_without_the_extra(digits_run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(benchmark_module, "missing_packages", lambda _: ["onnx"])
    report = benchmark([digits_run], threads=[1], rounds=2)
    assert [timing.runtime for timing in report.timings] == ["torch fp32"]
    assert "onnxruntime is not timed: it needs pip install 'pocket-resnet[export]'" in caplog.messages


def test_exported_files(
    exports: dict[str, Exported], digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have their file's name, with the precision and accuracy stated in the file."""
    plot, files = tmp_path / "speed.png", [exports[name].file for name in ("int8", "fp16")]
    flags = ["--threads", "1", "--rounds", "2"]
    main(["benchmark", *map(str, files), *flags, "--plot", str(plot), "--json"])
    report = json.loads(capsys.readouterr().out)
    rows = report["timings"]
    assert [(row["model"], row["runtime"]) for row in rows] == [
        ("digits-int8.onnx", "onnxruntime int8"),
        ("digits-fp16.onnx", "onnxruntime fp16"),
    ]
    assert [row["num_bytes"] for row in rows] == [file.stat().st_size for file in files]
    assert all(row["images_per_s"] > 0 and row["peak_bytes"] > 10e6 for row in rows)
    _, card = load_model(digits_run)
    stated = {"accuracy": round(card.accuracy, 4), "split": "val", "num_images": card.num_images}
    assert report["models"]["digits-int8.onnx"] == {"num_params": None, "num_macs": None, **stated}
    assert plot.read_bytes().startswith(b"\x89PNG")
    main(["benchmark", str(files[0]), str(digits_run), *flags])
    shown = capsys.readouterr().out
    assert f"digits-int8.onnx: accuracy of the model in fp32 {card.accuracy:.2%} (val" in shown
    assert f"digits: {card.num_params:,} parameters" in shown


def test_a_file_without_metadata(
    exports: dict[str, Exported], digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, card = load_model(digits_run)
    metadata = {"class_names": json.dumps(card.class_names), "precision": "\x1b[31mint8", "accuracy": "perfect"}
    file = tmp_path / "own.onnx"
    file.write_bytes(with_preprocessing(network_graph(model), card.spec.image_size, metadata).SerializeToString())
    main(["benchmark", str(file), "--threads", "1", "--rounds", "2"])
    shown = capsys.readouterr().out
    assert "own.onnx: an exported file that states no accuracy" in shown
    assert "\x1b" not in shown
    report = benchmark([file], threads=[1], rounds=2)
    assert [timing.runtime for timing in report.timings] == ["onnxruntime"]
    with pytest.raises(UsageError, match="do not state their accuracy"):
        report.points()
    both = benchmark([file, exports["fp32"].file], threads=[1], rounds=2)
    assert [point[:2] for point in both.points()] == [("digits-fp32.onnx", "onnxruntime fp32")]


def test_files_that_cannot_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("not a network")
    with pytest.raises(ArtifactError, match="not a valid ONNX file"):
        benchmark([text])
    with pytest.raises(UsageError, match="no such file"):
        benchmark([tmp_path / "none.onnx"])
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(EnvironmentFault, match="onnxruntime, which are not installed"):
        benchmark([text])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 0}, "rounds: 0 rounds are too few\n  use 2 or more"),
        ({"rounds": 1}, "rounds: 1 rounds are too few\n  use 2 or more"),
        ({"threads": [0]}, "threads: 0 threads cannot compute\n  use 1 or more"),
    ],
)
def test_wrong_numbers(wrong: dict[str, Any], message: str, digits_run: Path) -> None:
    with pytest.raises(UsageError, match=message):
        benchmark([digits_run], **wrong)


def test_same_model_twice(digits_run: Path) -> None:
    with pytest.raises(UsageError, match="the same name"):
        benchmark([digits_run, digits_run / "model"])


PROGRAM = """
import sys
import pocket_resnet

print("started")
measured = pocket_resnet.benchmark(sys.argv[1], threads=[1], rounds=2)
print([timing.peak_bytes > 0 for timing in measured.timings])
"""


def test_a_program_without_a_main_guard(digits_run: Path, tmp_path: Path) -> None:
    """The processes whose memory is measured do not run the script again."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(digits_run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "started\n[True, True, True]\n"


def test_a_system_without_proc(
    exports: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the memory is measured."""
    monkeypatch.setattr(memory, "PROCESS_STATUS", tmp_path / "none")
    command = ["benchmark", str(exports["fp32"].file), "--threads", "1", "--rounds", "2"]
    main([*command, "--json"])
    [row] = json.loads(capsys.readouterr().out)["timings"]
    assert row["peak_bytes"] is None
    assert row["median_ms"] > 0
    main(command)
    assert "unknown" in capsys.readouterr().out


def allocate(_: Path) -> None:
    """Touch 200 MB."""
    assert sum(bytearray(b"\1" * 200_000_000)[::4096]) > 0


def nothing(_: Path) -> None:
    """Do nothing."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_the_child_s(tmp_path: Path) -> None:
    """The parent's memory does not count; memory that the child touches does."""
    large = bytearray(b"\1" * 500_000_000)
    least, most = peak_bytes(nothing, tmp_path), peak_bytes(allocate, tmp_path)
    assert least < len(large)
    assert 150e6 < most - least < 450e6
