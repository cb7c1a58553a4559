"""What sections of a recipe have in common: strict, frozen, and refused by the dotted key that is wrong."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from pocket_resnet.errors import UsageError, did_you_mean

SYNONYMS = {"learning_rate": "lr"}  # what people write, and what it is called here

Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Pixels = Annotated[int, Field(ge=0)]


class RecipeError(UsageError):
    """A recipe's key that is unknown or has an invalid value; `key` is dotted."""

    usual_hint = "pocket-resnet train --help explains every key"

    def __init__(self, key: str, what: str, *, where: str | Path | None = None, hint: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint)
        self.key = key


class Section(BaseModel):
    """Strict and frozen: `1` is not `true`, `"1"` is not `1`, unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_clearly(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Raise RecipeError, which goes straight through TOML's and the command line's validation."""
        try:
            return validate(values)
        except ValidationError as error:
            section = cls.__name__.removesuffix("Recipe").lower()
            raise explain(error, section, list(cls.model_fields)) from error


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, by dotted key; of a Section only the keys that were given."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Section):
            value = {name: getattr(value, name) for name in value.model_fields_set}
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        found |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def explain(error: ValidationError, section: str, known: list[str]) -> RecipeError:
    """The first thing wrong, with its dotted key and the nearest known one."""
    first = error.errors(include_url=False)[0]
    path = [part for part in first["loc"] if isinstance(part, str)]
    key = ".".join([section, *path] if section else path)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        synonyms = {synonym: name for synonym, name in SYNONYMS.items() if name in known}
        hint = did_you_mean(path[-1], [*known, *synonyms])
        for synonym, name in synonyms.items():
            hint = hint.replace(synonym, name)
        return RecipeError(key, f"unknown `{key}`{hint}")
    return RecipeError(key, f"`{key}` = {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}")
