"""The packages of the extra `export`. This file imports none of them."""

from importlib.util import find_spec

from pocket_resnet.errors import EnvironmentFault

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def missing_packages() -> list[str]:
    """The packages of the extra that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def require_extra() -> None:
    """Raise EnvironmentFault if a package of the extra is not installed."""
    if missing := missing_packages():
        what = f"export needs {' and '.join(missing)}, which is not installed"
        raise EnvironmentFault(what, hint="pip install 'pocket-resnet[export]'")
