"""The names of runs' folders: NAME, NAME-2, ..., the folder to train in, and the one to resume."""

import logging
import re
from dataclasses import replace
from pathlib import Path

from pocket_resnet.data.source import Source
from pocket_resnet.errors import UsageError, listed
from pocket_resnet.io.locks import is_in_use
from pocket_resnet.model.step_folders import recorded_fingerprint
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import load_recipe, to_toml
from pocket_resnet.training.run_folder import LATEST, RunFolder

_log = logging.getLogger(__name__)


def choose_folder(runs_dir: Path, recipe: Recipe, source: Source, run: str | None, resume: bool) -> RunFolder:
    """The folder to train in: the named one, or the first of NAME, NAME-2, ... after the last that a run has used.

    When resuming, it is the last one with a checkpoint or a result, or that of a run on the same data under an earlier
    name, or else the last one that a run has used.
    """
    to_toml(recipe)  # raises UsageError for values that TOML cannot represent, before any work
    if run is not None:
        return RunFolder(_named_folder(runs_dir, run, resume=resume), resumes=resume)
    folder = RunFolder(_default_folder(runs_dir, recipe, source, resume=resume), resumes=resume)
    if resume and folder.is_new:  # expected, as in `make quickstart`
        _log.info(f"nothing to resume in {folder.path}: starting a new run")
        return replace(folder, resumes=False)
    return folder


def _named_folder(runs_dir: Path, run: str, *, resume: bool) -> Path:
    """The folder of that name, or the one that it links to. Raises UsageError if no run can train there."""
    if not run or Path(run).name != run or run.startswith("."):
        raise UsageError(f"run name {run!r} is not a plain folder name", hint="use letters, digits, - and _")
    path = runs_dir / run
    is_used = RunFolder(path).is_used
    if run == LATEST and not (path.is_symlink() and is_used):
        what = f"not a link to a run, and the name `{LATEST}` is reserved for the link to the newest one"
        raise UsageError(what, where=path, hint="choose another --run name")
    if is_used and not resume:
        raise UsageError(
            "this run already exists",
            where=path,
            hint="add --resume (in Python: resume=True), or choose another --run name",
        )
    return runs_dir / path.readlink() if path.is_symlink() else path


def _default_folder(runs_dir: Path, recipe: Recipe, source: Source, *, resume: bool) -> Path:
    """The folder of a run whose name was not given."""
    name, data = (re.sub(r"[^\w-]+", "-", text).strip("-") for text in (recipe.name, Path(source.name).name))
    base = f"{name}-{data}-seed{recipe.seed}"
    folders = _numbered(runs_dir, base)
    if resume:
        if resumable := [folder.path for folder in folders.values() if folder.can_be_resumed]:
            return resumable[-1]
        if moved := _run_on_moved_data(runs_dir, name, recipe, source):
            return moved
    used = [number for number, folder in folders.items() if folder.is_used or is_in_use(folder.path)]
    number = max(used, default=0) + (0 if used and resume else 1)
    path = runs_dir / (base if number == 1 else f"{base}-{number}")
    if used and not resume:
        _log.info(f"{folders[max(used)].path} exists: this run goes to {path}")
    return path


def _numbered(runs_dir: Path, base: str) -> dict[int, RunFolder]:
    """The folders BASE, BASE-2, ... by number, in its order; there may be gaps."""
    folders = {}
    for path in runs_dir.glob(f"{base}*"):
        if match := re.fullmatch(rf"{re.escape(base)}(?:-([2-9]|[1-9]\d+))?", path.name):
            folders[int(match[1] or 1)] = RunFolder(path)
    return dict(sorted(folders.items()))


def _run_on_moved_data(runs_dir: Path, name: str, recipe: Recipe, source: Source) -> Path | None:
    """The run of that recipe and seed on the same data in another place. Raises UsageError for several."""
    pattern = re.compile(rf"{re.escape(name)}-.*-seed{recipe.seed}(-\d+)?")
    paths = [
        path
        for path in sorted(runs_dir.glob(f"{name}-*"))
        if pattern.fullmatch(path.name)
        and source.has_fingerprint(recorded_fingerprint(path / "checkpoints"))
        and load_recipe(str(path / "recipe.toml")).name == recipe.name
    ]
    if len(paths) > 1:
        names = listed([path.name for path in paths], ", ")
        raise UsageError(f"several runs use these data: {names}", where=runs_dir, hint="choose one with --run")
    return paths[0] if paths else None
