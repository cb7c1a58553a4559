"""The result of a finished run, for result.json and the model's card."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pocket_resnet.data.source import Source
from pocket_resnet.device import machine
from pocket_resnet.errors import ArtifactError
from pocket_resnet.inference.evaluation import Evaluation
from pocket_resnet.model.artifact import folder_name
from pocket_resnet.model.card import Card
from pocket_resnet.model.counts import num_macs, num_params
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training.flops import training_flops
from pocket_resnet.training.metrics import Record, read_records
from pocket_resnet.training.trainer import Trainer
from pocket_resnet.version import __version__


@dataclass(frozen=True)
class Result:
    """The result of a finished run; `runs/NAME/result.json` has the same fields."""

    accuracy: float
    """Share of validation images classified correctly: single view, last epoch."""
    interval: tuple[float, float]
    """Its 95% Wilson interval."""
    num_params: int
    """Weights and biases, trainable or frozen."""
    num_macs: int
    """Multiply-adds for one image at full size."""
    epochs: int
    """Planned epochs."""
    steps: int
    """Optimizer steps done."""
    images_seen: int
    """Training images over all steps."""
    train_flops: int
    """Floating-point operations of all forward and backward passes."""
    seconds: float
    """Time in training steps, also before a resume."""
    seconds_total: float
    """Total time, including reading data, validation and saving."""
    images_per_s: float
    """`images_seen` / `seconds`."""
    seed: int
    """Seed of weights and dropout, and of order and augmentation unless the recipe has another for them."""
    recipe: str
    """The recipe's name."""
    data: str
    """The data set's name, or the folder's path."""
    train_on: str
    """train, or trainval if the validation images were trained on too."""
    machine: str
    """Processor or GPU, threads, precision and version of torch."""
    model: str
    """Path of the model directory."""
    caveat: str | None = None
    """Why the accuracy is not, or may not be, measured on unseen images; otherwise None."""
    epochs_done: float | None = None
    """Fewer than `epochs` if `max_steps` or a callback ended the run; None for runs of earlier versions."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.model).parent

    def records(self) -> list[Record]:
        """The run's records, one per epoch, as its metrics.jsonl has them. Raises ArtifactError if it is missing."""
        return read_records(self.folder / "metrics.jsonl")


def read_result(path: Path) -> Result:
    """The result in this file. Raises ArtifactError if it cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Result(**values | {"interval": tuple(values["interval"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(f"not a run's result: {error}", where=path, hint="delete it and resume") from error


def result_of(
    trainer: Trainer, evaluation: Evaluation, *, seconds: float, seconds_total: float, model: Path, caveat: str | None
) -> Result:
    """The result of a run that ends at the trainer's step; `model` is its model directory."""
    recipe = trainer.recipe
    images_seen, train_flops = training_flops(trainer.model, recipe, trainer.steps.num_samples, trainer.step)
    return Result(
        accuracy=evaluation.accuracy,
        interval=evaluation.interval,
        num_params=num_params(recipe.model),
        num_macs=num_macs(recipe.model),
        epochs=recipe.epochs,
        steps=trainer.step,
        images_seen=images_seen,
        train_flops=train_flops,
        seconds=round(seconds, 3),
        seconds_total=round(seconds_total, 3),
        images_per_s=round(images_seen / max(seconds, 1e-9), 2),
        seed=recipe.seed,
        recipe=recipe.name,
        data=recipe.data.name,
        train_on=recipe.data.train_on,
        machine=machine(trainer.hardware),
        model=str(model),
        caveat=caveat,
        epochs_done=round(trainer.step / trainer.steps.per_epoch, 4),
    )


def card_of(
    result: Result, recipe: Recipe, source: Source, evaluation: Evaluation, *, unknown_images: bool = False
) -> Card:
    """The card of the run's model. It may be published, so it does not contain the location of the data."""
    shared = {name: value for name, value in asdict(result).items() if name in Card.model_fields}
    return Card(
        version=__version__,
        spec=recipe.model,
        init_from=origin(recipe),
        teacher=_model_name(recipe.teacher.model),
        teacher_sha256=recipe.teacher.sha256,
        pretrained=_model_name(recipe.pretrained.model),
        pretrained_sha256=recipe.pretrained.sha256,
        class_names=source.class_names,
        flip_invariant=source.flip_invariant,
        split=evaluation.split,
        num_images=evaluation.num_images,
        data_fingerprint=source.fingerprint,
        unknown_images=unknown_images,
        **shared | {"data": source.public_name},
    )


def origin(recipe: Recipe) -> str | None:
    """The checkpoint that the recipe starts from, as RUN/step-NNNNNN, without the folders of this machine."""
    if recipe.init_from is None:
        return None
    path = Path(recipe.init_from)
    return f"{path.parent.parent.name}/{path.name}"


def _model_name(folder: str | None) -> str | None:
    return None if folder is None else folder_name(Path(folder))
