"""The house stands as CONTRIBUTING.md draws it: files import only files that stand below them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "pocket_resnet"
NAME = "pocket_resnet"


def listed() -> list[str]:
    """The files of the list in CONTRIBUTING.md, top layer first, relative to the package."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = re.search(r"<!-- layers -->(.*?)<!-- /layers -->", text, re.DOTALL)
    assert drawn, "CONTRIBUTING.md has no <!-- layers --> list"
    return re.findall(r"^[-\s]*`([^`]+\.py)`", drawn[1], re.MULTILINE)


def written() -> list[str]:
    return sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def file_of(module: str) -> str | None:
    """`pocket_resnet.data.image` -> `data/image.py`, for modules of the package that exist."""
    relative = "/".join(module.split(".")[1:])
    for candidate in (f"{relative}.py", f"{relative}/__init__.py".lstrip("/")):
        if module.split(".")[0] == NAME and (PACKAGE / candidate).is_file():
            return candidate
    return None


def imports(path: str) -> Iterator[str]:
    """The package's files that this one imports, anywhere in it, for types too."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [module if file_of(module) else str(node.module) for module in modules]
        else:
            continue
        yield from (found for module in modules if (found := file_of(module)))


def test_every_file_is_listed_once_and_exists() -> None:
    assert sorted(listed()) == written()


@pytest.mark.parametrize("path", written())
def test_imports_stand_below(path: str) -> None:
    order = {name: number for number, name in enumerate(listed())}
    above = sorted({found for found in imports(path) if order[found] <= order[path]})
    assert not above, f"{path} imports {', '.join(above)}, which does not stand below it"


@pytest.mark.parametrize(("one", "other"), [("data", "model"), ("model", "data")])
def test_data_and_model_do_not_know_each_other(one: str, other: str) -> None:
    for path in written():
        if path.startswith(f"{one}/"):
            assert not [found for found in imports(path) if found.startswith(f"{other}/")], path


def test_imports_are_seen() -> None:
    """Else the tests above could not fail."""
    assert {"training/run.py", "version.py", "recipe_toml.py"} <= set(imports("__init__.py"))
    assert "data/image.py" in set(imports("predict.py"))
    assert "data/cifar.py" in set(imports("data/source.py"))


def test_no_junk_drawers() -> None:
    for path in written():
        assert not re.search(r"util|common|helper|misc", path), path


def test_files_are_short() -> None:
    for path in written():
        assert len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) <= 300, path


def test_every_file_has_tests_where_contributing_says() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    said = text.split("<!-- elsewhere -->")[1].split("<!-- /elsewhere -->")[0]
    assert all((ROOT / path).is_file() for path in re.findall(r"tests/[\w/]+\.py", said))
    sources = [path for path in written() if (PACKAGE / path).stat().st_size]
    mirrors = {path: ROOT / "tests" / Path(path).with_name(f"test_{Path(path).name}") for path in sources}
    assert {path for path, mirror in mirrors.items() if not mirror.is_file()} == set(re.findall(r"`([^`]+\.py)`", said))


def test_nothing_loads_a_pickle() -> None:
    """Row 29: but CIFAR's restricted unpickler, a class of its own."""
    for path in written():
        text = (PACKAGE / path).read_text(encoding="utf-8")
        assert not re.search(r"torch\.(load|save)\(|pickle\.loads?\(|allow_pickle=True", text), path


def test_files_py_alone_writes() -> None:
    """But for locks, and what TensorBoard writes itself."""
    writers = set()
    for path in written():
        for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            modes = [value for given in (*node.args, *node.keywords) for value in ast.walk(given) if is_writing(value)]
            if (called.endswith("open") and modes) or re.fullmatch(r"(?!files\.).*\.write_(text|bytes)", called):
                writers.add(path)
    assert writers == {"files.py", "locks.py", "download.py"}


def is_writing(node: ast.AST) -> bool:
    """Whether this is a mode in which `open` writes, such as "wb"."""
    return isinstance(node, ast.Constant) and re.fullmatch(r"[wax]b?\+?|r\+b?", str(node.value)) is not None
