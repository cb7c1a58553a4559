"""The command line: from its words to a verb of verbs.py; the only place that prints errors and exits."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from pocket_resnet import show
from pocket_resnet.errors import EnvironmentFault, PocketError, UsageError, did_you_mean
from pocket_resnet.recipe_toml import load_recipe, with_flags
from pocket_resnet.verbs import VERBS, Train
from pocket_resnet.version import __version__

DEFAULT_RECIPE = "fast"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the verb of the command line; exits with the code of what went wrong, see errors.py."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        _dispatch([argument for argument in arguments if argument != "--debug"])
        sys.stdout.flush()
    except PocketError as error:
        _fail(error, str(error), error.exit_code, debug)
    except KeyboardInterrupt as error:
        _fail(error, "stopped", 128 + signal.SIGINT, debug)
    except BrokenPipeError:  # the reader of our output has gone: `pocket-resnet summary original | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:  # of a path that was given: too long a name, a folder that may not be entered
        _fail(error, f"{error.filename or 'error'}: {error.strerror or error}", EnvironmentFault.exit_code, debug)


def _dispatch(arguments: list[str]) -> None:
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        show.overview({name: (command.__doc__ or "").splitlines()[0] for name, command in VERBS.items()})
    elif verb == "--version":
        print(f"pocket-resnet {__version__}")
    elif verb in VERBS:
        _parse(verb, arguments[1:]).run_verb()
    else:
        raise UsageError(f"unknown verb `{verb}`{did_you_mean(verb, VERBS)}", mend="see pocket-resnet --help")


def _parse(verb: str, arguments: list[str]) -> Any:
    """The verb's filled-in class; tyro itself explains unknown flags and exits with 2."""
    default = None
    if verb == "train":
        named = bool(arguments) and not arguments[0].startswith("-")
        default = Train(load_recipe(arguments.pop(0) if named else DEFAULT_RECIPE))
    if verb == "evaluate":
        arguments = _complete_bare_json(arguments)
    prog = f"pocket-resnet {verb}" + (" [RECIPE]" if verb == "train" else "")
    found = tyro.cli(VERBS[verb], args=arguments, default=default, prog=prog)
    if default is not None:
        found.recipe = with_flags(default.recipe, found.recipe, arguments)
    return found


def _complete_bare_json(arguments: list[str]) -> list[str]:
    """`--json` without a file means standard output, which is spelled `-`; a folder after it is the model."""
    completed = []
    for word, following in zip(arguments, [*arguments[1:], "--"], strict=False):
        bare = word == "--json" and (following.startswith("--") or Path(following).is_dir())
        completed += ["--json", "-"] if bare else [word]
    return completed


def _fail(error: BaseException, message: str, exit_code: int, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    print(f"pocket-resnet: {message}", file=sys.stderr)
    sys.exit(exit_code)
