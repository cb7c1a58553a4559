"""PocketResNet: give it a parameter budget, get the most accurate residual network that fits.

import pocket_resnet

result = pocket_resnet.train("fast", data="digits")
model = pocket_resnet.load(result.model)
model.predict("seven.png")
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocket_resnet.version import __version__

if TYPE_CHECKING:
    from pocket_resnet.predict import Classifier
    from pocket_resnet.training.result import Result

__all__ = ["__version__", "load", "train"]


def train(
    recipe: str = "fast",
    *,
    data: str | None = None,
    data_dir: str | Path | None = None,
    runs_dir: str | Path = "runs",
    run: str | None = None,
    resume: bool = False,
    fork: bool = False,
    **changes: Any,
) -> "Result":
    """Train a recipe's network and leave everything in `runs_dir`/NAME.

    `recipe` is a name or a TOML file; `changes` are its keys, `optim__lr=0.1` for `optim.lr`. Raises
    errors.PocketError for all that can go wrong.
    """
    from pocket_resnet.recipe_toml import load_recipe, override
    from pocket_resnet.training.run import train as train_recipe

    values = {key.replace("__", "."): value for key, value in changes.items()}
    if data is not None:
        values["data.name"] = data
    return train_recipe(
        override(load_recipe(recipe), values),
        data_dir=None if data_dir is None else Path(data_dir),
        runs_dir=Path(runs_dir),
        run=run,
        resume=resume,
        fork=fork,
    )


def load(path: str | Path, device: str = "auto") -> "Classifier":
    """The classifier in a model directory or a finished run's: `load(path).predict(images)`."""
    from pocket_resnet.predict import load as load_classifier

    return load_classifier(path, device)
