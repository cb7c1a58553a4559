"""Parses the command line and runs a command of cli/commands.py; the only place that prints errors and exits."""

import contextlib
import dataclasses
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pocket_resnet.cli import console, streams
from pocket_resnet.cli.commands import COMMANDS
from pocket_resnet.cli.parsing import default_recipe, parse, refuse_misplaced
from pocket_resnet.cli.search import Search
from pocket_resnet.cli.train import Train
from pocket_resnet.cli.train_flags import parse_with_recipe
from pocket_resnet.errors import EnvironmentFault, PocketError, UsageError, did_you_mean
from pocket_resnet.io.files import expanded
from pocket_resnet.recipe.toml import is_recipe, load_recipe
from pocket_resnet.training.signals import second_signal_exits
from pocket_resnet.tuning.space import space_beside
from pocket_resnet.version import __version__


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command in `argv`; on failure, exit with the error's code (see errors.py)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    streams.prepare()
    os.environ.pop("MPLBACKEND", None)  # set by notebooks for their child processes; our figures need no backend
    with console.log_to_terminal(), second_signal_exits():
        code = _exit_code(arguments)
    if code:
        sys.exit(code)


def _exit_code(arguments: list[str]) -> int:
    debug, code = "--debug" in arguments, 0
    try:
        try:
            _dispatch([argument for argument in arguments if argument != "--debug"], debug)
        except SystemExit as ending:  # raised by tyro after --help
            if isinstance(ending.__context__, BrokenPipeError):  # raised by rich: the reader of our output has gone
                raise ending.__context__ from None
            code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        streams.flush()
    except PocketError as error:
        return _failed(error, str(error), error.exit_code, debug)
    except KeyboardInterrupt as error:
        return _failed(error, "stopped", 128 + signal.SIGINT, debug)
    except BrokenPipeError:  # the reader of our output has gone: `pocket-resnet summary original | head`
        streams.discard(sys.stdout, sys.stderr)
        return streams.READER_GONE
    except OSError as error:  # from a path that was given: its name is too long, or access is denied
        what = f"{error.filename or 'error'}: {error.strerror or error}"
        return _failed(error, what, EnvironmentFault.exit_code, debug)
    return code


def _dispatch(arguments: list[str], debug: bool) -> None:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        console.print_overview({name: (command.__doc__ or "").splitlines()[0] for name, command in COMMANDS.items()})
    elif name == "--version":
        print(f"pocket-resnet {__version__}")
    elif name in COMMANDS:
        command = parse_command(name, arguments[1:])
        command.debug = debug
        command.execute()
    else:
        raise UsageError(f"unknown command `{name}`{did_you_mean(name, COMMANDS)}", hint="see pocket-resnet --help")


def parse_command(name: str, arguments: list[str]) -> Any:
    """The command with its arguments filled in."""
    if name in ("train", "search"):
        named = bool(arguments) and not arguments[0].startswith("-")
        words = [name, *arguments]
        if named and not is_recipe(arguments[0]):
            refuse_misplaced(words, arguments[0])
        recipe = load_recipe(given := arguments.pop(0) if named else default_recipe(words))
        default = Train(recipe) if name == "train" else Search(recipe, space=space_beside(given))
        command: Any = parse_with_recipe(default, words, arguments)
    else:
        command = parse(COMMANDS[name], [name, *arguments], arguments)
    for field in dataclasses.fields(command):
        setattr(command, field.name, _with_home(getattr(command, field.name)))
    return command


def _with_home(value: Any) -> Any:
    """A flag's value with `~` expanded in paths, which shells do not do in `--out=~/result.json`."""
    if isinstance(value, tuple):
        return tuple(map(_with_home, value))
    return expanded(value) if isinstance(value, Path) else value


def _failed(error: BaseException, message: str, exit_code: int, debug: bool) -> int:
    with contextlib.suppress(OSError):  # a terminal that was closed
        streams.flush()
    with contextlib.suppress(OSError):
        if debug:
            traceback.print_exception(error)
        print(f"pocket-resnet: {message}", file=sys.stderr, flush=True)
    return exit_code
