"""Parses a command's arguments with tyro, and rewrites its errors like all others: what is wrong, and how to fix it."""

import contextlib
import io
import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import tyro

from pocket_resnet.data.names import NAMES
from pocket_resnet.errors import UsageError, did_you_mean
from pocket_resnet.io.files import expanded
from pocket_resnet.recipe.schema import parse_count
from pocket_resnet.recipe.toml import is_recipe, saved_recipe

TAKE_RECIPE = ("train", "search")
TAKE_DATA = ("train", "search", "evaluate", "report", "export")
TAKE_BUDGET = ("train", "search", "design")


def parse(kind: Any, words: Sequence[str], arguments: Sequence[str], description: str | None = None) -> Any:
    """An object of this class with its fields from the arguments.

    `words` are the command's name and all its arguments, for hints. Raises UsageError for a wrong value, word or flag.
    """
    prog = f"pocket-resnet {words[0]}{' [RECIPE]' * (words[0] in TAKE_RECIPE)}"
    with _explained(words, kind):
        return tyro.cli(kind, args=arguments, prog=prog, description=description)


def refuse_misplaced(words: Sequence[str], word: str) -> None:
    """Raise UsageError with the right command line if the word is data or a count that belongs after a flag."""
    if line := _right_line(words, word):
        raise UsageError(f"`{word}` is not expected here", hint=f"you may mean: {line}")


def default_recipe(words: Sequence[str]) -> str:
    """The recipe of `train` or `search` without RECIPE: the one saved by the run to resume, `finetune` or `fast`."""
    runs_dir, run = _values(words, "--runs-dir") or ["runs"], _values(words, "--run")
    resumes = bool(run) and not {"--resume", "--fork"}.isdisjoint(words)
    saved = saved_recipe(runs_dir[0], run[0]) if resumes else None
    return saved or ("finetune" if _values(words, "--from") else "fast")


@contextlib.contextmanager
def _explained(words: Sequence[str], kind: Any) -> Iterator[None]:
    """Inside the block, tyro's errors are UsageErrors; the hook is private, and without it, tyro's own text appears."""
    hooks: Any = getattr(tyro, "_errors", None)
    if hooks is None:
        yield
        return
    with hooks.on_parse_error(lambda event: _refuse(event, words, kind)):
        yield


def _refuse(event: Any, words: Sequence[str], kind: Any) -> None:
    """Raise UsageError for an error that tyro reports."""
    see_help = f"see pocket-resnet {words[0]} --help"
    if words[0] == "summary" and (budget := _values(words, "--budget")):
        raise UsageError(
            "summary has no --budget", hint=f"for the network of a budget: pocket-resnet design --budget {budget[0]}"
        )
    match type(event).__name__:
        case "UnrecognizedArgs" if not any(token.startswith("-") for token in event.tokens):
            refuse_misplaced(words, event.tokens[0])
            raise UsageError(f"`{event.tokens[0]}` is not expected here", hint=see_help)
        case "UnrecognizedArgs":
            flag = next(token for token in event.tokens if token.startswith("-")).partition("=")[0]
            raise UsageError(f"unknown option `{flag}`{did_you_mean(flag, _flags(kind))}", hint=see_help)
        case "InvalidChoice":
            choices = sorted({*event.choices} - {"None"})
            what = f"`{event.value}` is not possible{did_you_mean(event.value, choices)}"
            raise UsageError(what, where=_name(event.argument), hint=f"choose one of {', '.join(choices)}")
        case "InstantiationFailure" if event.argument is not None:
            raise _wrong_value(event, words, see_help)
        case "MissingArgs":
            missing = " and ".join(_name(each.arg) for each in event.missing_arguments)
            raise UsageError(f"missing: {missing}", hint=see_help)
        case "BadValue" if event.argument.is_positional():
            raise UsageError(f"missing: {_name(event.argument)}", hint=see_help)
        case "BadValue":
            raise UsageError("the value is missing", where=_name(event.argument), hint=see_help)


def _flags(kind: Any) -> set[str]:
    """All flags of the class, read from its help."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(kind, args=["--help"])
    rows = re.findall(r"^[│\s]*((?:--[a-z][\w.-]*\w(?:, )?)+)", text.getvalue(), re.MULTILINE)
    return {flag for row in rows for flag in row.split(", ")}


def _wrong_value(event: Any, words: Sequence[str], see_help: str) -> UsageError:
    flag, leaves = _name(event.argument), _leaves(event.argument.field.type)
    kind = "whole number" if int in leaves else "number" if float in leaves else None
    values = _values(words, flag)
    if kind is None or not values:
        return UsageError(event.message.partition("\n")[0], where=flag, hint=see_help)
    if event.argument.lowered.nargs != 1:
        return UsageError(f"`{' '.join(values)}` is not a list of {kind}s", where=flag, hint=see_help)
    value = values[0]
    hint = f"write all digits: {flag} {parse_count(value)}" if re.fullmatch(r"\d+[kKmM]", value) else see_help
    return UsageError(f"`{value}` is not a {kind}", where=flag, hint=hint)


def _name(argument: Any) -> str:
    """The flag, or the name of a positional argument in the help."""
    return str(argument.lowered.metavar if argument.is_positional() else argument.lowered.name_or_flags[-1])


def _values(words: Sequence[str], flag: str) -> list[str]:
    """The words that follow the flag, up to the next flag; of a flag with one value, the first is the value."""
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            following = itertools.takewhile(lambda each: not each.startswith("--"), words[number + 1 :])
            return [value] if equals else list(following)
    return []


def _leaves(annotation: Any) -> set[Any]:
    """The types that a type consists of: int of `Annotated[tuple[int, ...] | None, ...]`."""
    inner = get_args(annotation)
    return set().union(*map(_leaves, inner)) if inner else {annotation} if isinstance(annotation, type) else set()


def _right_line(words: Sequence[str], word: str) -> str | None:
    """The command line with the word in its place: RECIPE first, data after --data, a count after --budget."""
    name, *rest = words
    if word not in rest:
        return None
    rest.remove(word)
    has_recipe = bool(rest) and not rest[0].startswith("-")
    if name in TAKE_RECIPE and is_recipe(word):
        return None if has_recipe else shlex.join(["pocket-resnet", name, word, *rest])
    if name in TAKE_DATA and _is_data(word):
        return shlex.join(["pocket-resnet", name, *rest, "--data", word])
    if name in TAKE_BUDGET and re.fullmatch(r"\d[\d_.]*[kKmMgG]?", word):
        return shlex.join(["pocket-resnet", name, *rest, "--budget", word])
    return None


def _is_data(word: str) -> bool:
    folder = expanded(word)
    is_run = (folder / "recipe.toml").exists()
    return word in NAMES or (folder.is_dir() and not is_run)
