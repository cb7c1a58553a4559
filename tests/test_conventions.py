"""Habits of CONTRIBUTING.md that a test can hold; import-linter holds the order of imports."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "pocket_resnet"


def written() -> list[str]:
    paths = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
    assert "cli/main.py" in paths
    return paths


def test_files_and_functions_are_short() -> None:
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "tools").glob("*.py"), *(ROOT / "tests").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "tests" not in path.parts:
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 40, f"{path}: {node.name}"


@pytest.mark.threat(29)
def test_nothing_loads_a_pickle() -> None:
    """But CIFAR's restricted unpickler, a class of its own."""
    for path in written():
        text = (PACKAGE / path).read_text(encoding="utf-8")
        assert not re.search(r"torch\.(load|save)\(|pickle\.loads?\(|allow_pickle=True", text), path


def test_only_files_py_writes() -> None:
    """Except locks, and files that TensorBoard writes itself."""
    writers = set()
    for path in written():
        for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            modes = [value for given in (*node.args, *node.keywords) for value in ast.walk(given) if is_writing(value)]
            if (called.endswith("open") and modes) or re.fullmatch(r"(?!files\.).*\.write_(text|bytes)", called):
                writers.add(path)
    assert writers == {"io/files.py", "io/locks.py"}


def is_writing(node: ast.AST) -> bool:
    """Whether this is a mode in which `open` writes, such as "wb"."""
    return isinstance(node, ast.Constant) and re.fullmatch(r"[wax]b?\+?|r\+b?", str(node.value)) is not None
