"""Silences torch's exporter, onnxruntime's calibration and ExecuTorch.

They print progress on standard output, where `--json` prints its object, and warn about packages that are not needed.
ExecuTorch gives the root logger a handler when it is imported, which would print our messages a second time.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside the block, nothing is printed on standard output, there are no warnings, and only errors are logged.

    Afterwards, the root logger has its handlers and level again.
    """
    root = logging.root
    disabled, handlers, level = root.manager.disable, list(root.handlers), root.level
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
