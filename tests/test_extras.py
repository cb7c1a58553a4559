"""Without an extra's packages, a command says what to install."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pocket_resnet import extras

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("format_", "package", "needed_by", "extra"),
    [("onnx", "onnxscript", "export", "export"), ("pte", "executorch", "the format pte", "executorch")],
)
def test_without_the_extra(
    format_: str, package: str, needed_by: str, extra: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == package else name)
    code, out, err = run("export", "pocket-1m", "--format", format_, "--out", tmp_path / "out")
    assert (code, out) == (5, "")
    hint = f"pip install 'pocket-resnet[{extra}]'"
    assert err == f"pocket-resnet: {needed_by} needs {package}, which is not installed\n  {hint}\n"
