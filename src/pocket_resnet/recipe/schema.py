"""A recipe: every setting of a training run, validated once and frozen.

Errors name the unknown key or the invalid value. recipe/toml.py reads and writes recipes; the command line makes every
key a flag.
"""

import dataclasses
import re
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from pocket_resnet.errors import UsageError
from pocket_resnet.model.catalog import CATALOG
from pocket_resnet.model.counts import layers
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.base import Count, Rate, RecipeError, Section, dotted, explain
from pocket_resnet.recipe.sections import (
    AugmentRecipe,
    CheckpointRecipe,
    DataRecipe,
    EmaRecipe,
    HardwareRecipe,
    OptimRecipe,
    PretrainedRecipe,
    ScheduleRecipe,
    TeacherRecipe,
)

COUNT_FORMS = {
    "budget": "a whole number of parameters, optionally with K or M: 4697742, 500K, 5M, 1.5M",
    "max_macs": "a whole number of multiply-adds, optionally with K, M or G: 500K, 100M, 1.5G",
    "max_bytes": "a whole number of bytes, optionally with K, M or G: 500KB, 1MB, 1.5M",
}


def _number_as_text(value: Any) -> Any:
    """A budget may be a plain number in TOML."""
    return str(value) if type(value) is int else value


def _to_spec(values: Any) -> Any:
    """The network described by a TOML table."""
    if not isinstance(values, dict):
        return values
    try:
        return NetworkSpec(**values)
    except ValidationError as error:
        raise explain(error, "model", [field.name for field in dataclasses.fields(NetworkSpec)]) from error


class Recipe(Section):
    """All settings of one training run; frozen. `recipe.toml.load_recipe` reads one, `override` changes a copy."""

    name: str = "original"
    """Name of the recipe; part of the default run folder and of the model card."""
    epochs: Count = 200
    """Passes over the training images."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many optimizer steps, without changing the schedule."""
    min_steps: Annotated[int, Field(ge=0)] = 0
    """Minimum number of optimizer steps: small data sets get more epochs, unless you set --epochs."""
    batch_size: Count = 128
    """Images per optimizer step."""
    hard_fraction: Annotated[float, Field(ge=0.05, le=1)] = 1.0
    """Hard-example mining: train only on this share of an epoch's images, those whose last loss was highest."""
    hard_until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the run with hard-example mining. The rest trains on all images, batch_size / hard_fraction per step."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed for initial weights and dropout, and for image order and augmentation unless data.seed is set."""
    budget: Annotated[str | None, BeforeValidator(_number_as_text)] = None
    """Maximum number of parameters, such as 5M, 500K or 4697742. The network is scaled to fill it."""
    max_macs: Annotated[str | None, BeforeValidator(_number_as_text)] = None
    """Maximum multiply-adds per image, such as 100M or 1.5G."""
    max_bytes: Annotated[str | None, BeforeValidator(_number_as_text)] = None
    """Maximum size of the fp32 weights, such as 1MB or 500KB (1 KB is 1,000 bytes)."""
    dial: tuple[Literal["model", "augment", "optim", "ema", "schedule", "train_image_sizes"], ...] = ()
    """Sections to derive from budget and epochs (see docs/formats.md). Keys that you set are kept."""
    train_image_sizes: tuple[Annotated[int, Field(ge=4)], ...] = ()
    """Image sizes in pixels for equal parts of the run, such as 16 24 24 32. If empty, always the full size."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing: probability spread over all classes in the training target, below 1."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weight each image's loss by the inverse frequency of its class, so that rare classes count as much."""
    validate_every: Count = 1
    """Epochs between validations. The last epoch is always validated."""
    norm_images: Annotated[int, Field(ge=0)] = 0
    """Recompute batch-norm statistics on this many augmented images before validation. 0 uses running statistics."""
    track: bool = False
    """Log scalars and images for TensorBoard in runs/NAME/tensorboard (needs the extra `track`)."""
    init: Literal["default", "dirac"] = "default"
    """Initial weights. dirac: filters start as identities if shapes allow (Jordan 2024, section 3.2)."""
    residual_gain: Rate = 1.0
    """Initial gain of each block's last norm. 0: blocks start as their shortcut (arXiv:1706.02677, section 5.1)."""
    init_from: str | None = None
    """Continue from another run's checkpoint, a folder step-NNNNNN: weights, optimizer, averages and step."""
    model: Annotated[NetworkSpec, BeforeValidator(_to_spec)] = CATALOG["original"]
    data: DataRecipe = DataRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    optim: OptimRecipe = OptimRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe()
    ema: EmaRecipe = EmaRecipe()
    teacher: TeacherRecipe = TeacherRecipe()
    pretrained: PretrainedRecipe = PretrainedRecipe()
    hardware: HardwareRecipe = HardwareRecipe()
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    _explicit: frozenset[str] = PrivateAttr(frozenset())

    @property
    def explicit(self) -> frozenset[str]:
        """Dotted keys set by a file, flag or program. The dial keeps them, even if they equal the default."""
        return self._explicit

    def with_explicit(self, keys: Collection[str]) -> "Recipe":
        """The same recipe with these keys marked as set."""
        recipe = self.model_copy()
        recipe._explicit = frozenset(keys)
        return recipe

    @property
    def data_seed(self) -> int:
        """Seed of image order and augmentation."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def models(self) -> dict[str, Path]:
        """The trained models that the run learns from, by role."""
        named = {"teacher": self.teacher.model, "pretrained model": self.pretrained.model}
        return {role: Path(model) for role, model in named.items() if model is not None}

    def __eq__(self, other: object) -> bool:
        """Recipes are equal if their values are, no matter who set them."""
        return isinstance(other, Recipe) and self.__dict__ == other.__dict__

    @model_validator(mode="wrap")
    @classmethod
    def _note_explicit(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        recipe = validate(values)
        if isinstance(values, dict):
            recipe._explicit = frozenset(dotted(values))
        return recipe

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        for key in COUNT_FORMS:
            if (text := getattr(self, key)) is not None:
                parse_count(text, key)
        self._check_image_sizes()
        if self.pretrained.model is not None and self.init_from is not None:
            what = "init_from (a run's checkpoint) cannot be combined with pretrained.model (a finished model)"
            raise RecipeError("init_from", what, hint="remove one of them")
        if self.hard_fraction < 1:
            self._check_hard_examples()
        if self.class_weights != "none" and self.teacher.model is not None and self.teacher.weight == 1:
            what = "class_weights has no effect if teacher.weight is 1: the labels have no share of the loss"
            raise RecipeError("class_weights", what, hint="set teacher.weight below 1")
        if self.teacher.model is not None and self.augment.distort_until == 0:
            what = "teacher.model has no effect if augment.distort_until is 0: the run learns from labels alone"
            raise RecipeError("augment.distort_until", what, hint="raise it, or remove the teacher")
        if self.optim.nesterov and self.optim.momentum == 0:
            raise RecipeError("optim.nesterov", "optim.nesterov needs optim.momentum above 0")
        if self.residual_gain != 1 and (self.model.preactivation or not self.model.batch_norm):
            what = "residual_gain needs blocks that end in a norm (batch_norm on, preactivation off)"
            raise RecipeError("residual_gain", what, hint="leave it at 1")
        return self

    def _check_image_sizes(self) -> None:
        if any(size > self.model.image_size for size in self.train_image_sizes):
            what = f"train_image_sizes {self.train_image_sizes} exceed model.image_size {self.model.image_size}"
            raise RecipeError("train_image_sizes", what)
        for size in () if "model" in self.dial else set(self.train_image_sizes):  # a dialled network is not known yet
            try:
                layers(self.model, size)
            except UsageError as error:
                what = f"train_image_sizes: {size} pixels: {error.what}"
                raise RecipeError("train_image_sizes", what, hint="use larger sizes") from error

    def _check_hard_examples(self) -> None:
        if self.teacher.model is not None:  # flips follow each sample's visits, so views differ from the teacher's
            what = "hard_fraction below 1 cannot be combined with teacher.model"
            raise RecipeError("hard_fraction", what, hint="remove one of them")
        if self.augment.mixup or self.augment.cutmix:  # the loss of a mixed image may be mostly its partner's
            what = "hard_fraction below 1 cannot be combined with augment.mixup or augment.cutmix"
            raise RecipeError("hard_fraction", what, hint="set both to 0")
        if self.batch_size < 2 or round(self.batch_size / self.hard_fraction) == self.batch_size:
            what = f"hard_fraction {self.hard_fraction:g} drops no image from batches of {self.batch_size}"
            raise RecipeError("hard_fraction", what, hint="use a smaller hard_fraction or a larger batch_size")


def parse_count(text: str, key: str = "budget") -> int:
    """The number in `5M`, `500K`, `1.5M` or `4_697_742`, with B for bytes. Raises RecipeError for anything else."""
    match = re.fullmatch(r"(\d[\d_]{0,15}(?:\.\d{1,6})?)([kKmMgG]?)([bB]?)", text.strip())
    units = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
    count = Decimal(match[1].replace("_", "")) * units[match[2].lower()] if match else Decimal(0)
    if count < 1 or count != int(count) or (match and match[3] and key != "max_bytes"):
        what = COUNT_FORMS[key].partition(",")[0].removeprefix("a whole ")
        raise RecipeError(key, f"{key} {text!r} is not a {what}", hint=f"give {COUNT_FORMS[key]}")
    return int(count)
