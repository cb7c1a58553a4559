"""What the extra `export` installs. Nothing here imports it."""

from importlib.util import find_spec

from pocket_resnet.errors import EnvironmentFault

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_extra() -> None:
    """Raise EnvironmentFault where a package of the extra is not installed."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        what = f"export needs {' and '.join(missing)}, not installed here"
        raise EnvironmentFault(what, hint="pip install 'pocket-resnet[export]'")
