"""Ignores Pillow's warnings, only while it decodes for us.

Pillow warns about very large images, which our own limits refuse, and about damaged EXIF blocks, which do not matter.
"""

import contextlib
import threading
import warnings
from collections.abc import Iterator

_lock = threading.Lock()
_filters = contextlib.ExitStack()
_num_decoding = 0


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Ignore Pillow's warnings within this context; the last thread to leave restores the caller's filters.

    `warnings.catch_warnings` alone would leave its filter behind if two threads overlap.
    """
    global _num_decoding
    with _lock:
        if _num_decoding == 0:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _num_decoding += 1
    try:
        yield
    finally:
        with _lock:
            _num_decoding -= 1
            if _num_decoding == 0:
                _filters.close()
