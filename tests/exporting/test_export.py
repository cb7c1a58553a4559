"""Exported files compute what the model computes; a file that does not is never written."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

import pocket_resnet
from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.image import decode
from pocket_resnet.exporting import onnx_exporter, parity
from pocket_resnet.exporting.exporter import Exported
from pocket_resnet.exporting.parity import ParityError
from pocket_resnet.model.artifact import load_model

Run = Callable[..., tuple[int, str, str]]
REAL_DATA = os.environ.get("POCKET_RESNET_DATA")  # before a fixture hides it
DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"
RELEASED = ("pocket-1m", "pocket-5m")


def run_file(file: Path, images_BHWC: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits and probabilities, as a user's program gets them."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    logits_BK, probabilities_BK = session.run(["logits", "probabilities"], {"images": images_BHWC})
    return logits_BK, probabilities_BK


def of_model(folder: Path, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's logits for images of its own size."""
    model, _ = load_model(folder)
    with torch.inference_mode():
        logits_BK: NDArray[np.float32] = model(torch.from_numpy(images_BHWC).permute(0, 3, 1, 2) / 255).numpy()
    return logits_BK


def validation_images(data: str, count: int, data_dir: str | None = None) -> NDArray[np.uint8]:
    images_NCHW = open_source(data, data_dir=data_dir).split("val").images_NCHW[:count]
    return np.ascontiguousarray(images_NCHW.permute(0, 2, 3, 1).numpy())


def mixed_pictures(images_NHWC: NDArray[np.uint8], kinds: tuple[str, ...] = ("PNG", "WEBP", "JPEG")) -> list[bytes]:
    """The images as files of many sizes, shapes, EXIF orientations and formats, most with an odd margin."""
    draws = np.random.default_rng(0)
    files = []
    for number, image_HWC in enumerate(images_NHWC):
        side = int(draws.integers(20, 180))
        larger = Image.fromarray(image_HWC).resize((side, side), Image.Resampling.BICUBIC)
        above, below, left, right = draws.integers(0, 20, 4) * np.repeat(draws.permutation(2), 2)
        picture = np.pad(np.asarray(larger), ((above, below), (left, right), (0, 0)), mode="edge")
        exif = Image.Exif()
        exif[0x0112] = number % 8 + 1
        options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kinds[number % 3], {})
        content = io.BytesIO()
        Image.fromarray(picture).save(content, kinds[number % 3], exif=exif.tobytes(), **options)
        files.append(content.getvalue())
    return files


def largest_difference_on_pictures(model: Path, file: Path, images_NHWC: NDArray[np.uint8]) -> float:
    """Largest difference of a probability on 100 picture files, between the native way and the exported file."""
    size, differences = load_model(model)[0].spec.image_size, []
    pictures = mixed_pictures(images_NHWC)
    native = np.stack([decode(content, size) for content in pictures])
    expected_NK = torch.from_numpy(of_model(model, native)).softmax(1).numpy()
    for content, expected_K in zip(pictures, expected_NK, strict=True):
        _, [probabilities_K] = run_file(file, decode(content)[None])
        differences.append(np.abs(probabilities_K - expected_K).max())
    assert len({decode(content).shape for content in pictures}) > 50
    return float(np.max(differences))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_fp32_gives_the_models_logits(batch_size: int, exports: dict[str, Exported], digits_run: Path) -> None:
    images_BHWC = validation_images("digits", batch_size)
    logits_BK, probabilities_BK = run_file(exports["fp32"].file, images_BHWC)
    np.testing.assert_allclose(logits_BK, of_model(digits_run, images_BHWC), atol=1e-4)
    np.testing.assert_allclose(probabilities_BK, torch.from_numpy(logits_BK).softmax(1), atol=1e-6)


def test_mixed_pictures_get_the_native_probabilities(exports: dict[str, Exported], digits_run: Path) -> None:
    images_NHWC = validation_images("digits", 100)
    assert largest_difference_on_pictures(digits_run, exports["fp32"].file, images_NHWC) <= 0.03


def test_reported_figures_are_those_of_the_file(exports: dict[str, Exported], digits_run: Path) -> None:
    """Agreement, accuracy, lost and won images, recomputed."""
    val = open_source("digits").split("val")
    images_NHWC, labels_N = validation_images("digits", len(val)), val.labels_N.numpy()
    predicted_N = of_model(digits_run, images_NHWC).argmax(1)
    for precision in ("fp32", "fp16", "int8"):
        comparison, exported_N = (
            exports[precision].comparison,
            run_file(exports[precision].file, images_NHWC)[0].argmax(1),
        )
        assert comparison.num_images == len(val)
        assert comparison.agreement == (exported_N == predicted_N).mean()
        assert (comparison.accuracy, comparison.accuracy_exported) == (
            (predicted_N == labels_N).mean(),
            (exported_N == labels_N).mean(),
        )
        assert comparison.num_lost == ((predicted_N == labels_N) & (exported_N != labels_N)).sum()
        assert comparison.num_won == ((predicted_N != labels_N) & (exported_N == labels_N)).sum()
        assert exports[precision].num_bytes == exports[precision].file.stat().st_size
    assert exports["fp32"].comparison.agreement == 1
    assert exports["fp16"].num_bytes < 0.75 * exports["fp32"].num_bytes


@pytest.mark.parametrize(("name", "most"), [("int8", 64), ("vnni", 127)])
def test_int8_weights(name: str, most: int, exports: dict[str, Exported]) -> None:
    """Signed, with a scale a channel; 7 bits for any processor, 8 for VNNI. The first convolution is fp32."""
    graph = onnx.load(exports[name].file).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    first, *others = (node for node in graph.node if node.op_type == "Conv")
    assert stored[first.input[1]].dtype == np.float32
    assert others
    largest = 0
    for conv in others:
        dequantize = producers[conv.input[1]]
        weight, scale = (stored[entry] for entry in dequantize.input[:2])
        assert (weight.dtype, scale.shape) == (np.int8, (len(weight),))
        largest = max(largest, int(np.abs(weight.astype(int)).max()))
    assert most - 1 <= largest <= most
    zero_points = [stored[node.input[2]].dtype for node in graph.node if node.op_type == "QuantizeLinear"]
    assert set(zero_points) == {np.dtype(np.uint8)}


def test_metadata(exports: dict[str, Exported]) -> None:
    session = onnxruntime.InferenceSession(exports["int8"].file, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == [str(digit) for digit in range(10)]
    assert metadata["training_data"] == "digits"
    assert metadata["license"] == "unknown"
    assert metadata["precision"] == "int8, target any"
    assert [(entry.name, entry.type) for entry in session.get_inputs()] == [("images", "tensor(uint8)")]
    assert [entry.name for entry in session.get_outputs()] == ["logits", "probabilities"]


def test_the_same_model_gives_the_same_file(exports: dict[str, Exported], digits_run: Path, tmp_path: Path) -> None:
    again = pocket_resnet.export(digits_run, precision="int8", out=tmp_path)
    assert again.file.read_bytes() == exports["int8"].file.read_bytes()


@pytest.mark.threat(32)
def test_a_file_that_computes_something_else_is_not_written(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = onnx_exporter.with_half_weights

    def broken(network: onnx.ModelProto) -> onnx.ModelProto:
        made = make(network)
        [head] = (node for node in made.graph.node if node.op_type == "Gemm")
        next(attribute for attribute in head.attribute if attribute.name == "alpha").f = -1
        return made

    monkeypatch.setattr(onnx_exporter, "with_half_weights", broken)
    with pytest.raises(ParityError, match=r"the fp16 file differs .* the same class for \d+\.\d+% of 300 images"):
        pocket_resnet.export(digits_run, precision="fp16", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.threat(32)
def test_a_file_that_prepares_pictures_otherwise_is_not_written(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The centre square starts elsewhere. Pictures of the network's own size do not show it."""
    make = parity.fit
    monkeypatch.setattr(parity, "fit", lambda pixels_HWC, size: make(np.roll(pixels_HWC, 9, axis=1), size))
    with pytest.raises(ParityError, match="prepares pictures differently"):
        pocket_resnet.export(digits_run, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command(run: Run, digits_run: Path, exports: dict[str, Exported], tmp_path: Path) -> None:
    """--max-bytes takes the most exact precision that fits; --json prints one object, progress goes to stderr."""
    limit, out = exports["fp32"].num_bytes - 1, ("--out", tmp_path / "out")
    code, printed, err = run("export", digits_run, "--max-bytes", limit, "--target", "vnni", "--json", *out)
    assert code == 0, err
    exported = json.loads(printed)
    assert (exported["precision"], exported["target"]) == ("fp16", "any")
    assert exported["file"] == f"{tmp_path}/out/digits-fp16.onnx"
    assert exported["num_bytes"] == Path(exported["file"]).stat().st_size <= limit
    assert {"bytes_per_param", "largest_difference", "agreement", "accuracy", "accuracy_exported"} <= set(exported)
    assert "300 validation images" in err
    code, printed, err = run("export", digits_run, *out)
    assert code == 0, err
    assert printed.splitlines()[0] == f"file        {tmp_path}/out/digits-fp32.onnx"
    assert "100.00% of 300 validation images get the model's class" in printed


@pytest.fixture
def deployed(exports: dict[str, Exported], digits_run: Path, tmp_path: Path) -> tuple[Path, str]:
    """A folder with the files that the programs of the documentation read, and the picture's label."""
    (tmp_path / "exports").mkdir()
    shutil.copy(exports["int8"].file, tmp_path / "exports/pocket-5m-int8.onnx")
    (tmp_path / "models").mkdir()
    shutil.copytree(digits_run / "model", tmp_path / "models/pocket-5m")
    Image.fromarray(validation_images("digits", 1)[0]).save(tmp_path / "cat.jpg", quality=95)
    return tmp_path, str(int(open_source("digits").split("val").labels_N[0]))


def documented(language: str) -> str:
    """The first program in this language in docs/deploy.md."""
    text = DEPLOY.read_text(encoding="utf-8")
    [program, *_] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(program)


def test_python_program_of_the_documentation(deployed: tuple[Path, str]) -> None:
    """It names the digit, without torch and this package."""
    folder, label = deployed
    program = documented("python") + "\nimport sys\nassert not {'torch', 'pocket_resnet'} & sys.modules.keys()\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert re.fullmatch(rf"{label} \d+\.\d%", first)
    assert len(others) == 2


def node(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "program.js").write_text(program)
    return subprocess.run(["node", "program.js"], cwd=folder, capture_output=True, text=True, check=False)


def test_javascript_program_of_the_documentation(deployed: tuple[Path, str]) -> None:
    """It names the digit. NODE_PATH names the node_modules folder of `npm install onnxruntime-node sharp`."""
    folder, label = deployed
    if not shutil.which("node") or node("require('onnxruntime-node'); require('sharp')", folder).returncode:
        pytest.skip("no node with onnxruntime-node and sharp; set NODE_PATH to their folder")
    done = node(documented("javascript"), folder)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{label} \d+\.\d%\n", done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not REAL_DATA, reason="POCKET_RESNET_DATA is not set")
@pytest.mark.parametrize("name", RELEASED)
def test_released_models(name: str, tmp_path: Path) -> None:
    """The figures that docs/deploy.md promises, on 5,000 validation images."""
    fp32, int8 = (
        pocket_resnet.export(name, precision=kind, out=tmp_path, data_dir=REAL_DATA) for kind in ("fp32", "int8")
    )
    assert fp32.comparison.largest_difference <= 1e-4
    assert fp32.comparison.accuracy_exported == pytest.approx(load_model(Path(name))[1].accuracy, abs=5e-4)
    assert int8.bytes_per_param <= {"pocket-1m": 1.06, "pocket-5m": 1.04}[name]
    assert int8.comparison.agreement >= 0.993
    assert int8.comparison.accuracy - int8.comparison.accuracy_exported <= 0.002
    images_NHWC = validation_images("cifar10", 100, REAL_DATA)
    assert largest_difference_on_pictures(Path(name), fp32.file, images_NHWC) <= 0.03
