"""Pillow's warnings are ignored while it decodes for us, and the caller's filters are back afterwards."""

import io
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from PIL import Image

from pocket_resnet.data import pillow_warnings
from pocket_resnet.data.image import decode


@pytest.mark.threat(56)
def test_the_callers_filters_are_restored_in_any_order() -> None:
    """Of decoders in several threads too, whose calls overlap."""
    before, order = list(warnings.filters), threading.Barrier(2, timeout=10)

    def decode_in_turn(is_first: bool) -> None:
        with ExitStack() as stack:
            if is_first:
                stack.enter_context(pillow_warnings.ignored())
            order.wait()
            if not is_first:
                stack.enter_context(pillow_warnings.ignored())
            order.wait()
            if is_first:
                stack.close()
            order.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(decode_in_turn, (True, False)))
    assert list(warnings.filters) == before


def test_decoding_does_not_depend_on_filters_or_change_them() -> None:
    """A damaged EXIF block does not matter, also where warnings are errors."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, format="JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        assert decode(buffer.getvalue()).shape == (4, 4, 3)
        assert list(warnings.filters) == before
