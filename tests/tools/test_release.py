"""A released model is what its card says."""

from pathlib import Path

from pocket_resnet.evaluate import evaluate_model
from pocket_resnet.recipe_toml import load_recipe, override
from pocket_resnet.training.run import train
from tools.release import release


def test_a_released_model_repeats_its_card(tmp_path: Path) -> None:
    """Also over an earlier release; digits, which have no mirrored views, have no figure for two and six."""
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
