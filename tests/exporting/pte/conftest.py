"""Programs of the small network trained on the digits; each is made once a module."""

from pathlib import Path

import pytest
import torch

import pocket_resnet
from pocket_resnet.exporting.exporter import Exported


@pytest.fixture(scope="session")
def programs(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Exported programs by precision."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("programs")
    return {name: pocket_resnet.export(digits_run, "pte", precision=name, out=out) for name in ("fp32", "int8")}
