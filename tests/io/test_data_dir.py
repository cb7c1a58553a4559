"""Where data are kept."""

from pathlib import Path

import pytest

from pocket_resnet.io.data_dir import default_data_dir


def test_default_data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POCKET_RESNET_DATA", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("POCKET_RESNET_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "pocket-resnet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_data_dir() == Path.home() / ".cache" / "pocket-resnet"
