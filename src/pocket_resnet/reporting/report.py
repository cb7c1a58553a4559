"""Writes the HTML report on a finished run, on several, compared, or on a search.

The page works offline. It contains its pictures, which are also written to plots/ as PNG files.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pocket_resnet.errors import UsageError
from pocket_resnet.inference.evaluation import Evaluation
from pocket_resnet.io.files import expanded, write_bytes
from pocket_resnet.reporting.one_run import run_page
from pocket_resnet.reporting.page import render
from pocket_resnet.reporting.search import search_page
from pocket_resnet.reporting.several_runs import runs_page
from pocket_resnet.torch_settings import own_settings
from pocket_resnet.training.result import Result
from pocket_resnet.training.saved_run import opener, read_run
from pocket_resnet.tuning.record import is_search

PAGE_NAME, PLOTS_NAME = "report.html", "plots"


@own_settings()
def write_report(
    runs: str | Path | Result | Sequence[str | Path | Result],
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    evaluation: Evaluation | None = None,
) -> Path:
    """Write the report on the finished runs in these folders, or on the search in one, and return the page's path.

    A run may also be given by the Result that `train` returned.
    The page goes to `out`, by default to the run's folder, or to `report` beside the first of several runs. `data` is
    the current location of the runs' data; `device` computes the predictions, except for a single run whose
    `evaluation` in fp32 is at hand, as after its training. Raises PocketError if a run is not
    finished or is damaged, or if its data is missing or has changed.
    """
    given = [_folder(run) for run in (runs if isinstance(runs, Iterable) and not isinstance(runs, str) else [runs])]
    paths = list({os.path.realpath(path): path for path in reversed(given)}.values())[::-1]
    if not paths:
        raise UsageError("no runs", hint="give the folders of finished runs")
    if len(paths) == 1 and is_search(paths[0]):
        return _write(expanded(out) if out else paths[0], "search", search_page(paths[0]))
    open_data = opener(data_dir)
    if evaluation is not None and len(paths) > 1:
        raise UsageError("several runs have no common one", where="evaluation", hint="omit it")
    first, *others = [read_run(path, open_data, data, device, evaluation) for path in paths]
    first.hardware.use_threads()
    if others:
        return _write(expanded(out) if out else paths[0].parent / "report", "runs", runs_page([first, *others]))
    return _write(expanded(out) if out else paths[0], "run", run_page(first))


def _folder(run: str | Path | Result) -> Path:
    return run.folder if isinstance(run, Result) else expanded(run)


def _write(folder: Path, template: str, page: Any) -> Path:
    """Write the page and its pictures, and return the page's path."""
    html = render(template, page)
    for name, picture in page.pictures.items():
        write_bytes(folder / PLOTS_NAME / f"{name}.png", picture.png)
    write_bytes(folder / PAGE_NAME, html.encode("utf-8", "replace"))
    return folder / PAGE_NAME
