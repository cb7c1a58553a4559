"""The packages of the extras `export` and `serve`. This file imports none of them."""

from importlib.util import find_spec
from typing import Literal

from pocket_resnet.errors import EnvironmentFault

PACKAGES = {
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "serve": ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "onnx", "onnxruntime"),
}


def require_extra(name: Literal["export", "serve"]) -> None:
    """Raise EnvironmentFault if a package of the extra is not installed."""
    if missing := [package for package in PACKAGES[name] if find_spec(package) is None]:
        what = f"{name} needs {' and '.join(missing)}, which is not installed"
        raise EnvironmentFault(what, hint=f"pip install 'pocket-resnet[{name}]'")
