"""PocketResNet: give it a parameter budget, get the most accurate residual network that fits.

import pocket_resnet

result = pocket_resnet.train("fast", data="digits")
model = pocket_resnet.load(result.model)
model.predict("seven.png")

These functions and the package `pocket_resnet.plots` are the public interface. Each function imports what it needs when
it is called, and restores torch's settings, random generators and signal handlers when it returns. Shares such as
accuracies are 0 to 1, times are in seconds. Errors are `errors.PocketError`s; their messages say how to fix them.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocket_resnet.version import __version__

if TYPE_CHECKING:
    from pocket_resnet.data.source import Source, SplitName
    from pocket_resnet.device import Precision
    from pocket_resnet.exporting.benchmark import benchmark
    from pocket_resnet.exporting.export import export
    from pocket_resnet.hub import push
    from pocket_resnet.inference.classifier import Classifier
    from pocket_resnet.inference.evaluation import Evaluation
    from pocket_resnet.model.design import Design
    from pocket_resnet.recipe.schema import Recipe
    from pocket_resnet.training.callbacks import Callback
    from pocket_resnet.training.result import Result
    from pocket_resnet.tuning.search import SearchResult
    from pocket_resnet.tuning.settings import Trade

__all__ = [
    "Callback",
    "__version__",
    "benchmark",
    "design",
    "evaluate",
    "export",
    "load",
    "open_data",
    "push",
    "search",
    "train",
    "write_report",
]

_HOMES = {  # of the public names that are imported on first use
    "Callback": "pocket_resnet.training.callbacks",
    "benchmark": "pocket_resnet.exporting.benchmark",
    "export": "pocket_resnet.exporting.export",
    "push": "pocket_resnet.hub",
}


def train(
    recipe: str | Path | None = None,
    *,
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
    runs_dir: str | Path = "runs",
    run: str | Path | None = None,
    resume: bool = False,
    fork: bool = False,
    callbacks: "Iterable[Callback]" = (),
    progress: bool = True,
    **changes: Any,
) -> "Result":
    """Train a recipe's network, write all but a report (see `write_report`) to `runs_dir`/NAME, and return the result.

    `recipe` is a name or a TOML file (default: that of the `run` to resume, else `fast`); `changes` set its keys
    (`optim__lr=0.1`). `data` and `data_dir` are as in `open_data`, NAME is `run` (default: RECIPE-DATA-seedN). `resume`
    continues a run, `fork` even with changes. docs/callbacks.md explains `callbacks`; `progress=False` hides the bar.
    Raises UsageError, DataError, ArtifactError for a damaged checkpoint or model, EnvironmentFault if memory, disk or
    another process fails, NonFiniteError for a NaN or infinite loss, and Stopped after a signal and a save.

    Example:

        result = pocket_resnet.train("best", data="cifar10", budget="1M", epochs=10)
        print(f"{result.accuracy:.2%} with {result.num_params:,} parameters: {result.model}")
    """
    from pocket_resnet.io.files import expanded
    from pocket_resnet.recipe.toml import saved_recipe
    from pocket_resnet.training.run import train as train_recipe

    return train_recipe(
        _recipe(recipe or saved_recipe(runs_dir, run if resume or fork else None) or "fast", data, changes),
        data_dir=_path(data_dir),
        runs_dir=expanded(runs_dir),
        run=None if run is None else os.fspath(run),
        resume=resume,
        fork=fork,
        callbacks=callbacks,
        progress=progress,
    )


def search(
    recipe: str | Path = "fast",
    *,
    data: str | Path | None = None,
    trials: int = 40,
    hours: float | None = None,
    workers: int = 1,
    trade: "Trade | None" = None,
    equal_cost: bool = False,
    space: str | Path | None = None,
    storage: str | None = None,
    dir: str | Path | None = None,
    resume: bool = False,
    data_dir: str | Path | None = None,
    **changes: Any,
) -> "SearchResult":
    """Search for a better recipe on your own data within a budget, as `pocket-resnet search` does (docs/search.md).

    `recipe`, `data` and `changes` are as in `train`; the other arguments are the command's flags. `recipes` of the
    result are the paths to train: the recommended recipe, or with `trade` the front's, cheapest first. `best` and
    `front` are trials, `verdict` compares the winner with the untuned recipe, `record` is the content of search.json.
    Needs the extra `search`. Raises UsageError, DataError, EnvironmentFault, and Stopped after a signal and a save.

    Example:

        result = pocket_resnet.search("fast", data="digits", budget="100K", trials=20, workers=2)
        pocket_resnet.train(result.recipes[0])
    """
    from pocket_resnet.extras import require_extra

    require_extra("search")
    from pocket_resnet.tuning.search import search as run_search
    from pocket_resnet.tuning.settings import Request
    from pocket_resnet.tuning.space import space_beside

    where = _path(space) or space_beside(recipe)
    goal = Request(_recipe(recipe, data, changes), trade=trade, equal_cost=equal_cost, space=where, storage=storage)
    limited = dataclasses.replace(goal, num_trials=trials, hours=hours, num_workers=workers)
    return run_search(dataclasses.replace(limited, folder=_path(dir), data_dir=_path(data_dir), resume=resume))


def load(path: str | Path, device: str = "auto") -> "Classifier":
    """Load the classifier from a model directory or a finished run's folder, or by a released model's name.

    `hf://user/name` or `hf://user/name@revision` downloads it from the Hugging Face hub, verifies and keeps it.
    Its `predict` takes one or more image files, bytes or arrays and returns the most probable classes. `model` is the
    torch module: float [B, 3, H, W] from 0 to 1 -> logits [B, K]. `card` has the classes, size and accuracy.
    `device` is "cpu", "cuda", "mps", or "auto": a CUDA GPU if there is one, otherwise the CPU.
    Raises UsageError for a missing model or device, ArtifactError for damage, EnvironmentFault if the hub fails.

    Example:

        model = pocket_resnet.load("pocket-5m")
        [prediction] = model.predict("cat.jpg")
    """
    from pocket_resnet.inference.classifier import load as load_classifier

    return load_classifier(path, device)


def evaluate(
    model: str | Path,
    *,
    data: str | Path | None = None,
    split: "SplitName | None" = None,
    views: int = 1,
    precision: "Precision" = "fp32",
    device: str = "auto",
    data_dir: str | Path | None = None,
) -> "Evaluation":
    """Measure a model (see `load`) on a split, by default on the validation images of its own data.

    `split` is "train", "val", "trainval" (both), "test", or "all" for a folder of images that has no splits.
    The result has accuracy with its 95% interval (Wilson), accuracy per class, confusion matrix, negative
    log-likelihood (nats) and expected calibration error; `outcomes()` has a row per image, with its file. Shares are
    0 to 1. `views` is the number of views to average: 1, 2 (with the mirror image) or 6 (both also shifted).
    `precision` is that of the arithmetic, "fp32" or "bf16"; `device` is as in `load`. Classes are matched by name.
    Raises UsageError for an invalid split, number of views, precision or device, DataError if the data are missing,
    have changed since the training, or have a class that the model does not know.

    Example:

        evaluation = pocket_resnet.evaluate("runs/latest", split="test")
        print(f"{evaluation.accuracy:.2%} of {evaluation.num_images:,} images")
    """
    from pocket_resnet.inference.evaluate import evaluate_model as measure

    return measure(model, data=data, split=split, views=views, precision=precision, device=device, data_dir=data_dir)


def design(
    budget: str | int = "5M",
    *,
    max_macs: str | int | None = None,
    max_bytes: str | int | None = None,
    epochs: int | None = None,
    num_classes: int = 10,
) -> "Design":
    """Choose the network for a budget; the result has its spec, parameters, multiply-adds, bytes and the reasons.

    `budget` limits the parameters, `max_macs` the multiply-adds per image, `max_bytes` the fp32 weights: numbers or
    text such as "5M", "1.5G" or "500KB". `epochs` is the planned number of epochs (default: that of the recipe `best`).
    Raises UsageError for a limit that is not a number, or that no network fits.

    Example:

        network = pocket_resnet.design("1M", max_macs="100M")
        print(network.num_params, network.num_macs, network.reasons)
    """
    from pocket_resnet.recipe.summary import find_design

    limits = {"budget": budget, "max_macs": max_macs, "max_bytes": max_bytes}
    return find_design({key: str(most) for key, most in limits.items() if most is not None}, epochs, num_classes)


def open_data(data: str | Path, *, data_dir: str | Path | None = None) -> "Source":
    """Open a data set by name (cifar10, cifar100, digits, auto) or a folder by path, with one subfolder per class.

    `split("train")`, "val" or "test" returns images, uint8 [N, 3, H, W] on the CPU, and labels, int64 [N], which are
    indices of `class_names`. Published data sets are downloaded into `data_dir` (default: the user's cache folder) and
    verified. Text with a slash is a folder (`"./digits"`).
    Raises UsageError for an unknown name, DataError for missing or damaged data, EnvironmentFault if a download fails.

    Example:

        data = pocket_resnet.open_data("digits")
        print(len(data.split("train")), data.class_names)
    """
    from pocket_resnet.data.datasets import open_source

    return open_source(data, data_dir=data_dir)


def write_report(
    runs: "str | Path | Result | Sequence[str | Path | Result]",
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
) -> Path:
    """Write an HTML report about a finished run or search, or a comparison of several runs, and return its path.

    `runs` are folders, or what `train` returned. The page and its figures (PNG files in plots/) go to `out`, by default
    the run's folder, or `report` beside the first of several runs. `data` is the current location of the runs' data;
    `device` is as in `load`. Raises UsageError if a run is not finished or the device is not available, ArtifactError
    if a run is damaged, DataError if its data are missing or changed.

    Example:

        page = pocket_resnet.write_report(["runs/a", "runs/b"], out="compared")
        print(page)
    """
    from pocket_resnet.reporting.report import write_report as write

    return write(runs, out, data_dir, data, device)


def __getattr__(name: str) -> Any:
    """Import the public names of `_HOMES` on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion."""
    return [*__all__, "plots"]


def _path(path: str | Path | None) -> Path | None:
    """The path with `~` expanded; None stays None."""
    from pocket_resnet.io.files import expanded

    return None if path is None else expanded(path)


def _recipe(recipe: str | Path, data: str | Path | None, changes: dict[str, Any]) -> "Recipe":
    """The recipe of that name or file, with its data and the keys `changes`, named as keyword arguments."""
    from pocket_resnet.data.datasets import data_name
    from pocket_resnet.recipe.toml import load_recipe, recipe_key, with_choices

    values = {recipe_key(name): _plain(value) for name, value in changes.items()}
    if data is not None:
        values["data.name"] = data_name(data)
    return with_choices(load_recipe(os.fspath(recipe)), values)


def _plain(value: Any) -> Any:
    """Convert a value for a recipe: NumPy and torch numbers to Python's, paths to text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value
