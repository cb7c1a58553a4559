"""main.ipynb runs from first cell to last, and is committed with outputs, small, and without local paths."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from tools.notebook import executed

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "main.ipynb"
MAX_BYTES = 1_000_000
FEW_STEPS = """
DATA, CHANGES = "auto", {"epochs": 2, "min_steps": 0, "norm_images": 64, "budget": "20K"}
ORIGINAL = {"max_steps": 1, "budget": "100K"}
"""
OF_A_MACHINE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|usr|opt|mnt|var|data)/|[A-Z]:\\\\|\bfile:|\x1b")


def committed() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def texts(notebook: NotebookNode) -> str:
    """All text in the notebook, without pictures."""
    texts = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            plain = output.get("data", {}).get("text/plain", "")
            texts += [output.get("text", ""), plain, "\n".join(output.get("traceback", []))]
    return "\n".join(texts)


def kinds(notebook: NotebookNode) -> list[list[str]]:
    """The kinds of output of each code cell, without warnings and progress."""
    return [
        sorted({"picture" if "image/png" in output.get("data", {}) else output.output_type for output in cell.outputs
                if output.get("name") != "stderr"})
        for cell in notebook.cells if cell.cell_type == "code"
    ]  # fmt: skip


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the digits, offline and with a small model: each cell gives the same kinds of output as the committed one."""
    monkeypatch.setenv("POCKET_RESNET_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "home").mkdir()
    notebook = committed()
    [settings] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    settings.source += f"\n{FEW_STEPS}"
    for cell in notebook.cells:
        cell.update({"outputs": []} if cell.cell_type == "code" else {})
    done = executed(notebook, tmp_path)
    assert "digits: 1,197 training" in texts(done)
    assert kinds(done) == kinds(committed())
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("home", "data")] == ["runs"]


def test_a_failing_cell_is_detected(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        executed(notebook, tmp_path)


def test_committed_outputs_are_complete_in_order_and_small() -> None:
    code = [cell for cell in committed().cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum("picture" in kind for kind in kinds(committed())) == 10
    assert not [cell.source for cell in code if any(output.output_type == "error" for output in cell.outputs)]
    assert "cifar10: 45,000 training and 5,000 validation images" in texts(committed())
    assert NOTEBOOK.stat().st_size <= MAX_BYTES


def test_committed_notebook_knows_no_machine() -> None:
    """No path, no colour code, no time of day, no user."""
    notebook = committed()
    assert OF_A_MACHINE.findall(texts(notebook)) == []
    assert not [cell for cell in notebook.cells if "execution" in cell.metadata]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", ["/home/me/x.py", "in /tmp/ipykernel_3/1.py", r"C:\\Users", "\x1b[31mred"])
def test_local_paths_are_detected(path: str) -> None:
    assert OF_A_MACHINE.search(path)
    assert not OF_A_MACHINE.search("runs/home/, https://example.org/tmp/ and a/opt/b")


def test_it_imports_only_the_public_package() -> None:
    code = "\n".join(cell.source for cell in committed().cells if cell.cell_type == "code")
    imported = {
        f"{node.module}.{each.name}" if isinstance(node, ast.ImportFrom) else each.name
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for each in node.names
    }
    ours = {name for name in imported if name.startswith(("pocket_resnet", "tools"))}
    assert ours == {"pocket_resnet", "pocket_resnet.plots"}


def test_its_links_resolve() -> None:
    targets = re.findall(r"\]\(([^)\s:]+)\)", texts(committed()))
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
