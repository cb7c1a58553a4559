"""A recipe: everything that decides what a training run does, validated once and frozen.

A key that is unknown and an invalid value are refused by name. recipe/toml.py reads and writes
recipes; the command line makes a flag of every key.
"""

import dataclasses
import re
from collections.abc import Collection
from decimal import Decimal
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
    ScheduleRecipe,
    TeacherRecipe,
)

COUNT_FORMS = {
    "budget": "a whole number of parameters, with K or M if you like: 4697742, 500K, 5M, 1.5M",
    "max_macs": "a whole number of multiply-adds, with K, M or G if you like: 500K, 100M, 1.5G",
    "max_bytes": "a whole number of bytes, with K, M or G if you like: 500KB, 1MB, 1.5M",
}


def _number_as_text(value: Any) -> Any:
    """A budget may be written as a plain number in TOML."""
    return str(value) if type(value) is int else value


def _to_spec(values: Any) -> Any:
    """The network that a TOML table spells out."""
    if not isinstance(values, dict):
        return values
    try:
        return NetworkSpec(**values)
    except ValidationError as error:
        raise explain(error, "model", [field.name for field in dataclasses.fields(NetworkSpec)]) from error


class Recipe(Section):
    """One training run."""

    name: str = "original"
    """The recipe's name."""
    epochs: Count = 200
    """Passes over the training images; with `hard_fraction` each trains that share, from `hard_until` on all."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many optimizer steps; the schedule stays that of the whole run."""
    min_steps: Annotated[int, Field(ge=0)] = 0
    """Small data sets get more epochs, up to this many optimizer steps at least; given --epochs are kept."""
    batch_size: Count = 128
    """Images that an optimizer step trains."""
    hard_fraction: Annotated[float, Field(ge=0.05, le=1)] = 1.0
    """Train this share of an epoch's images: in each step those with the highest loss when last trained."""
    hard_until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the run after which every image is trained, in steps of batch_size / hard_fraction images."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of initial weights and dropout; also of order and augmentation unless data.seed is set."""
    budget: Annotated[str | None, BeforeValidator(_number_as_text)] = None
    """Most parameters the network may have: 5M, 500K, 4697742. The network is scaled to fill it."""
    max_macs: Annotated[str | None, BeforeValidator(_number_as_text)] = None
    """Most multiply-adds for one image: 100M, 1.5G."""
    max_bytes: Annotated[str | None, BeforeValidator(_number_as_text)] = None
    """Most bytes of fp32 weights: 1MB, 500KB (1 KB is 1,000 bytes)."""
    dial: tuple[Literal["model", "augment", "optim", "ema", "schedule", "train_image_sizes"], ...] = ()
    """Sections that follow from budget and epochs (docs/formats.md says how); keys you set are kept."""
    train_image_sizes: tuple[Annotated[int, Field(ge=4)], ...] = ()
    """Side in pixels to train at, as equal parts of the run, for example 16 24 24 32; empty: full size."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability mass spread over all classes in the training target; must be below 1."""
    validate_every: Count = 1
    """Epochs between validations; the last epoch is always validated."""
    norm_images: Annotated[int, Field(ge=0)] = 0
    """Measure batch-norm statistics anew on this many augmented images before validating; 0: keep the running ones."""
    track: bool = False
    """Also keep scalars and pictures for TensorBoard, in runs/NAME/tensorboard (needs pip install tensorboard)."""
    init: Literal["default", "dirac"] = "default"
    """dirac: filters start as identities where shapes allow (Jordan 2024, section 3.2)."""
    residual_gain: Rate = 1.0
    """Gain of the last norm in each residual block at the start; 0: a block starts as its shortcut
    (Goyal et al. 2017, arXiv:1706.02677, section 5.1)."""
    init_from: str | None = None
    """Start from this checkpoint of another run: its weights, optimizer, averages and step; a folder step-NNNNNN."""
    model: Annotated[NetworkSpec, BeforeValidator(_to_spec)] = CATALOG["original"]
    data: DataRecipe = DataRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    optim: OptimRecipe = OptimRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe()
    ema: EmaRecipe = EmaRecipe()
    teacher: TeacherRecipe = TeacherRecipe()
    hardware: HardwareRecipe = HardwareRecipe()
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    _explicit: frozenset[str] = PrivateAttr(frozenset())

    @property
    def explicit(self) -> frozenset[str]:
        """The dotted keys that a file, flag or program has set: the dial leaves them alone, even at their defaults."""
        return self._explicit

    def with_explicit(self, keys: Collection[str]) -> "Recipe":
        """The same recipe, of which these keys count as set."""
        recipe = self.model_copy()
        recipe._explicit = frozenset(keys)
        return recipe

    @property
    def data_seed(self) -> int:
        """What order and augmentation are drawn from."""
        return self.seed if self.data.seed is None else self.data.seed

    def __eq__(self, other: object) -> bool:
        """Recipes are equal where their values are, whoever set them."""
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
        if self.hard_fraction < 1:
            self._check_hard_examples()
        if self.optim.nesterov and self.optim.momentum == 0:
            raise RecipeError("optim.nesterov", "optim.nesterov needs optim.momentum above 0")
        if self.residual_gain != 1 and (self.model.preactivation or not self.model.batch_norm):
            what = "residual_gain needs a network whose blocks end in a norm (batch_norm, no preactivation)"
            raise RecipeError("residual_gain", what, hint="leave it at 1")
        return self

    def _check_image_sizes(self) -> None:
        if any(side > self.model.image_size for side in self.train_image_sizes):
            what = f"train_image_sizes {self.train_image_sizes} exceed model.image_size {self.model.image_size}"
            raise RecipeError("train_image_sizes", what)
        for side in () if "model" in self.dial else set(self.train_image_sizes):  # whose network is not known yet
            try:
                layers(self.model, side)
            except UsageError as error:
                what = f"train_image_sizes: {side} pixels are {error.what}"
                raise RecipeError("train_image_sizes", what, hint="train at larger ones") from error

    def _check_hard_examples(self) -> None:
        if self.teacher.model is not None:  # flips follow each sample's visits, so views differ from the teacher's
            raise RecipeError(
                "hard_fraction", "hard_fraction below 1 does not go with teacher.model", hint="leave one of them out"
            )
        if self.augment.mixup or self.augment.cutmix:  # whose loss is more of the partner than of the image
            what = "hard_fraction below 1 does not go with augment.mixup or augment.cutmix"
            raise RecipeError("hard_fraction", what, hint="set both to 0")
        if self.batch_size < 2 or round(self.batch_size / self.hard_fraction) == self.batch_size:
            what = f"hard_fraction {self.hard_fraction:g} leaves no image out of batches of {self.batch_size}"
            raise RecipeError("hard_fraction", what, hint="give a smaller share, or larger batches")


def parse_count(text: str, key: str = "budget") -> int:
    """The number meant by `5M`, `500K`, `1.5M` or `4_697_742`, with B for bytes; RecipeError for anything else."""
    match = re.fullmatch(r"(\d[\d_]{0,15}(?:\.\d{1,6})?)([kKmMgG]?)([bB]?)", text.strip())
    units = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
    count = Decimal(match[1].replace("_", "")) * units[match[2].lower()] if match else Decimal(0)
    if count < 1 or count != int(count) or (match and match[3] and key != "max_bytes"):
        what = COUNT_FORMS[key].partition(",")[0].removeprefix("a whole ")
        raise RecipeError(key, f"{key} {text!r} is not a {what}", hint=f"give {COUNT_FORMS[key]}")
    return int(count)
