"""The packages of the optional extras, and the error if one of them is not installed. This file imports none."""

from importlib.util import find_spec
from typing import Literal

from pocket_resnet.errors import EnvironmentFault

Extra = Literal["export", "executorch", "serve", "hub", "search", "track"]

PACKAGES: dict[Extra, tuple[str, ...]] = {  # as they are imported
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "executorch": ("executorch", "torchao"),
    "serve": ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "onnx", "onnxruntime"),
    "hub": ("huggingface_hub",),
    "search": ("optuna", "psycopg"),
    "track": ("tensorboard",),
}
_SPELLINGS = {"tensorboard": "TensorBoard"}  # in messages


def missing_packages(name: Extra) -> list[str]:
    """The packages of the extra that are not installed."""
    return [package for package in PACKAGES[name] if find_spec(package) is None]


def require_extra(name: Extra, needed_by: str | None = None, *, alternative: str | None = None) -> None:
    """Raise EnvironmentFault if a package of the extra is not installed.

    `needed_by` is what needs it, by default the extra's name. The hint is to install it, or to do the `alternative`.
    """
    if missing := missing_packages(name):
        names = [_SPELLINGS.get(package, package) for package in missing]
        are = "is" if len(missing) == 1 else "are"
        what = f"{needed_by or name} needs {' and '.join(names)}, which {are} not installed"
        hint = f"pip install 'pocket-resnet[{name}]'"
        raise EnvironmentFault(what, hint=f"{hint}, or {alternative}" if alternative else hint)
