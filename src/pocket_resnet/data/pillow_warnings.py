"""Pillow's warnings, ignored while it decodes for us and by nobody else.

Pillow warns of very large images, all of which our own limits refuse, and of damaged EXIF blocks, which do not matter.
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
    """Inside, Pillow's warnings are ignored. When the last thread leaves, the caller's filters are back.

    `warnings.catch_warnings` alone would leave its filter behind where two threads overlap.
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
