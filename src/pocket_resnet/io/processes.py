"""Starts processes that run only this package, not the caller's script."""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def hidden_main() -> Iterator[None]:
    """Keep a process that starts inside the block from running the caller's script again, as `spawn` would."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
