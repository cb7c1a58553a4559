"""ExecuTorch programs compute what the model computes; a program that does not is never written."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import pocket_resnet
from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.image import decode
from pocket_resnet.exporting.exporter import Exported
from pocket_resnet.exporting.parity import ParityError, model_logits
from pocket_resnet.model.artifact import load_model

runtime = pytest.importorskip("executorch.runtime", reason="executorch is not installed")

Run = Callable[..., tuple[int, str, str]]
REAL_DATA = os.environ.get("POCKET_RESNET_DATA")  # before a fixture hides it
DEPLOY = Path(__file__).parents[3] / "docs" / "deploy.md"
RELEASED = ("pocket-1m", "pocket-5m")


def outputs(file: Path, images_NSSC: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits and probabilities, as a user's program gets them."""
    forward = runtime.Runtime.get().load_program(file).load_method("forward")
    results = [forward.execute([image_BSSC.contiguous()]) for image_BSSC in images_NSSC.split(1)]
    logits_NK, probabilities_NK = (torch.cat(parts).numpy() for parts in zip(*results, strict=True))
    return logits_NK, probabilities_NK


def test_fp32_gives_the_models_logits(programs: dict[str, Exported], digits_run: Path) -> None:
    images_NCHW = open_source("digits").split("val").images_NCHW[:50]
    logits_NK, probabilities_NK = outputs(programs["fp32"].file, images_NCHW.permute(0, 2, 3, 1))
    np.testing.assert_allclose(logits_NK, model_logits(load_model(digits_run)[0], images_NCHW), atol=1e-4)
    np.testing.assert_allclose(probabilities_NK, torch.from_numpy(logits_NK).softmax(1), atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_reported_figures_are_those_of_the_file(
    precision: str, programs: dict[str, Exported], digits_run: Path
) -> None:
    """Agreement, accuracy, lost and won images, recomputed."""
    val = open_source("digits").split("val")
    labels_N = val.labels_N.numpy()
    predicted_N = model_logits(load_model(digits_run)[0], val.images_NCHW).argmax(1)
    exported_N = outputs(programs[precision].file, val.images_NCHW.permute(0, 2, 3, 1))[0].argmax(1)
    comparison = programs[precision].comparison
    assert comparison.num_images == len(val)
    assert comparison.agreement == (exported_N == predicted_N).mean()
    assert comparison.accuracy == (predicted_N == labels_N).mean()
    assert comparison.accuracy_exported == (exported_N == labels_N).mean()
    assert comparison.num_lost == ((predicted_N == labels_N) & (exported_N != labels_N)).sum()
    assert comparison.num_won == ((predicted_N != labels_N) & (exported_N == labels_N)).sum()
    assert programs[precision].num_bytes == programs[precision].file.stat().st_size


def test_int8_is_small(programs: dict[str, Exported]) -> None:
    """The digits' network is too small for 1.04 bytes a parameter: the graph itself takes some kilobytes."""
    assert programs["int8"].num_bytes < programs["fp32"].num_bytes - 2 * programs["fp32"].num_params


def test_metadata(programs: dict[str, Exported]) -> None:
    program = runtime.Runtime.get().load_program(programs["int8"].file)
    metadata = {name: program.load_method(name).execute([]) for name in program.method_names - {"forward"}}
    assert metadata["class_names"] == [str(digit) for digit in range(10)]
    assert metadata["training_data"] == ["digits"]
    assert metadata["license"] == ["unknown"]
    assert metadata["precision"] == ["int8"]
    forward = program.metadata("forward")
    assert forward.input_tensor_meta(0).sizes() == (1, 32, 32, 3)
    assert forward.input_tensor_meta(0).dtype() == 0, "uint8"
    assert [forward.output_tensor_meta(index).sizes() for index in range(forward.num_outputs())] == [(1, 10)] * 2


def test_the_same_model_gives_the_same_file(programs: dict[str, Exported], digits_run: Path, tmp_path: Path) -> None:
    again = pocket_resnet.export(digits_run, "pte", precision="int8", out=tmp_path)
    assert again.file.read_bytes() == programs["int8"].file.read_bytes()


@pytest.mark.threat(32)
def test_a_file_that_computes_something_else_is_not_written(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocket_resnet.exporting.pte import exporter

    class Negated(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return -self.network(x_BCHW)

    monkeypatch.setattr(exporter, "quantized_module", lambda model, _: Negated(model))
    with pytest.raises(ParityError, match=r"the int8 file differs .* the same class for \d+\.\d+% of 300 images"):
        pocket_resnet.export(digits_run, "pte", precision="int8", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command(run: Run, digits_run: Path, programs: dict[str, Exported], tmp_path: Path) -> None:
    """--max-bytes takes the most exact precision that fits; standard output has the object alone."""
    limit, out = programs["fp32"].num_bytes - 1, ("--out", tmp_path / "out")
    code, printed, err = run("export", digits_run, "--format", "pte", "--max-bytes", limit, "--json", *out)
    assert code == 0, err
    exported = json.loads(printed)
    assert (exported["precision"], exported["target"]) == ("int8", "any")
    assert exported["file"] == f"{tmp_path}/out/digits-int8.pte"
    assert exported["num_bytes"] == Path(exported["file"]).stat().st_size <= limit
    assert err.count("comparing the file with the model on 300 validation images") == 1


def test_invalid_usage(run: Run, digits_run: Path, tmp_path: Path) -> None:
    for arguments, what in [
        (("--precision", "fp16"), "a .pte file has no fp16"),
        (("--target", "vnni"), "a .pte file has no target"),
        (("--samples", "3"), "only a page has samples"),
    ]:
        code, out, err = run("export", digits_run, "--format", "pte", "--out", tmp_path / "out", *arguments)
        assert (code, out) == (2, "")
        assert what in err
    assert not (tmp_path / "out").exists()


def test_import_does_not_change_the_root_logger() -> None:
    """ExecuTorch gives it a handler, which would print our messages a second time."""
    code = "import logging, pocket_resnet.exporting.pte.exporter; print(logging.root.handlers)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def documented() -> str:
    """The program in docs/deploy.md that runs the file."""
    programs = re.findall(r"^```python\n(.*?)^```$", DEPLOY.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    [program] = (each for each in programs if "executorch" in each)
    return str(program)


def test_python_program_of_the_documentation(programs: dict[str, Exported], tmp_path: Path) -> None:
    """It prepares the picture as this package does, also an upright one with odd margins, and names the digit."""
    val = open_source("digits").split("val")
    picture_HWC = val.images_NCHW[0].permute(1, 2, 0).numpy().repeat(3, axis=0).repeat(3, axis=1)
    picture_HWC = np.pad(picture_HWC, ((0, 0), (6, 7), (0, 0)), mode="edge")
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 1
    Image.fromarray(picture_HWC).save(content, "PNG", exif=exif.tobytes())
    (tmp_path / "cat.jpg").write_bytes(content.getvalue())
    (tmp_path / "exports").mkdir()
    shutil.copy(programs["int8"].file, tmp_path / "exports/pocket-5m-int8.pte")
    program = documented() + "\nimport sys\nassert 'pocket_resnet' not in sys.modules\nnp.save('images.npy', images)\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy")[0], decode(content.getvalue(), 32))
    first, *others = done.stdout.splitlines()
    assert re.fullmatch(rf"{int(val.labels_N[0])} \d+\.\d%", first)
    assert len(others) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not REAL_DATA, reason="POCKET_RESNET_DATA is not set")
@pytest.mark.parametrize("name", RELEASED)
def test_released_models(name: str, tmp_path: Path) -> None:
    """The figures that docs/deploy.md promises, on 5,000 validation images."""
    int8 = pocket_resnet.export(name, "pte", precision="int8", out=tmp_path, data_dir=REAL_DATA)
    assert int8.bytes_per_param <= {"pocket-1m": 1.12, "pocket-5m": 1.04}[name]
    assert int8.comparison.agreement >= 0.993
    assert int8.comparison.accuracy - int8.comparison.accuracy_exported <= 0.002
