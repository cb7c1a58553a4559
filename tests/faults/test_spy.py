"""Training never opens the test split: every file that the process opens is watched."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocket_resnet.cli.main import main
from pocket_resnet.data import published
from pocket_resnet.data.digits import Digits
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import to_toml
from system_calls import watch_opens


@pytest.fixture
def arguments(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., list[str]]:
    """arguments("digits"): train a tiny network on it for a step."""

    def make(data: object, image_size: int = 32) -> list[str]:
        spec = replace(make_recipe().model, image_size=image_size)
        path = tmp_path / "tiny.toml"
        path.write_text(to_toml(make_recipe(model=spec, train_image_sizes=(), max_steps=1, batch_size=4)))
        data_dir = ["--data-dir", str(tmp_path / "data")]
        return ["train", str(path), "--data", str(data), "--runs-dir", str(tmp_path / "runs"), "--run", "r", *data_dir]

    return make


def evaluate(tmp_path: Path, split: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    command = [
        "evaluate",
        str(tmp_path / "runs" / "r"),
        "--split",
        split,
        "--json",
        "--data-dir",
        str(tmp_path / "data"),
    ]
    main(command)
    evaluation: dict[str, Any] = json.loads(capsys.readouterr().out)
    return evaluation


@pytest.fixture(params=["cifar-10-batches-bin", "cifar-10-batches-py"])
def layout(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> published.CifarLayout:
    """Synthetic CIFAR-10 in this layout; a test file of noise, which only a reader would notice."""
    import pickle

    official = next(layout for layout in published.CIFAR10.layouts if layout.folder == request.param)
    rng, contents = np.random.default_rng(0), {}
    for name in official.members:
        pixels, labels = rng.integers(0, 256, (20, 3072), np.uint8), np.arange(20) % 10
        if request.param.endswith("bin"):
            contents[name] = np.hstack([labels.astype(np.uint8)[:, None], pixels]).tobytes()
        else:
            contents[name] = pickle.dumps({b"data": pixels, b"labels": labels.tolist()}, protocol=2)
        path = tmp_path / "data" / official.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[name])
    made = replace(official, md5={name: hashlib.md5(content).hexdigest() for name, content in contents.items()})
    family = replace(published.CIFAR10, layouts=(made,), num_trainval=100, num_val=10, num_test=20)
    monkeypatch.setitem(published.FAMILIES, "cifar10", family)
    return made


@pytest.mark.threat(40)
def test_cifar(
    layout: published.CifarLayout,
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both layouts, also on `trainval`, in the report and when evaluated on validation."""
    test_file = str(tmp_path / "data" / layout.folder / layout.test)
    with watch_opens() as paths:
        main(arguments("cifar10"))
        main([*arguments("cifar10"), "--run", "s", "--data.train-on", "trainval", "--no-report"])
        assert evaluate(tmp_path, "val", capsys)["num_images"] == 10
    assert (tmp_path / "runs" / "r" / "report.html").exists()
    assert str(tmp_path / "data" / layout.folder / layout.train[0]) in paths
    assert test_file not in paths
    with watch_opens() as paths:
        assert evaluate(tmp_path, "test", capsys)["num_images"] == 20
    assert test_file in paths


@pytest.mark.threat(40)
def test_digits(
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All splits are in one file, so the reader is watched."""
    opened: list[int] = []
    test = Digits.test
    monkeypatch.setattr(Digits, "test", lambda digits: (opened.append(1), test(digits))[1])
    main(arguments("digits"))
    assert evaluate(tmp_path, "val", capsys)["num_images"] == 300
    assert opened == []
    assert evaluate(tmp_path, "test", capsys)["num_images"] == 300
    assert opened == [1]


@pytest.mark.threat(40)
def test_folder(arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing under test/ is opened, not even a file that is no image."""
    root = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for part, count in {"train": 4, "val": 1, "test": 2}.items():
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    with watch_opens() as paths:
        main(arguments(root, image_size=8))
        assert evaluate(tmp_path, "val", capsys)["num_images"] == 2
    assert str(root / "train" / "cat" / "0.png") in paths
    assert not [path for path in paths if path.startswith(str(root / "test")) and path.endswith(".png")]
    with watch_opens() as paths:
        assert evaluate(tmp_path, "test", capsys)["num_images"] == 4
    assert str(root / "test" / "cat" / "0.png") in paths
