"""The base class of a recipe's sections: strict and frozen, with errors that name the dotted key."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from pocket_resnet.errors import UsageError, did_you_mean

SYNONYMS = {"learning_rate": "lr"}  # a common name, and the key's name here

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
        """Raise RecipeError, which pydantic and tyro pass on unchanged."""
        try:
            return validate(values)
        except ValidationError as error:
            section = cls.__name__.removesuffix("Recipe").lower()
            raise explain(error, section, known_keys(cls)) from error


def known_keys(section: type[Section], joint: str = ".") -> list[str]:
    """The section's keys, and those of the sections in it, such as `optim.lr`."""
    defaults = {name: field.default for name, field in section.model_fields.items()}
    inner = {name: type(value) for name, value in defaults.items() if isinstance(value, Section)}
    return [*defaults, *(f"{name}{joint}{key}" for name, kind in inner.items() for key in kind.model_fields)]


def nearest_key(key: str, known: Collection[str], joint: str = ".") -> str:
    """`, did you mean ...?` with the known key that ends in this one, or is most similar; or nothing."""
    spellings = {name: name for name in known}
    for synonym, usual in SYNONYMS.items():
        spellings |= {name.removesuffix(usual) + synonym: name for name in known if name.rpartition(joint)[2] == usual}
    same = [spelling for spelling in spellings if spelling.rpartition(joint)[2] == key]
    hint = f", did you mean `{same[0]}`?" if same else did_you_mean(key, spellings)
    for spelling, name in spellings.items():
        hint = hint.replace(f"`{spelling}`", f"`{name}`")
    return hint


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one flat table with dotted keys; from a Section, only the keys that were given."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Section):
            value = {name: getattr(value, name) for name in value.model_fields_set}
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def explain(error: ValidationError, section: str, known: list[str]) -> RecipeError:
    """The first error, with its dotted key and the most similar known key."""
    first = error.errors(include_url=False)[0]
    path = [part for part in first["loc"] if isinstance(part, str)]
    key = ".".join([section, *path] if section else path)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return RecipeError(key, f"unknown `{key}`{nearest_key(path[-1], known)}")
    return RecipeError(key, f"`{key}` = {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}")
