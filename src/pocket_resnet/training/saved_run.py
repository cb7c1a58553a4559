"""Read a finished run: its records, and its network's predictions for all validation images.

Shapes: N validation images, K classes, B images, H x W pixels.
"""

import itertools
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.loader import Loader
from pocket_resnet.data.source import Source, Split
from pocket_resnet.device import Hardware, choose
from pocket_resnet.errors import PocketError, UsageError
from pocket_resnet.inference.evaluate import evaluate, renumber
from pocket_resnet.inference.evaluation import Evaluation
from pocket_resnet.inference.training_data import caveat, changes_text, open_data_of, trained_fingerprint
from pocket_resnet.io.files import expanded
from pocket_resnet.model.artifact import CONFIG_NAME, load_model, resume_command
from pocket_resnet.model.card import Card, epochs_text
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.plots.image_grids import as_shown
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import FREE_TO_CHANGE, differences, load_recipe, override
from pocket_resnet.torch_settings import own_settings
from pocket_resnet.training.metrics import read_records
from pocket_resnet.training.prepare import fit_to_data
from pocket_resnet.training.result import Result, read_result


@dataclass(eq=False)
class FinishedRun:
    """A finished run, its network on `hardware`, and its evaluation on the validation images."""

    path: Path
    recipe: Recipe
    result: Result
    card: Card
    metrics: list[dict[str, Any]]
    """The records of metrics.jsonl. The `epoch` of the last one is a fraction if the run ended within an epoch."""
    source: Source
    val: Split
    model: ResNet
    hardware: Hardware
    evaluation: Evaluation
    notices: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's real name, also if it was opened by a link such as `runs/latest`."""
        return self.path.resolve().name

    @property
    def epochs_done(self) -> float | None:
        """The number of epochs trained, as the result or, for runs of earlier versions, the last record has it."""
        last_epoch: float | None = self.metrics[-1]["epoch"] if self.metrics else None
        return last_epoch if self.result.epochs_done is None else self.result.epochs_done

    @property
    def epochs(self) -> str:
        """`4 epochs`, or `2 of 4 epochs` if the run ended early."""
        return epochs_text(self.result.epochs, self.epochs_done)


Opener = Callable[[Recipe], Source]


def opener(data_dir: str | Path | None) -> Opener:
    """A function that opens the data set of a recipe, each data set only once."""
    opened: dict[tuple[str, int], Source] = {}

    def open_data(recipe: Recipe) -> Source:
        key = recipe.data.name, recipe.model.image_size
        if key not in opened:
            name, image_size = key
            opened[key] = open_source(
                name, data_dir=data_dir, image_size=image_size, num_workers=recipe.data.num_workers
            )
        return opened[key]

    return open_data


@own_settings()
def read_run(
    path: str | Path,
    open_data: Opener | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    evaluation: Evaluation | None = None,
) -> FinishedRun:
    """The finished run in this folder; `data` is the current location of its data.

    `evaluation` is that of its model on the validation images in fp32; without it, the device evaluates them.
    Raises UsageError if there is no finished run or no such device, ArtifactError if the run is damaged, DataError if
    its data are missing or, unless `data` names them, have changed.
    """
    path, hardware = expanded(path), choose(device)
    hardware.use_threads()
    _refuse_unfinished(path)
    recipe, result = load_recipe(str(path / "recipe.toml")), read_result(path / "result.json")
    model, card = load_model(path)
    open_recipe = open_data or opener(None)
    source = open_data_of(path, card, data, lambda name: open_recipe(override(recipe, {"data.name": name})))
    recipe = override(recipe, {"data.name": source.name})
    val = renumber(source.split("val"), source.class_names, card.class_names)
    model = hardware.place(model)
    if evaluation is None:
        evaluation = evaluate(model, val, card.class_names, hardware, split_name="val")
    _refuse_other_evaluation(evaluation, len(val))
    return FinishedRun(
        path=path,
        recipe=recipe,
        result=result,
        card=card,
        metrics=_metrics(path / "metrics.jsonl", result),
        source=source,
        val=val,
        model=model,
        hardware=hardware,
        evaluation=evaluation,
        notices=tuple(_notices(path, card, source, val, evaluation, result)),
    )


def _refuse_unfinished(path: Path) -> None:
    """Raise UsageError if there is no run in the folder, or one that is not finished."""
    if not (path / "recipe.toml").is_file():
        raise UsageError("no run here", where=path, hint="give the folder of a finished run")
    if not (path / "result.json").is_file() or not (path / "model" / CONFIG_NAME).is_file():
        raise UsageError("this run is not finished", where=path, hint=f"resume with: {resume_command(path)}")


def _refuse_other_evaluation(evaluation: Evaluation, num_images: int) -> None:
    """Raise UsageError unless it is one of so many validation images in fp32, in a single view."""
    measured = evaluation.split, evaluation.precision, evaluation.views, evaluation.num_images
    if measured != ("val", "fp32", 1, num_images):
        what = "not one of the run's validation images in fp32, in a single view"
        raise UsageError(what, where="evaluation", hint="omit it, and the report measures it")


def _metrics(path: Path, result: Result) -> list[dict[str, Any]]:
    records = read_records(path)
    if records and records[-1]["step"] == result.steps and result.epochs_done is not None:
        records[-1]["epoch"] = result.epochs_done
    return records


def _notices(path: Path, card: Card, source: Source, val: Split, evaluation: Evaluation, result: Result) -> list[str]:
    """Warnings for the reader of the figures."""
    seen = caveat(path, card, source, "val", val.images_NCHW)
    notices = [f"{seen[0].upper()}{seen[1:]}."] if seen else []
    if evaluation.accuracy != result.accuracy:
        notices.append(
            f"Measured again for this report, the accuracy is {evaluation.accuracy:.2%} (another machine rounds "
            "differently, or the data has changed). Confusion, calibration and images below belong to this figure."
        )
    if changes_text(source, trained_fingerprint(path, card, source)) is not None:
        notices.append("The data has changed since this run.")
    return notices


def last_epochs_first_batch(run: FinishedRun, count: int) -> tuple[Tensor, list[str], int, float]:
    """The first batch of the last epoch: uint8 images [B, H, W, 3], labels, the step, the share that was trained.

    With hard-example mining, these are all candidates of the step, and alternating flips are those of a run that trains
    every image in every epoch. The label of a mixed image has two lines.
    """
    train = run.source.split(run.recipe.data.train_on)
    loader = Loader(train, run.recipe, run.hardware, run.model.normalize.mean, use_selection=False)
    steps = loader.steps
    step = steps.epoch(run.result.steps - 1) * steps.per_epoch
    batch = loader.batch(step)
    pixels_BHWC, labels = as_shown(batch.x_BCHW, batch.targets, run.source.class_names)
    return pixels_BHWC[:count], labels[:count], step, steps.trained_fraction(step)


def command(run: FinishedRun, *, released: bool = False) -> str:
    """The command that trains this network again, with the recipe's name if that is enough, otherwise with recipe.toml.

    For a released model it contains no path of this machine. If a callback ended the run early, it sets --max-steps.
    """
    if run.card.command is not None:
        return run.card.command
    name = run.source.public_name if released else run.source.name
    words = ["pocket-resnet", "train", run.recipe.name, "--data", name]
    seeds = {"seed": run.recipe.seed, "data.seed": run.recipe.data.seed}
    try:
        requested = override(load_recipe(run.recipe.name), {"data.name": run.recipe.data.name} | seeds)
        num_images = len(run.source.split(requested.data.train_on))
        resolved = fit_to_data(requested, run.source, num_images, quiet=True)
    except (PocketError, OSError):  # no recipe of this name
        resolved = None
    if resolved is None or run.recipe.max_steps or differences(resolved, run.recipe):
        folder = Path(run.name) if released else run.path.parent / run.name
        return shlex.join(["pocket-resnet", "train", str(folder / "recipe.toml"), *_early_end(run)])
    flags = [
        (f"--{key}", str(seed)) for key, seed in seeds.items() if seed or (key == "data.seed" and seed is not None)
    ]
    return shlex.join([*words, *itertools.chain(*flags), *_early_end(run)])


def _early_end(run: FinishedRun) -> list[str]:
    """`--max-steps` and the number of steps if a callback ended the run, otherwise nothing."""
    max_steps, steps, done = run.recipe.max_steps, run.result.steps, run.epochs_done
    lacks_epochs = done is not None and done < run.recipe.epochs
    return ["--max-steps", str(steps)] if lacks_epochs and (not max_steps or steps < max_steps) else []


def same_images(one: FinishedRun, other: FinishedRun) -> bool:
    """Whether both were measured on the same validation images, with the same classes."""
    same = one.source.fingerprint == other.source.fingerprint and one.card.class_names == other.card.class_names
    return same and torch.equal(one.val.labels_N, other.val.labels_N)


def without_seed(recipe: Recipe) -> Recipe:
    """The recipe without the settings that may differ between repetitions: seeds and hardware."""
    left_out = {key: what for key, what in FREE_TO_CHANGE.items() if key != "max_steps"}
    kept = recipe.model_dump(exclude=left_out | {"seed": True, "data": FREE_TO_CHANGE["data"] | {"seed"}})
    return Recipe.model_validate(kept | {"model": recipe.model})
