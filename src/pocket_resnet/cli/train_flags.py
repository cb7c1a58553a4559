"""The flags of `train` and `search`: common ones first, then the command's other flags, then every recipe key."""

import dataclasses
import inspect
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from pydantic import BaseModel

from pocket_resnet.cli.flags import flag
from pocket_resnet.cli.parsing import parse
from pocket_resnet.cli.search import Search
from pocket_resnet.cli.train import Train
from pocket_resnet.recipe.base import dotted
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import with_flags

COMMON = {
    Train: (
        "data",
        "budget",
        "epochs",
        "batch_size",
        "seed",
        "from_model",
        "freeze",
        "teacher",
        "run",
        "resume",
        "runs_dir",
        "report",
        "export",
    ),
    Search: (
        "data",
        "budget",
        "epochs",
        "batch_size",
        "trials",
        "hours",
        "workers",
        "trade",
        "space",
        "storage",
        "resume",
    ),
}
SECTIONS = tuple(name for name, field in Recipe.model_fields.items() if isinstance(field.default, BaseModel))
METAVARS = {  # for optional keys, for which tyro would print {None}|STR
    "budget": "COUNT",
    "max_macs": "COUNT",
    "max_bytes": "BYTES",
    "max_steps": "COUNT",
    "init_from": "DIR",
    "seed": "INT",
    "model": "MODEL",
}
WITHOUT_FLAG = ("sha256",)  # keys that a run fills in; a recipe file may set them

Flag = tuple[str, Any, Any]  # name, type with tyro's configuration, default
Command = TypeVar("Command", bound=Train | Search)


def parse_with_recipe(default: Command, words: Sequence[str], arguments: Sequence[str]) -> Command:
    """The command with these arguments filled in; `words` are as in `parse`."""
    parsed = parse(_flags_class(default), words, arguments, inspect.getdoc(default))
    parts = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(parsed)}
    groups = [vars(parts.pop(name)) for name in ("common", "other", "recipe")]
    own = {field.name for field in dataclasses.fields(default)}
    flat = {name: value for group in groups for name, value in group.items()}
    recipe = with_flags(default.recipe, dotted({key: flat[key] for key in flat if key not in own} | parts), arguments)
    return type(default)(recipe, **{key: value for key, value in flat.items() if key in own})


def _flags_class(default: Train | Search) -> Any:
    """A dataclass with a field for each box of the help; tyro uses the field's name as the title."""
    recipe = default.recipe
    keys = [name for name in Recipe.model_fields if name not in (*SECTIONS, "model")]
    flags = _own_flags(default) | {key_flag[0]: key_flag for key_flag in _key_flags(recipe, keys, prefix=False)}
    boxes: dict[str, list[Flag]] = {
        "common": [flags.pop(name) for name in COMMON[type(default)]],
        "other": [entry for name, entry in flags.items() if name not in keys],
        "recipe": [entry for name, entry in flags.items() if name in keys],
    }
    classes = {name: _dataclass(name, "", flags) for name, flags in boxes.items()}
    fields: list[Flag] = [(name, flags_class, flags_class()) for name, flags_class in classes.items()]
    fields.append(("model", type(recipe.model), recipe.model))
    for name in SECTIONS:
        section = getattr(recipe, name)
        section_class = _dataclass(name, section.__doc__, _key_flags(section, type(section).model_fields, prefix=True))
        fields.append((name, section_class, section_class()))
    return _dataclass("Flags", "", fields)


def _own_flags(default: Train | Search) -> dict[str, Flag]:
    """The command's flags that are not recipe keys."""
    hints = get_type_hints(type(default), include_extras=True)
    names = [field.name for field in dataclasses.fields(default) if field.name != "recipe"]
    return {name: (name, hints[name], getattr(default, name)) for name in names}


def _key_flags(section: BaseModel, keys: Iterable[str], *, prefix: bool) -> list[Flag]:
    """A flag for each of these keys, with its help text from the recipe."""
    fields = type(section).model_fields
    flags = []
    for key in keys:
        text = fields[key].description or ""
        kind: Any = Annotated[fields[key].annotation, flag(text, METAVARS.get(key), prefix=prefix)]
        flags.append((key, Annotated[kind, tyro.conf.Suppress] if key in WITHOUT_FLAG else kind, getattr(section, key)))
    return flags


def _dataclass(name: str, doc: str | None, flags: Sequence[Flag]) -> Any:
    """A dataclass with these fields; tyro shows `doc` above their box."""

    def constant(value: Any) -> Any:
        return dataclasses.field(default_factory=lambda: value)

    fields = [(key, kind, constant(value)) for key, kind, value in flags]
    return dataclasses.make_dataclass(name, fields, namespace={"__doc__": doc or " "})
