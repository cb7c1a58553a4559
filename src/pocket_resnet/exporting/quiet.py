"""Silences torch's exporter and onnxruntime's calibration.

They print progress on standard output, where `--json` prints its object, and warn about packages that are not needed.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside the block, nothing is printed on standard output, there are no warnings, and only errors are logged."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
