"""A released model is what its card says."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pocket_resnet.inference.evaluate import evaluate_model
from pocket_resnet.recipe.toml import load_recipe, override
from pocket_resnet.training.run import train
from tools.release import release


def test_a_released_model_repeats_its_card(tmp_path: Path) -> None:
    """Also over an earlier release; the digits have no flipped views, so no figures for two and six views."""
    changes = {"data.name": "digits", "min_steps": 0, "max_steps": 20, "batch_size": 32}
    train(override(load_recipe("fast"), changes), runs_dir=tmp_path, run="one")
    for _ in range(2):
        card = release(tmp_path / "one", tmp_path / "models" / "one")
    assert card.weights == "fp16"
    assert card.accuracy_two_views is None
    assert card.accuracy_six_views is None
    assert card.command is not None
    assert evaluate_model(tmp_path / "models" / "one").accuracy == card.accuracy
    assert (tmp_path / "models/one/model.safetensors").stat().st_size < 0.6 * 4 * card.num_params + 50_000


@pytest.mark.threat(43)
def test_a_released_model_names_no_local_path(make_recipe: Any, tmp_path: Path) -> None:
    """It has its folder's name, fingerprint and the digests of its training images; moved data are named."""
    for number in range(12):
        path = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(path)
    train(make_recipe(data={"name": str(tmp_path / "pictures")}, batch_size=4), runs_dir=tmp_path / "runs", run="one")
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "pictures").rename(tmp_path / "moved" / "pictures")
    card = release(tmp_path / "runs" / "one", tmp_path / "released", data=str(moved))
    assert (card.data, card.command) == ("pictures/", "pocket-resnet train one/recipe.toml")
    assert card.data_fingerprint is not None
    for path in (tmp_path / "released").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
    evaluation = evaluate_model(tmp_path / "released", data=str(moved), split="val")
    assert (evaluation.accuracy, evaluation.caveat) == (card.accuracy, None)
    assert "no estimate" in str(evaluate_model(tmp_path / "released", data=str(moved)).caveat)
