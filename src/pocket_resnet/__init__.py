"""PocketResNet: give it a parameter budget, get the most accurate residual network that fits.

    import pocket_resnet

    result = pocket_resnet.train("fast", data="digits")
    model = pocket_resnet.load(result.model)
    model.predict("seven.png")
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocket_resnet.predict import Classifier
    from pocket_resnet.train.run import Result

__version__ = "0.1.0"


def train(recipe: str = "fast", *, data: str | None = None, run: str | None = None, **changes: Any) -> "Result":
    """Train a recipe's network and leave it in runs/NAME; `changes` are recipe keys, `optim__lr=0.1` for `optim.lr`.

    Raises errors.PocketError for all that can go wrong.
    """
    from pocket_resnet.recipe_toml import load_recipe, override
    from pocket_resnet.train.run import train as train_recipe

    values = {key.replace("__", "."): value for key, value in changes.items()}
    if data is not None:
        values["data.name"] = data
    return train_recipe(override(load_recipe(recipe), values), run=run)


def load(path: str | Path, device: str = "auto") -> "Classifier":
    """The classifier in a model directory or a finished run's: `load(path).predict(images)`."""
    from pocket_resnet.predict import load as load_classifier

    return load_classifier(path, device)
