"""The packages of the extras `export` and `serve`, and the files that need them. This file imports none of them."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pocket_resnet.errors import EnvironmentFault

Extra = Literal["export", "serve"]

PACKAGES: dict[Extra, tuple[str, ...]] = {
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "serve": ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "onnx", "onnxruntime"),
}


def missing_packages(name: Extra) -> list[str]:
    """The packages of the extra that are not installed."""
    return [package for package in PACKAGES[name] if find_spec(package) is None]


def require_extra(name: Extra) -> None:
    """Raise EnvironmentFault if a package of the extra is not installed."""
    if missing := missing_packages(name):
        what = f"{name} needs {' and '.join(missing)}, which is not installed"
        raise EnvironmentFault(what, hint=f"pip install 'pocket-resnet[{name}]'")


def is_exported(path: Path) -> bool:
    """Whether the path is that of an ONNX file, not of a model directory or run."""
    return path.suffix.lower() == ".onnx" and not path.is_dir()
