"""The search space: which recipe keys are searched, and between which values. Read from TOML that looks like a recipe.

label_smoothing = { low = 0.0, high = 0.3 }

[optim]
lr = { low = 0.02, high = 1.0, log = true }

[model]
num_blocks = { choices = [[1, 1, 1], [2, 2, 2]] }
"""

import json
import logging
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pocket_resnet.errors import UsageError, did_you_mean
from pocket_resnet.io.files import expanded
from pocket_resnet.recipe.base import RecipeError, dotted, explain
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import line_of, override, read_toml_text

_log = logging.getLogger(__name__)

MAX_NUM_CHOICES = 100
DEFAULT_SPACE = Path(__file__).parent / "default_space.toml"
DEFAULT_IMAGE_SIZE = 32  # of its train_image_sizes
HINT = "docs/search.md explains the file of a search space"
# Keys that identify a run or determine its length, its maximum size or its hardware: the same for all trials.
FIXED = {"name", "epochs", "min_steps", "max_steps", "seed", "dial", "validate_every", "track", "init_from"}
FIXED |= {"budget", "max_macs", "max_bytes", "model.num_classes", "model.image_size"}
FIXED |= {"teacher.model", "teacher.sha256", "teacher.epochs"}
SCALED = {"model.widths", "model.stem_width"}  # every network is scaled to the budget
FIXED_SECTIONS = ("data.", "hardware.", "checkpoint.")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Range(_Table):
    """Numbers from `low` to `high`, both included; integers if both are integers."""

    low: int | float
    high: int | float
    log: bool = False
    """Draw the logarithm evenly."""
    step: int | float | None = None
    """Distance between neighbouring values."""

    def fault(self) -> str | None:
        """Why no number can be drawn; None if one can."""
        if not self.low < self.high:
            return f"low {self.low} is not below high {self.high}"
        if self.log and self.low <= 0:
            return f"a log scale needs low above 0, not {self.low}"
        if self.log and self.step is not None:
            return "log and step cannot be combined"
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            return f"step {self.step} is not above 0 and at most high - low"
        return None

    def typed(self, current: Any) -> Self:
        """The same range, as floats if the key's current value or any of the numbers is a float."""
        numbers = (self.low, self.high, self.step)
        if isinstance(current, float) or any(isinstance(number, float) for number in numbers):
            low, high, step = (None if number is None else float(number) for number in numbers)
            return self.model_copy(update={"low": low, "high": high, "step": step})
        return self

    def including(self, value: Any) -> Self:
        """The same range, extended to the value, unless no number could then be drawn (a log scale from 0)."""
        extended = self.model_copy(update={"low": min(self.low, value), "high": max(self.high, value)})
        return self if extended.fault() else extended

    def extremes(self) -> tuple[Any, ...]:
        """The values that a recipe must accept."""
        return self.low, self.high

    def suggest(self, trial: Any, key: str) -> int | float:
        """The trial's value."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return int(trial.suggest_int(key, self.low, self.high, log=self.log, step=self.step or 1))
        return float(trial.suggest_float(key, self.low, self.high, log=self.log, step=self.step))

    def value(self, param: Any) -> Any:
        """The recipe's value for a parameter recorded by the study."""
        return param

    def param(self, value: Any) -> Any:
        """The study's parameter for a recipe's value; None if the range does not contain it."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        steps = 0 if self.step is None else (value - self.low) / self.step
        return value if abs(steps - round(steps)) < 1e-9 else None


class Choices(_Table):
    """One of several values."""

    choices: Annotated[list[Any], Field(min_length=2, max_length=MAX_NUM_CHOICES)]

    def fault(self) -> str | None:
        """Why no choice can be drawn; None if one can."""
        labels = [json.dumps(choice) for choice in self.choices]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        return None if twice is None else f"the choice {twice} occurs twice"

    def typed(self, current: Any) -> Self:  # noqa: ARG002
        """The same choices."""
        return self

    def including(self, value: Any) -> Self:
        """The same choices, and the value."""
        if self.param(value) is not None:
            return self
        return self.model_copy(update={"choices": [list(value) if isinstance(value, tuple) else value, *self.choices]})

    def extremes(self) -> tuple[Any, ...]:
        """The values that a recipe must accept."""
        return tuple(self.choices)

    def suggest(self, trial: Any, key: str) -> Any:
        """The trial's value."""
        return self.value(trial.suggest_categorical(key, [_label(choice) for choice in self.choices]))

    def value(self, param: Any) -> Any:
        """The recipe's value for a parameter recorded by the study."""
        return next(choice for choice in self.choices if _label(choice) == param)

    def param(self, value: Any) -> Any:
        """The study's parameter for a recipe's value; None if it is not among the choices."""
        plain = list(value) if isinstance(value, tuple) else value
        return next((_label(choice) for choice in self.choices if choice == plain), None)


def _label(choice: Any) -> Any:
    """The form in which a study records a choice: a plain value, or the text of an array."""
    return json.dumps(choice) if isinstance(choice, list) else choice


Dimension = Range | Choices


@dataclass(frozen=True)
class Space:
    """The searched dimensions, by dotted recipe key."""

    dimensions: Mapping[str, Dimension]

    def suggest(self, trial: Any) -> dict[str, Any]:
        """A value for each key, drawn by the trial's sampler."""
        return {key: dimension.suggest(trial, key) for key, dimension in self.dimensions.items()}

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe's values of a recorded trial."""
        return {key: self.dimensions[key].value(param) for key, param in params.items()}

    def params(self, recipe: Recipe) -> dict[str, Any]:
        """The study's parameters for the recipe's own values, as far as the space contains them."""
        own = dotted(recipe.model_dump())
        params = {key: dimension.param(own.get(key)) for key, dimension in self.dimensions.items()}
        return {key: param for key, param in params.items() if param is not None}

    def with_budgets_up_to(self, count: int) -> "Space":
        """The space with budgets from a sixteenth of this number of parameters up to all of it."""
        return Space({"budget": Range(low=max(1, count // 16), high=count, log=True), **self.dimensions})

    def to_json(self) -> dict[str, Any]:
        """The space as in the file, with one table for each dotted key."""
        return {key: each.model_dump(exclude_defaults=True) for key, each in self.dimensions.items()}


def space_beside(recipe: str | Path) -> Path | None:
    """RECIPE.space.toml, if the recipe was given as RECIPE.toml and there is one."""
    path = expanded(recipe)
    beside = path.with_suffix(".space.toml")
    return beside if path.suffix == ".toml" and beside.is_file() else None


def load_space(path: Path | None, recipe: Recipe) -> Space:
    """The space in the file, or the default one for this recipe, which is resolved for the data.

    The default space omits keys that do not suit the recipe, and is extended to contain the recipe's own values.
    Raises UsageError naming file, line and key for an unknown key, or a range that the recipe does not allow.
    """
    if path is not None:
        return Space(dict(_dimensions(read_toml_text(path, "search space"), path, recipe)))
    default = _tables(DEFAULT_SPACE.read_text(encoding="utf-8"), DEFAULT_SPACE, recipe)
    own, dimensions = dotted(recipe.model_dump()), dict[str, Dimension]()
    for key, table in default.items():
        try:
            if key == "optim.muon_lr" and recipe.optim.name != "muon":
                raise RecipeError(key, "optim.name is not muon")
            if key == "train_image_sizes" and recipe.model.image_size != DEFAULT_IMAGE_SIZE:
                raise RecipeError(key, f"its default choices are for {DEFAULT_IMAGE_SIZE} pixels")
            dimensions[key] = _dimension(key, table, recipe).including(own[key])
        except RecipeError as error:
            _log.info(f"not searched: {key} ({error.what})")
    return Space(dimensions)


def _dimensions(text: str, path: Path, recipe: Recipe) -> Iterator[tuple[str, Dimension]]:
    tables = _tables(text, path, recipe)
    if not tables:
        raise UsageError("no keys to search", where=path, hint=HINT)
    for key, table in tables.items():
        try:
            yield key, _dimension(key, table, recipe)
        except RecipeError as error:
            raise RecipeError(error.key, error.what, where=line_of(error.key, text, path), hint=HINT) from error


def _tables(text: str, path: Path, recipe: Recipe) -> dict[str, Any]:
    """The file's entry for each dotted key of a recipe."""
    known = dotted(recipe.model_dump())
    try:
        return dict(_flat(tomllib.loads(text), known))
    except RecipeError as error:
        raise RecipeError(error.key, error.what, where=line_of(error.key, text, path), hint=HINT) from error
    except ValueError as error:
        raise UsageError(f"not TOML: {error}", where=path, hint="fix the syntax") from error
    except RecursionError as error:
        raise UsageError("nested too deeply", where=path, hint=HINT) from error


def _flat(values: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, table in values.items():
        key = f"{prefix}{name}"
        if key in known:
            yield key, table
        elif isinstance(table, dict) and any(each.startswith(f"{key}.") for each in known):
            yield from _flat(table, known, f"{key}.")
        else:
            raise RecipeError(key, f"unknown `{key}`{did_you_mean(key, known)}")


def _dimension(key: str, table: Any, recipe: Recipe) -> Dimension:
    """The range or choices in the table. Raises RecipeError if it has neither, or the recipe forbids their ends."""
    if key in FIXED or key.startswith(FIXED_SECTIONS):
        raise RecipeError(key, f"`{key}` cannot be searched: it is the same for all trials")
    if key in SCALED:
        raise RecipeError(key, f"`{key}` cannot be searched: every network is scaled to the budget")
    if not isinstance(table, dict):
        raise RecipeError(key, f"`{key}` = {table!r} is neither {{ low, high }} nor {{ choices }}")
    kind: type[Dimension] = Choices if "choices" in table else Range
    try:
        dimension = kind.model_validate(table).typed(dotted(recipe.model_dump())[key])
    except ValidationError as error:
        raise explain(error, key, list(kind.model_fields)) from error
    if fault := dimension.fault():
        raise RecipeError(key, f"`{key}`: {fault}")
    for value in dimension.extremes():
        try:
            override(recipe, {key: value})
        except UsageError as error:
            raise RecipeError(key, f"`{key}` cannot be {json.dumps(value, default=str)}: {error.what}") from error
    return dimension
