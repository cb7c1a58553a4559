"""A small network trained on the digits, and its exported files; each is made once a session."""

from pathlib import Path

import pytest
import torch

import pocket_resnet
from pocket_resnet.exporting.exporter import Exported


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    choices = {"budget": "20K", "epochs": 6, "batch_size": 64, "hardware__num_threads": 1}
    runs_dir = tmp_path_factory.mktemp("runs")
    result = pocket_resnet.train("fast", data="digits", runs_dir=runs_dir, run="digits", **choices)
    return Path(result.model).parent


@pytest.fixture(scope="session")
def exports(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Exported files by precision; `vnni` is int8 for that target."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("exports")
    precisions = ("fp32", "fp16", "int8")
    files = {name: pocket_resnet.export(digits_run, precision=name, out=out) for name in precisions}
    return files | {"vnni": pocket_resnet.export(digits_run, precision="int8", target="vnni", out=out)}
