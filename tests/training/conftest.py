"""What the tests of training share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training.run import Result, train


@pytest.fixture
def train_tiny(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> Callable[..., Result]:  # noqa: ARG001
    """train_tiny("r", epochs=3) trains the tiny recipe in tmp_path/r: two steps an epoch, a checkpoint after each."""
    return lambda name="r", resume=False, fork=False, **changes: train(
        make_recipe(**changes), runs_dir=tmp_path, run=name, resume=resume, fork=fork
    )
