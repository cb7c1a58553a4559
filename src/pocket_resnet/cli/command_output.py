"""`--json`, `--csv` and `--out FILE`: a command's result as JSON or CSV on standard output or in a file."""

import csv
import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pocket_resnet.cli import streams
from pocket_resnet.errors import UsageError
from pocket_resnet.io.files import SUMS_NAME, explain_os_errors, is_replaced, json_bytes, write_through
from pocket_resnet.io.json_format import json_text
from pocket_resnet.io.progress import print_line

STDOUT = Path("-")
CSV_DECIMALS = 6
OF_A_RUN = ("recipe.toml", "metrics.jsonl", "result.json", "report.html", ".lock")


class CommandOutput:
    """The destination of the JSON or CSV. It is created before a command's work, to refuse a bad file at once."""

    def __init__(self, json: bool, out: Path | None, *, csv: bool = False) -> None:
        if csv and json:
            raise UsageError("--csv and --json cannot be combined", hint="choose one")
        is_stdout = out is not None and _is_stdout(out)
        self.csv = csv
        self.on_stdout = json or is_stdout or (csv and out is None)
        self.file = None if is_stdout else out
        if self.file is not None:
            _check(self.file)

    def write(
        self,
        to_json: Callable[[], Any],
        for_people: Callable[[], None],
        to_rows: Callable[[], Iterable[Sequence[object]]] = tuple,
    ) -> None:
        """Write the file first, so that it exists even if printing fails; then print the result or call `for_people`.

        `to_json` or, for CSV, `to_rows` is called only if its result is needed. The first row has the columns' names.
        """
        if self.file is not None:
            _check(self.file)  # again: the run that it may belong to exists by now
            content = _csv(to_rows()).encode(errors="backslashreplace") if self.csv else json_bytes(to_json())
            write_through(self.file, content)
            print_line(f"wrote {self.file}")
        if self.on_stdout:
            sys.stdout.write(_csv(to_rows()) if self.csv else json_text(to_json(), streams.encoding()))
            sys.stdout.flush()
        else:
            for_people()


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    for row in rows:
        cells = [f"{cell:.{CSV_DECIMALS}f}" if isinstance(cell, float) else cell for cell in row]
        csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _is_stdout(path: Path) -> bool:
    """Whether the path is `-` or the destination of standard output: /dev/stdout, or the file it is redirected to."""
    try:
        return path == STDOUT or os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


def _check(path: Path) -> None:
    """Raise UsageError for a file of a run or model, EnvironmentFault if the path cannot be written."""
    target = Path(os.path.realpath(path))
    with explain_os_errors(path):
        if _belongs_to_a_run_or_model(target):
            raise UsageError("this file belongs to a run or model", where=path, hint="choose another name")
        if is_replaced(path):  # by a new file in the same folder
            folder = next(parent for parent in target.parents if parent.exists())
            if not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _belongs_to_a_run_or_model(target: Path) -> bool:
    if (target.parent / SUMS_NAME).exists():
        return target.exists()
    return (target.parent / "recipe.toml").exists() and target.name in OF_A_RUN
