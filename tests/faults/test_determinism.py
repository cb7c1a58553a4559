"""The same seed gives the same run, another one does not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training.run import train

Leavings = tuple[list[dict[str, Any]], bytes]


@pytest.fixture
def leavings(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> Callable[..., Leavings]:  # noqa: ARG001
    def train_tiny(name: str, **changes: Any) -> Leavings:
        train(make_recipe(**changes), runs_dir=tmp_path, run=name)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) | {"seconds": None} for line in lines]
        return metrics, (tmp_path / name / "model" / "model.safetensors").read_bytes()

    return train_tiny


@pytest.mark.threat(39)
@pytest.mark.parametrize("kind", ["sgd", "muon"])
def test_same_seed_twice(kind: str, leavings: Callable[..., Leavings]) -> None:
    """Equal metrics but for times, and equal weights."""
    assert leavings("a", optim={"name": kind}) == leavings("b", optim={"name": kind})


@pytest.mark.threat(39)
def test_saving_and_validating_do_not_disturb(leavings: Callable[..., Leavings]) -> None:
    """The checkpoint interval changes nothing; the validation interval changes neither weights nor losses."""
    metrics, weights = leavings("a", epochs=3, checkpoint={"every_s": 0.0})
    assert (metrics, weights) == leavings("b", epochs=3, checkpoint={"every_s": 1e9})
    seldom_metrics, seldom_weights = leavings("c", epochs=3, validate_every=3)
    assert ["val_nll" in record for record in seldom_metrics] == [False, False, True]
    assert [record["train_loss"] for record in seldom_metrics] == [record["train_loss"] for record in metrics]
    assert seldom_metrics[-1] == metrics[-1]
    assert seldom_weights == weights


@pytest.mark.threat(39)
def test_another_seed(leavings: Callable[..., Leavings]) -> None:
    (metrics, weights), (other_metrics, other_weights) = leavings("a"), leavings("b", seed=1)
    assert weights != other_weights
    assert [record["train_loss"] for record in metrics] != [record["train_loss"] for record in other_metrics]
