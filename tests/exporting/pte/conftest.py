"""Programs of the small network trained on the digits; each is made once a module."""

from pathlib import Path

import pytest
import torch

from pocket_resnet.exporting.exporter import Exported


@pytest.fixture(scope="session")
def programs(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Exported programs by precision."""
    from pocket_resnet.exporting.pte.export import export_pte

    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("programs")
    return {precision: export_pte(digits_run, precision=precision, out=out) for precision in ("fp32", "int8")}
