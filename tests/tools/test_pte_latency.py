"""The model and its files are all timed."""

from pathlib import Path

import pytest

from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import NetworkSpec

pytest.importorskip("executorch.runtime", reason="executorch is not installed")


def test_measure(tmp_path: Path) -> None:
    from pocket_resnet.exporting.pte.program import program
    from tools.pte_latency import measure

    model = ResNet(NetworkSpec(num_classes=2, num_blocks=(1, 1, 1), widths=(8, 8, 8), stem_width=8)).eval()
    (tmp_path / "tiny-fp32.pte").write_bytes(program(model, model.spec.image_size, {}))
    latencies = measure(model, [tmp_path / "tiny-fp32.pte"], num_rounds=3)
    assert list(latencies) == ["torch", "tiny-fp32.pte"]
    assert all(0 < each.median_s < 10 and each.num_rounds == 3 for each in latencies.values())
