"""A program's own settings do not affect the package, and the package does not change them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STATE = """
import ctypes, hashlib, json, logging, os, random, signal, sys, warnings
from pathlib import Path
import matplotlib, numpy, PIL.Image, PIL.TiffImagePlugin, pydantic, requests, rich.console, rich.progress, torch
import torch._dynamo  # which torch itself imports at its first optimizer step; it sets a variable

def digest(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()

def state():
    backends = torch.backends
    loggers = [logging.getLogger(name) for name in (None, "PIL", "matplotlib", "torch", "py.warnings")]
    return {
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "tf32": [backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()],
        "precision": [backends.cudnn.conv.fp32_precision, backends.mkldnn.matmul.fp32_precision],
        "cudnn": [backends.cudnn.benchmark, backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled()],
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "gradients": [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()],
        "autocast": torch.is_autocast_enabled("cpu"),
        "torch's generator": digest(torch.random.get_rng_state().tolist()),
        "numpy's generator": digest(numpy.random.get_state(legacy=False)["state"]["key"].tolist()),
        "random": digest(random.getstate()),
        "rcParams": digest(sorted((key, repr(each)) for key, each in dict.items(matplotlib.rcParams))),
        "pyplot": "matplotlib.pyplot" in sys.modules,
        "warnings": [repr(each) for each in warnings.filters],
        "showwarning": repr(warnings.showwarning),
        "logging": [(each.level, len(each.handlers), each.disabled, each.propagate) for each in loggers],
        "signals": {str(number): repr(signal.getsignal(number)) for number in signal.valid_signals()},
        "hooks": [repr(sys.excepthook), repr(sys.displayhook)],
        "environment": digest(sorted(os.environ.items())),
        "folder": os.getcwd(),
        "limit": [sys.getrecursionlimit(), PIL.Image.MAX_IMAGE_PIXELS],
        "freed memory": kept(),
    }

def kept():  # whether freed memory stays with the process
    before = resident()
    values = torch.ones(64 * 2**20 // 4, dtype=torch.float32, device="cpu")
    del values
    return resident() > before + 48 * 2**20

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
"""

UNUSUAL = """
torch.set_num_threads(3)
torch.set_float32_matmul_precision("medium")
torch.set_default_dtype(torch.float64)
torch.manual_seed(5), random.seed(5), numpy.random.seed(5)
matplotlib.rcParams.update({"text.usetex": True, "font.size": 40, "axes.facecolor": "red"})
warnings.simplefilter("error")
signal.signal(signal.SIGTERM, lambda *_: None)
"""

USE = """
from pocket_resnet import load, search, train
from pocket_resnet.inference.evaluate import evaluate_model
from pocket_resnet.training.saved_run import read_run
from pocket_resnet.reporting.report import write_report
tiny = dict(model__widths=(8, 16, 16), model__stem_width=8, model__dropout=0.1, norm_images=64, batch_size=64)

def run(): return train("fast", data="digits", min_steps=0, max_steps=1, run="r", **tiny)
def fail():
    try:
        train("fast", data="digits", min_steps=0, max_steps=2, run="nan", optim__lr=1e30, optim__muon_lr=1e30, **tiny)
    except Exception as error:
        assert "finite" in str(error), error
def refused():
    try:
        load("r")
    except Exception:
        pass
def find(): search("fast", data="digits", trials=1, dir="s", max_steps=1, hardware__num_threads=1, **tiny)
def predict():
    image = numpy.random.RandomState(0).randint(0, 255, (9, 9, 3)).astype(numpy.uint8)
    print(load("runs/r").predict(image)[0].label)
uses = {"train": run, "fail": fail, "refused": refused, "predict": predict,
        "evaluate": lambda: evaluate_model("runs/r"), "read": lambda: read_run(Path("runs/r")),
        "report": lambda: write_report("runs/r"), "search": find}
"""

COMPARE = """
before = state()
assert not before["freed memory"]
import pocket_resnet
assert state() == before
changed = {}
for name, use in uses.items():
    use()
    after = state()
    changed[name] = sorted(key for key in before if after[key] != before[key])
print(json.dumps(changed), file=sys.stderr)
"""


def program(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "2", "HOME": str(folder), **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.threat(56)
def test_the_caller_s_settings_are_the_same_afterwards(tmp_path: Path) -> None:
    """Also after a training that failed; gradients, filters, generators, handlers and freed memory included."""
    done = program(STATE + UNUSUAL + USE + COMPARE, tmp_path)
    assert done.returncode == 0, done.stderr
    changed: dict[str, list[str]] = json.loads(done.stderr.splitlines()[-1])
    assert not [name for name in changed if changed[name]], changed
    assert set(changed) == {"train", "fail", "refused", "predict", "evaluate", "read", "report", "search"}


RESULTS = (
    """
def results(name):
    os.mkdir(name), os.chdir(name)
    run()
    write_report("runs/r")
    image = numpy.full((9, 9, 3), 40, numpy.uint8)
    weights = Path("runs/r/model/model.safetensors").read_bytes()
    outcome = load("runs/r").predict(image)[0], evaluate_model("runs/r").to_json(), weights
    pictures = {path.name: path.read_bytes() for path in Path("runs/r/plots").iterdir()}
    assert len(pictures) > 5
    os.chdir("..")
    return outcome, pictures

usual, pictures = results("usual")
"""
    + UNUSUAL
    + """
torch.set_num_threads(1)  # more round otherwise
assert results("unusual") == (usual, pictures)
torch.set_default_dtype(torch.float32)
for name in ("no_grad()", "inference_mode()", "autocast('cpu')", "device('meta')"):
    with eval(f"torch.{name}"):
        assert results(name)[0] == usual, name
"""
)


@pytest.mark.threat(56)
def test_the_caller_s_settings_change_no_result(tmp_path: Path) -> None:
    """Weights, figures and pictures are equal; also inside torch's modes such as no_grad."""
    done = program(STATE + "torch.set_num_threads(1)" + USE + RESULTS, tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.threat(56)
def test_settings_of_matplotlib_do_not_reach_a_report(tmp_path: Path) -> None:
    """From a file or the environment, as notebooks pass them to commands; LaTeX is not needed."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 40\nsavefig.transparent: True\n")
    words = ["train", "fast", "--data", "digits", "--min-steps", "0", "--max-steps", "1", "--batch-size", "64"]
    words += ["--model.widths", "8", "16", "16", "--model.stem-width", "8", "--run", "r", "--norm-images", "64"]
    code = f"from pocket_resnet.cli.main import main; main({words})"
    done = program(code, tmp_path, MPLBACKEND="no-such-backend", MPLCONFIGDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "no report" not in done.stderr
    assert (tmp_path / "runs/r/report.html").exists()
