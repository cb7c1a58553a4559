"""Error messages, hints and exit codes."""

import ast
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocket_resnet import errors
from pocket_resnet.data.image import ImageError
from pocket_resnet.errors import ArtifactError, DataError, PocketError, Stopped, counted, did_you_mean
from pocket_resnet.recipe.base import RecipeError
from pocket_resnet.training.checkpoint import NewerFormatError

PACKAGE = Path(errors.__file__).parent


def test_message() -> None:
    assert str(PocketError("broken")) == "broken"
    assert str(DataError("broken", where="a.png")) == "a.png: broken"
    assert str(DataError("broken", where=Path("a.png"), hint="hint it")) == "a.png: broken\n  hint it"
    error = DataError("broken", where="a.png", hint="hint it")
    assert (error.what, error.where, error.hint) == ("broken", "a.png", "hint it")


@pytest.mark.parametrize(
    ("name", "code"),
    [("UsageError", 2), ("DataError", 3), ("ArtifactError", 4), ("EnvironmentFault", 5), ("NonFiniteError", 1)],
)
def test_exit_codes(name: str, code: int) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, PocketError)
    assert kind("x").exit_code == code


def test_stopped_has_the_signal_s_code() -> None:
    assert [Stopped(number, "x").exit_code for number in (2, 15)] == [130, 143]


def test_counted() -> None:
    counts = [counted(number, noun) for number, noun in ((1, "step"), (1200, "step"), (1, "class"), (0, "class"))]
    assert counts == ["1 step", "1,200 steps", "1 class", "0 classes"]


def test_did_you_mean() -> None:
    assert did_you_mean("lerning_rate", ["lr", "learning_rate"]) == ", did you mean `learning_rate`?"
    assert did_you_mean("xyz", ["lr", "learning_rate"]) == ""
    assert did_you_mean("x", []) == ""


def kinds(of: type[PocketError] = PocketError) -> Iterator[type[PocketError]]:
    yield of
    for kind in of.__subclasses__():
        yield from kinds(kind)


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_errors_cross_process_borders(kind: type[PocketError]) -> None:
    """Whatever the arguments of a kind, a worker's error arrives whole."""
    parameters = inspect.signature(kind).parameters
    error = kind(**{name: 15 if each.annotation is int else f"its {name}" for name, each in parameters.items()})
    received = pickle.loads(pickle.dumps(error))
    assert type(received) is kind
    assert (str(received), vars(received)) == (str(error), vars(error))


def test_every_error_says_how_to_fix_it() -> None:
    """In the call or through its class; except `Stopped`, whose only caller passes both."""
    by_name = {kind.__name__: kind for kind in kinds()}
    assert {"ArtifactError", "ImageError", "RecipeError", "NewerFormatError"} <= by_name.keys()
    silent, num_made = [], 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            kind = by_name.get(node.func.id) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
            if kind is not None:
                num_made += 1
                if kind.usual_hint is None and "hint" not in {keyword.arg for keyword in node.keywords}:
                    silent.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert num_made > 80
    assert silent == []


def test_hints_begin_in_lower_case() -> None:
    """They continue the line above them, without a full stop."""
    code = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert re.findall(r"""hint ?= ?\(?\s*f?["'][A-Z][a-z].*|what, hint = .*, f?["'][A-Z][a-z].*""", code) == []


@pytest.mark.parametrize("error", [ArtifactError("x"), ImageError("x"), RecipeError("key", "x"), NewerFormatError("x")])
def test_usual_hint_is_printed(error: PocketError) -> None:
    assert str(error) == f"x\n  {error.usual_hint}"


def test_own_hint_overrides_the_usual() -> None:
    assert str(ArtifactError("x", hint="my own")) == "x\n  my own"
