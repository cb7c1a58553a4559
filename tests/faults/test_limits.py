"""Hostile models, checkpoints and archives are refused within a second and with little memory."""

import gzip
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from pocket_resnet.io.files import SUMS_NAME, write_folder
from pocket_resnet.model.artifact import CONFIG_NAME, WEIGHTS_NAME
from pocket_resnet.model.step_folders import STATE_NAME
from pocket_resnet.training import checkpoint
from pocket_resnet.training.checkpoint import TENSORS_NAME, CheckpointState

GOLDEN = Path(__file__).parent / "golden" / "model-0.1.0"
WEIGHTS, CONFIG = (GOLDEN / WEIGHTS_NAME).read_bytes(), (GOLDEN / CONFIG_NAME).read_bytes()
MAX_S, MAX_KB, GIGABYTE = 1.0, 200_000, 10**9

# Opens each path given; prints its message, CPU seconds, and peak kB.
SCRIPT = """
import json, re, sys, time
from pathlib import Path
from pocket_resnet.data.archive import extract
from pocket_resnet.errors import PocketError
from pocket_resnet.model.artifact import load_model
from pocket_resnet.training import checkpoint

def status(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

def opener(name):
    if name.endswith(".tar.gz"):
        return lambda path: extract(path, {"data/a.bin": path.with_name("a.bin")})
    return checkpoint.load if name.startswith("step-") else load_model

golden, *paths = map(Path, sys.argv[1:])
load_model(golden)  # so that all there is to import is imported
for path in paths:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present size again
    before_kb, started_s, message = status("VmRSS"), time.process_time(), None
    try:
        opener(path.name)(path)
    except PocketError as error:
        message = str(error)
    print(json.dumps([str(path), message, time.process_time() - started_s, status("VmHWM") - before_kb]))
"""


def safetensors(header: Any, content: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def forged(**changes: Any) -> bytes:
    return json.dumps(json.loads(CONFIG) | changes).encode()


def many_tensors(count: int) -> bytes:
    """Each without a value; 64,000 are as many as the header's limit lets through."""
    return safetensors({f"{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(count)})


def overlapping() -> bytes:
    tensor = {"dtype": "F32", "shape": [2_000], "data_offsets": [0, 8_000]}
    return safetensors({"a": tensor, "b": tensor}, bytes(8_000))


def odd_format() -> bytes:
    """A number format that safetensors knows and torch does not, in place of the first tensor's."""
    start = 8 + int.from_bytes(WEIGHTS[:8], "little")
    header = json.loads(WEIGHTS[8:start])
    entry = next(entry for entry in header.values() if entry["dtype"] == "F32" and entry["shape"])
    entry |= {"dtype": "F8_E8M0", "shape": [4 * entry["shape"][0], *entry["shape"][1:]]}
    return safetensors(header, WEIGHTS[start:])


def deep_network() -> dict[str, Any]:
    """A network of 12,000 blocks with a parameter or two each."""
    per_stage = {"num_blocks": 1_000, "widths": 1, "kernel_sizes": 1, "shortcut_kernel_sizes": 1}
    stages = {name: [value] * 12 for name, value in per_stage.items()}
    spec: dict[str, Any] = json.loads(CONFIG)["spec"]
    return spec | stages | {"image_size": 4_096}


def attacks() -> dict[str, dict[str, bytes]]:
    """Hostile model directories by name."""
    other_shape = load(WEIGHTS) | {"head.weight": torch.zeros(3, 3)}
    million_fields = b"{" + b",".join(b'"%x":1' % n for n in range(380_000)) + b"}"
    weights = {
        "header of a stated huge size": (2**62).to_bytes(8, "little") + bytes(100_000),
        "header of many tensors": many_tensors(64_000),
        "overlapping": overlapping(),
        "wrong shape": save(other_shape),
        "odd number format": odd_format(),
    }
    configs = {
        "many fields": million_fields,
        "many names": forged(class_names=[f"{n:x}" for n in range(400_000)]),
        "many wrong names": forged(class_names=[1] * 1_300_000),
        "many stages": forged(spec=json.loads(CONFIG)["spec"] | {"widths": ["a"] * 700_000}),
        "wrong classes": forged(class_names=["a", "b"]),
        "nested": b"[" * 4_000_000,
        "deep network": forged(spec=deep_network()),
    }
    models = {name: {WEIGHTS_NAME: content, CONFIG_NAME: CONFIG} for name, content in weights.items()}
    models |= {name: {WEIGHTS_NAME: WEIGHTS, CONFIG_NAME: content} for name, content in configs.items()}
    models["header of many tensors"][CONFIG_NAME] = forged(spec=json.loads(CONFIG)["spec"] | {"widths": [4, 64]})
    models["deep network"][WEIGHTS_NAME] = save({f"{n}": torch.zeros(1) for n in range(20_000)})
    return models


def bombs() -> dict[str, bytes]:
    """Archives of 2 MB that contain 2 GB of zeros, by the kind of their entry."""
    archives, zeros = {}, gzip.compress(bytes(2**20)) * 2**11
    for name, kind, size in (
        ("file", tarfile.REGTYPE, 2**31),
        ("no less than 10 TB", tarfile.REGTYPE, 10**13),
        ("extended header", tarfile.XHDTYPE, 2**31),
        ("long name", tarfile.GNUTYPE_LONGNAME, 2**31),
    ):
        entry = tarfile.TarInfo("data/a.bin")
        entry.type, entry.size = kind, size
        archives[f"{name}.tar.gz"] = gzip.compress(entry.tobuf(tarfile.GNU_FORMAT)) + zeros
    return archives


@pytest.mark.threat(28, 30)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
def test_attacks_cost_neither_time_nor_memory(tmp_path: Path) -> None:
    """Less than a second and 200 MB each, in a process of its own; the file is named."""
    for name, files in attacks().items():
        write_folder(tmp_path / name, files)
    for name in (WEIGHTS_NAME, CONFIG_NAME):
        shutil.copytree(GOLDEN, tmp_path / f"{name} of 1 GB")
        with (tmp_path / f"{name} of 1 GB" / name).open("wb") as file:
            file.truncate(GIGABYTE)  # a hole: it takes no disk
    state = CheckpointState(step=1, seconds=0, hardware="x", data_fingerprint="y")
    tensors = {"1": many_tensors(32_000), "2": odd_format(), "3": (2**62).to_bytes(8, "little"), "5": overlapping()}
    tensors["6"] = many_tensors(400_000)  # a header of 20 MB
    for step, content in tensors.items():
        values = state.model_copy(update={"step": int(step)}).model_dump_json().encode()
        write_folder(tmp_path / f"step-{step}", {TENSORS_NAME: content, STATE_NAME: values})
    saved = checkpoint.save(tmp_path, state.model_copy(update={"step": 4}), {"a": torch.zeros(2)})
    with (saved / STATE_NAME).open("wb") as file:
        file.truncate(GIGABYTE)
    for name, content in bombs().items():
        (tmp_path / name).write_bytes(content)
    paths = sorted(path for path in tmp_path.iterdir() if path.is_file() or (path / SUMS_NAME).exists())
    command = [sys.executable, "-c", SCRIPT, str(GOLDEN), *map(str, paths)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    measured = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [Path(path) for path, *_ in measured] == paths
    taken = [Path(path).name for path, message, *_ in measured if message is None or path not in message]
    assert taken == ["step-1"]  # whole, if odd
    assert [entry for entry in measured if entry[2] > MAX_S or entry[3] > MAX_KB] == []
