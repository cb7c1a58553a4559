"""Reads, overrides, writes and compares recipes in TOML."""

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pocket_resnet.errors import UsageError, did_you_mean
from pocket_resnet.io.files import expanded
from pocket_resnet.io.renamed import RECIPE_KEYS, current_name, with_current_names
from pocket_resnet.model.catalog import named
from pocket_resnet.recipe.base import RecipeError, dotted, known_keys, nearest_key
from pocket_resnet.recipe.schema import Recipe

MAX_RECIPE_BYTES = 1024 * 1024
MODEL_ROLES = ("teacher", "pretrained")  # sections with `model` and the SHA-256 of its weights
# A resumed run may change how and where it computes, but not what.
FREE_TO_CHANGE: Any = {
    "hardware": True,
    "checkpoint": True,
    "max_steps": True,
    "track": True,
    "data": {"num_workers"},
    "teacher": {"model"},  # its location; teacher.sha256 identifies the model
    "pretrained": {"model"},
}


def recipes_folder() -> Path:
    """The folder of the named recipes: in an installed package, or beside src/ in a checkout."""
    installed = Path(__file__).parents[1] / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "recipes"


def recipe_names() -> list[str]:
    """The names of the recipes, sorted."""
    return sorted(path.stem for path in recipes_folder().glob("*.toml"))


def is_recipe(name_or_path: str) -> bool:
    """Whether this is the name of a recipe, or looks like the path of one."""
    return expanded(name_or_path).suffix == ".toml" or (recipes_folder() / f"{name_or_path}.toml").is_file()


def load_recipe(name_or_path: str) -> Recipe:
    """The recipe of that name, or in that TOML file. Raises UsageError naming file, line and key."""
    path = expanded(name_or_path)
    try:
        if path.suffix != ".toml":
            path = recipes_folder() / f"{name_or_path}.toml"
            if not is_recipe(name_or_path):
                raise _unknown(name_or_path)
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise _unreadable(path, error) from error
    return parse_recipe(read_toml_text(path), path)


def saved_recipe(runs_dir: str | Path, run: str | Path | None) -> str | None:
    """The path of the recipe that the run of this name has written; None if it has not begun."""
    path = None if run is None else expanded(runs_dir) / run / "recipe.toml"
    return str(path) if path is not None and path.is_file() else None


def _unknown(name_or_path: str) -> UsageError:
    if ((folder := expanded(name_or_path)) / "recipe.toml").is_file():
        from pocket_resnet.model.artifact import resume_command  # imports torch

        return UsageError(
            "a run, not a recipe",
            where=name_or_path,
            hint=f"resume it with: {resume_command(folder)}; or fine-tune its model with --from {name_or_path}",
        )
    known = recipe_names()
    return UsageError(
        f"unknown recipe `{name_or_path}`{did_you_mean(name_or_path, known)}",
        hint=f"choose one of {', '.join(known)}, or give the path of a .toml file",
    )


def read_toml_text(path: Path, kind: str = "recipe") -> str:
    """The text of a recipe file, or of another `kind`. Raises UsageError if it is not text or too large."""
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise UsageError(
                f"over {MAX_RECIPE_BYTES:,} bytes: not a {kind}", where=path, hint=f"give the path of a {kind}"
            )
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        names = ", or a name from recipes/" if kind == "recipe" else ""
        raise UsageError(f"no such {kind} file", where=path, hint=f"give its path{names}") from error
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or NUL in the name
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UsageError:
    what = f"cannot be read as a UTF-8 text file: {error}"
    return UsageError(what, where=path, hint="save it as UTF-8 in a readable place")


def parse_recipe(text: str, path: Path) -> Recipe:
    """The recipe in the TOML text; its keys are explicit, see `Recipe.explicit`.

    `base = "NAME"` starts from another recipe, `[model] network = "NAME"` from a network of the catalog; all other keys
    are those of the recipe `original`. Names of earlier versions are replaced by the current ones.
    """
    try:
        values: dict[str, Any] = {"name": path.stem} | _parsed(text, path)
        base = load_recipe(values.pop("base")) if isinstance(values.get("base"), str) else None
    except ValueError as error:  # also raised for a number with thousands of digits
        raise UsageError(f"not TOML: {error}", where=path, hint="fix the syntax") from error
    except RecursionError as error:
        raise UsageError(
            "nested too deeply, or `base` leads back to this file", where=path, hint="choose another `base`"
        ) from error
    try:
        model = values.get("model")
        if isinstance(model, dict) and isinstance(model.get("network"), str):
            values["model"] = dataclasses.asdict(named(model.pop("network"))) | model
        return _updated(base, _with_consequences(values)) if base else Recipe.model_validate(_with_tuples(values))
    except RecipeError as error:
        raise RecipeError(error.key, error.what, where=line_of(error.key, text, path), hint=error.hint) from error
    except UsageError as error:  # from the network; `where` is its field
        key = f"model.{error.where}"
        raise RecipeError(
            key, f"{error.where}: {error.what}", where=line_of(key, text, path), hint=error.hint
        ) from error
    except RecursionError as error:  # dotted keys nested too deeply
        raise UsageError("nested too deeply", where=path, hint="a key has at most two parts") from error


def _parsed(text: str, path: Path) -> dict[str, Any]:
    """The TOML text's tables, with current names."""
    values = tomllib.loads(text)
    try:
        values = with_current_names(values, RECIPE_KEYS)
    except UsageError as error:
        raise UsageError(error.what, where=path, hint=error.hint) from error
    if isinstance(dial := values.get("dial"), list):
        values["dial"] = [current_name(entry, RECIPE_KEYS) if isinstance(entry, str) else entry for entry in dial]
    return values


def _updated(base: Recipe, values: dict[str, Any]) -> Recipe:
    """The base updated with these nested values, and validated again; keys that either has set are explicit."""
    merged = _merged(base.model_dump(mode="json"), values)
    return Recipe.model_validate(_with_tuples(merged)).with_explicit(base.explicit | dotted(values).keys())


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    nested = {
        key: _merged(base[key], value)
        for key, value in values.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return base | values | nested


def with_flags(base: Recipe, parsed: Mapping[str, Any], words: Sequence[str]) -> Recipe:
    """The base updated with those parsed values, by dotted key, whose flags occur in these words.

    The parser gives every key a value; only the words of the command line show which keys the user has set.
    """
    flags = {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    given = flags | {re.sub(r"(^|\.)no_(\w+)$", r"\1\2", flag) for flag in flags}
    return with_choices(base, {key: value for key, value in parsed.items() if key in given})


def with_choices(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with a user's choices by dotted key, and with what follows from them."""
    return _updated(recipe, _with_consequences(_nested(changes)))


def _with_consequences(values: dict[str, Any]) -> dict[str, Any]:
    """A user's nested values, and the ones that they imply.

    `min_steps` does not increase chosen `epochs`. The SHA-256 in the recipe that they change is not that of a chosen
    model.
    """
    implied: dict[str, Any] = {"min_steps": 0} if "epochs" in values else {}
    for role in MODEL_ROLES:
        if isinstance(section := values.get(role), dict) and "model" in section:
            values = values | {role: {"sha256": None} | section}
    return implied | values


def recipe_key(name: str) -> str:
    """The recipe's key of a Python keyword: `optim.lr` of `optim__lr`. Raises RecipeError for an unknown one."""
    key = name.replace("__", ".")
    if key not in known_keys(Recipe) and not key.startswith("model."):  # the network checks its own keys
        raise RecipeError(name, f"unknown `{name}`{nearest_key(name, known_keys(Recipe, '__'), '__')}")
    return key


def override(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with values replaced by dotted key, for example `{"optim.lr": 0.1}`, validated again.

    These keys become explicit too.
    """
    return _updated(recipe, _nested(changes))


def _nested(changes: dict[str, Any]) -> dict[str, Any]:
    """The values by dotted key as nested tables."""
    values: dict[str, Any] = {}
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        target = values
        for section in sections:
            if not isinstance(target.get(section), dict):
                target[section] = {}
            target = target[section]
        target[leaf] = value
    return values


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Lines `key: old -> new` for every value that differs and is not FREE_TO_CHANGE.

    Where a model is another one, so that its SHA-256 differs, its location is listed too.
    """
    other_models = {role for role in MODEL_ROLES if getattr(old, role).sha256 != getattr(new, role).sha256}
    free = {key: what for key, what in FREE_TO_CHANGE.items() if key not in other_models}
    flat_old, flat_new = (dotted(recipe.model_dump(mode="json", exclude=free)) for recipe in (old, new))
    return [f"{key}: {flat_old[key]} -> {flat_new[key]}" for key in flat_old if flat_old[key] != flat_new[key]]


def to_toml(recipe: Recipe) -> str:
    """The whole recipe as TOML that `parse_recipe` reads back to an equal recipe.

    Raises UsageError for a path that is not UTF-8, which TOML cannot represent.
    """
    texts = {"name": recipe.name, "data.name": recipe.data.name, "init_from": recipe.init_from}
    texts |= {"teacher.model": recipe.teacher.model, "pretrained.model": recipe.pretrained.model}
    for key, text in texts.items():
        if text is not None and text.encode(errors="replace").decode() != text:
            raise UsageError(f"{key} {text!a} is not UTF-8", hint="rename it, or use a link with another name")
    # tomli-w 1.2 would write each value of an array on its own line: five lines for `widths = [64, 128, 256]`.
    values = recipe.model_dump(mode="json", exclude_none=True)
    sections = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [f"{key} = {_literal(value)}" for key, value in values.items() if key not in sections]
    for name, section in sections.items():
        lines += ["", f"[{name}]", *(f"{key} = {_literal(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    """The value in TOML, which differs from JSON in one character: delete must be escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _with_tuples(value: Any, key: str = "") -> Any:
    """The value with tuples instead of TOML's arrays. Raises RecipeError for integers of more than 64 bits."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise RecipeError(key, f"`{key}`: a whole number of more than 64 bits")
    if isinstance(value, dict):
        return {name: _with_tuples(entry, f"{key}.{name}" if key else name) for name, entry in value.items()}
    return tuple(_with_tuples(entry, key) for entry in value) if isinstance(value, list) else value


def line_of(key: str, text: str, path: Path) -> str:
    """`file:line` of the dotted key in the TOML text, or of its table; only the file if neither occurs."""
    section, lines = "", dict[str, int]()
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.match(r"\s*\[{1,2}([^]#]+)\]", line):
            section = current_name(re.sub(r"[\s\"']", "", header[1]), RECIPE_KEYS)
            lines.setdefault(section, number)
            section += "."
        elif entry := re.match(r"([^=#]+)=", line):
            lines.setdefault(current_name(section + re.sub(r"[\s\"']", "", entry[1]), RECIPE_KEYS), number)
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return f"{path}:{lines[key]}" if key else str(path)
