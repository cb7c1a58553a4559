"""The packages of the extras `export`, `executorch` and `serve`, and files that need them. This file imports none."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pocket_resnet.errors import EnvironmentFault

Extra = Literal["export", "executorch", "serve"]

PACKAGES: dict[Extra, tuple[str, ...]] = {
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "executorch": ("executorch", "torchao"),
    "serve": ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "onnx", "onnxruntime"),
}


def missing_packages(name: Extra) -> list[str]:
    """The packages of the extra that are not installed."""
    return [package for package in PACKAGES[name] if find_spec(package) is None]


def require_extra(name: Extra, needed_by: str | None = None) -> None:
    """Raise EnvironmentFault if a package of the extra is not installed. The default of `needed_by` is its name."""
    if missing := missing_packages(name):
        are = "is" if len(missing) == 1 else "are"
        what = f"{needed_by or name} needs {' and '.join(missing)}, which {are} not installed"
        raise EnvironmentFault(what, hint=f"pip install 'pocket-resnet[{name}]'")


def is_exported(path: Path) -> bool:
    """Whether the path is that of an ONNX file, not of a model directory or run."""
    return path.suffix.lower() == ".onnx" and not path.is_dir()
