"""Runs main.ipynb and stores its outputs in it: `make notebook`."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[1] / "main.ipynb"


def executed(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """The notebook with new outputs, run in the folder; without times, which would differ with every run.

    Raises nbclient.exceptions.CellExecutionError if a cell fails.
    """
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=3600, record_timing=False, coalesce_streams=True, resources=resources)
    return client.execute()


if __name__ == "__main__":
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.write(executed(notebook, NOTEBOOK.parent), NOTEBOOK)  # type: ignore[no-untyped-call]
