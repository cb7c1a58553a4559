"""PocketResNet: give it a parameter budget, get the most accurate residual network that fits.

import pocket_resnet

result = pocket_resnet.train("fast", data="digits")
model = pocket_resnet.load(result.model)
model.predict("seven.png")
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocket_resnet.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pocket_resnet.inference.classifier import Classifier
    from pocket_resnet.training.callbacks import Callback
    from pocket_resnet.training.result import Result

__all__ = ["Callback", "__version__", "load", "train"]


def train(
    recipe: str | Path = "fast",
    *,
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
    runs_dir: str | Path = "runs",
    run: str | Path | None = None,
    resume: bool = False,
    fork: bool = False,
    callbacks: "Sequence[Callback]" = (),
    **changes: Any,
) -> "Result":
    """Train a recipe's network and leave everything in `runs_dir`/NAME.

    `recipe` is a name or a TOML file; `changes` are its keys, `optim__lr=0.1` for `optim.lr`; `callbacks` follow the
    run and may end it early (docs/callbacks.md). Torch's settings, random
    generators and signal handlers are the caller's again on return. Raises errors.PocketError for all that can go
    wrong.
    """
    from pocket_resnet.data.source import data_name
    from pocket_resnet.io.files import expanded
    from pocket_resnet.recipe.toml import load_recipe, with_choices
    from pocket_resnet.training.run import train as train_recipe

    values = {key.replace("__", "."): _plain(value) for key, value in changes.items()}
    if data is not None:
        values["data.name"] = data_name(data)
    return train_recipe(
        with_choices(load_recipe(os.fspath(recipe)), values),
        data_dir=None if data_dir is None else expanded(data_dir),
        runs_dir=expanded(runs_dir),
        run=None if run is None else os.fspath(run),
        resume=resume,
        fork=fork,
        callbacks=callbacks,
    )


def load(path: str | Path, device: str = "auto") -> "Classifier":
    """The classifier in a model directory or a finished run's: `load(path).predict(images)`."""
    from pocket_resnet.inference.classifier import load as load_classifier

    return load_classifier(path, device)


def __getattr__(name: str) -> Any:
    """`Callback`, imported when it is asked for."""
    if name == "Callback":
        from pocket_resnet.training.callbacks import Callback

        return Callback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _plain(value: Any) -> Any:
    """The value as a recipe holds it: NumPy's and torch's numbers as Python's, paths as text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value
