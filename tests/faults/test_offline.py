"""Offline: data on disk are used, and no code looks up an address."""

import ctypes
import errno
import hashlib
import json
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocket_resnet.cli.main import main
from pocket_resnet.data import published
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import to_toml

CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000
ASKING = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
NOWHERE = ("192.0.2.1", 80)  # reserved for documentation, so no machine has it


def cut_off() -> list[str]:
    """Cut this child process off from the network; its later requests are refused and listed.

    If the system allows it, the process moves to a network namespace without routes (as root or in a user namespace).
    """
    libc = ctypes.CDLL(None)
    if libc.unshare(CLONE_NEWNET) == 0 or libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0:
        with pytest.raises(OSError, match="unreachable"):
            socket.create_connection(NOWHERE, timeout=5)
    attempts: list[str] = []

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ASKING:
            attempts.append(f"{event} {arguments}")
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    sys.addaudithook(refuse)
    return attempts


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Synthetic CIFAR-10 in the binary layout, in the data folder."""
    official = published.CIFAR10.layouts[0]
    rng, md5 = np.random.default_rng(0), {}
    for name in official.members:
        labels, pixels = np.arange(20, dtype=np.uint8)[:, None] % 10, rng.integers(0, 256, (20, 3072), np.uint8)
        content = np.hstack([labels, pixels]).tobytes()
        path = tmp_path / "data" / official.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        md5[name] = hashlib.md5(content).hexdigest()
    layouts = (replace(official, md5=md5),)
    family = replace(published.CIFAR10, layouts=layouts, num_trainval=100, num_val=10, num_test=20)
    monkeypatch.setitem(published.FAMILIES, "cifar10", family)
    monkeypatch.setattr("pocket_resnet.data.datasets.CIFAR10", family)
    return "cifar10"


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    """A folder of images."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    return str(tmp_path / "pictures")


@pytest.fixture
def train_and_use(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., None]:
    """train_and_use("digits"): a whole run of a tiny network, then evaluation and a prediction."""
    spec = replace(make_recipe().model, image_size=32)
    recipe, runs = tmp_path / "tiny.toml", tmp_path / "runs"
    recipe.write_text(to_toml(make_recipe(model=spec, train_image_sizes=(), max_steps=4, batch_size=4)))
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")

    def work(data: str, *options: str) -> None:
        main(["train", str(recipe), "--data", data, "--runs-dir", str(runs), "--run", "r", *options])
        main(["evaluate", str(runs / "r")])
        main(["predict", str(runs / "r"), str(tmp_path / "red.png")])

    return work


@pytest.mark.threat(38)
@pytest.mark.parametrize("data", ["cifar10", "digits", "pictures", "auto"])
def test_training(
    data: str, train_and_use: Any, start_child: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With the data on disk, training, report, evaluation and prediction request no network."""
    name = request.getfixturevalue({"auto": "cifar10"}.get(data, data)) if data != "digits" else "digits"

    def work() -> None:
        attempts = cut_off()
        train_and_use("auto" if data == "auto" else name, *([] if data == "pictures" else ["--no-report"]))
        assert attempts == []

    assert start_child(work).wait() == 0
    result = json.loads((tmp_path / "runs/r/result.json").read_text())
    assert (result["steps"], result["data"]) == (4, name)


@pytest.mark.threat(38)
def test_auto_without_cifar_takes_the_digits(
    train_and_use: Any, start_child: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a log message; its request shows that the test detects requests."""

    def work() -> None:
        attempts = cut_off()
        train_and_use("auto", "--no-report")
        assert attempts

    assert start_child(work).wait() == 0
    assert json.loads((tmp_path / "runs/r/result.json").read_text())["data"] == "digits"
    assert "cannot be downloaded" in capfd.readouterr().err
