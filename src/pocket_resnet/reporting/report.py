"""One HTML file, and its pictures, about a finished run; or about several, compared.

It opens from disk, without a network: pictures are inside, and beside it as PNG files in plots/.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from pocket_resnet.errors import UsageError
from pocket_resnet.io.files import expanded, write_bytes
from pocket_resnet.reporting.one_run import run_page
from pocket_resnet.reporting.page import render
from pocket_resnet.reporting.several_runs import runs_page
from pocket_resnet.torch_settings import own_settings
from pocket_resnet.training.saved_run import opener, read_run

PAGE_NAME, PLOTS_NAME = "report.html", "plots"


@own_settings()
def write_report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    data: str | Path | None = None,
) -> Path:
    """Write the report on the finished runs in these folders, or in one, and return the page's path.

    It goes to `out`; by default to the run's own folder, or of several to `report` beside the first. `data` says where
    the runs' data are now. Raises PocketError where a run is not finished or damaged, or its data are not there or have
    changed.
    """
    given = [expanded(path) for path in ([runs] if isinstance(runs, str | Path) else runs)]
    paths = list({os.path.realpath(path): path for path in reversed(given)}.values())[::-1]
    if not paths:
        raise UsageError("no runs", hint="give the folders of finished runs")
    open_data = opener(data_dir)
    first, *others = [read_run(path, open_data, data) for path in paths]
    first.hardware.use_threads()
    page = runs_page([first, *others]) if others else run_page(first)
    html = render("runs" if others else "run", page)
    folder = expanded(out) if out else (paths[0].parent / "report" if others else paths[0])
    for name, picture in page.pictures.items():
        write_bytes(folder / PLOTS_NAME / f"{name}.png", picture.png)
    write_bytes(folder / PAGE_NAME, html.encode("utf-8", "replace"))
    return folder / PAGE_NAME
