"""A pickle that would run code, as each file that is read: refused by its content, and no code runs."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pocket_resnet.cli.main import main
from pocket_resnet.data import published
from pocket_resnet.data.datasets import open_source
from pocket_resnet.errors import ArtifactError, DataError
from pocket_resnet.io.files import write_folder
from pocket_resnet.model.artifact import load_model
from pocket_resnet.model.step_folders import newest_first
from pocket_resnet.training import checkpoint


class Bomb:
    """Unpickling it leaves a file."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sentinel),)


@pytest.fixture
def sentinel(tmp_path: Path) -> Path:
    return tmp_path / "it ran"


@pytest.fixture(params=["pickle", "torch", "zip"])
def bomb(request: pytest.FixtureRequest, sentinel: Path) -> bytes:
    if request.param == "pickle":
        return pickle.dumps({"state_dict": Bomb(sentinel)})
    packed = io.BytesIO()
    if request.param == "torch":
        torch.save({"state_dict": Bomb(sentinel)}, packed)
    else:
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps(Bomb(sentinel)))
    return packed.getvalue()


def replace(folder: Path, name: str, content: bytes) -> None:
    """Replace the content, with matching sums, as an attacker would."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "SHA256SUMS"}
    write_folder(folder, files | {name: content})


def test_the_pickle_runs_code_when_loaded(sentinel: Path) -> None:
    """Otherwise the tests below could not fail."""
    pickle.loads(pickle.dumps(Bomb(sentinel)))
    assert sentinel.exists()


@pytest.mark.threat(29)
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_as_checkpoint(name: str, bomb: bytes, trained: Path, sentinel: Path) -> None:
    [folder] = newest_first(trained / "checkpoints")
    replace(folder, name, bomb)
    with pytest.raises(ArtifactError, match="not a checkpoint"):
        checkpoint.load(folder)
    assert not sentinel.exists()


@pytest.mark.threat(29)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_as_model(name: str, bomb: bytes, trained: Path, sentinel: Path) -> None:
    replace(trained / "model", name, bomb)
    with pytest.raises(ArtifactError, match=r"too small|not the weights|not a model's configuration"):
        load_model(trained)
    assert not sentinel.exists()


@pytest.mark.threat(29)
def test_as_big_model(trained: Path, sentinel: Path) -> None:
    """Large enough for the network's weights."""
    replace(trained / "model", "model.safetensors", pickle.dumps([Bomb(sentinel), bytes(100_000)]))
    with pytest.raises(ArtifactError, match="not the weights"):
        load_model(trained)
    assert not sentinel.exists()


@pytest.mark.threat(29)
@pytest.mark.parametrize("name", [["evaluate"], ["predict"], ["summary"]])
def test_as_model_file(
    name: list[str], bomb: bytes, tmp_path: Path, sentinel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A .pt file in place of a model directory."""
    path = tmp_path / "model.pt"
    path.write_bytes(bomb)
    with pytest.raises(SystemExit) as raised:
        main([*name, str(path), *(["x.png"] if name == ["predict"] else [])])
    assert raised.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not sentinel.exists()


@pytest.mark.threat(29)
@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.pkl"])
def test_as_image(
    name: str, bomb: bytes, trained: Path, tmp_path: Path, sentinel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To predict, and in a folder to train on."""
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    (tmp_path / "pictures" / "cat" / name).write_bytes(bomb)
    with pytest.raises(SystemExit) as raised:
        main(["predict", str(trained), str(tmp_path / "pictures")])
    assert raised.value.code == (3 if name == "a.png" else 2), "an unreadable image, or a folder without images"
    with pytest.raises(SystemExit) as raised:
        main(["data", str(tmp_path / "pictures")])
    assert raised.value.code == 3
    assert capsys.readouterr().err.count("not an image") == 2
    assert not sentinel.exists()


@pytest.mark.threat(29)
def test_as_cifar(bomb: bytes, tmp_path: Path, sentinel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where its MD5 is the published one."""
    layout = published.CIFAR10.layouts[1]
    md5 = dict.fromkeys(layout.members, hashlib.md5(bomb).hexdigest())
    family = dataclasses.replace(published.CIFAR10, layouts=(dataclasses.replace(layout, md5=md5),))
    monkeypatch.setitem(published.FAMILIES, "cifar10", family)
    (tmp_path / layout.folder).mkdir()
    for name in layout.members:
        (tmp_path / layout.folder / name).write_bytes(bomb)
    with pytest.raises(DataError, match="not a CIFAR batch"):
        open_source("cifar10", data_dir=tmp_path).split("train")
    assert not sentinel.exists()


@pytest.mark.threat(29)
def test_as_recipe(bomb: bytes, tmp_path: Path, sentinel: Path) -> None:
    (tmp_path / "r.toml").write_bytes(bomb)
    with pytest.raises(SystemExit) as raised:
        main(["train", str(tmp_path / "r.toml")])
    assert raised.value.code == 2
    assert not sentinel.exists()


@pytest.mark.threat(29)
def test_as_kept_pixels(bomb: bytes, tmp_path: Path, sentinel: Path) -> None:
    """The data folder's own files too."""
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(2):
            picture = Image.new("RGB", (8, 8), (number, ord(name), 0))
            picture.save(tmp_path / "pictures" / name / f"{number}.png")
    open_source(str(tmp_path / "pictures"), data_dir=tmp_path / "data").split("train")
    [kept] = (tmp_path / "data").rglob("images.npy")
    kept.write_bytes(bomb)
    with pytest.raises(DataError, match="damaged"):
        open_source(str(tmp_path / "pictures"), data_dir=tmp_path / "data").split("train")
    assert not sentinel.exists()


def test_no_pickle_on_disk(trained: Path) -> None:
    """A run writes JSON, TOML, Markdown, sums, safetensors and numbers: no file for torch.load."""
    written = [path for path in trained.rglob("*") if path.is_file()]
    plain = {path.name for path in written if not path.suffix}
    assert plain == {".lock", "SHA256SUMS"}
    assert {path.suffix for path in written} == {".toml", ".jsonl", ".json", ".safetensors", ".u64", ".md", ""}
    for path in trained.rglob("*.safetensors"):
        content = path.read_bytes()
        json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
