"""The pixels of a JPEG: all of them, or an error.

Pillow fills what is missing with grey and hides the decoder's warnings. simplejpeg has the same decoder,
libjpeg-turbo, and raises them. All of simplejpeg lives here.
"""

import numpy as np
import simplejpeg
from numpy.typing import NDArray

FORMATS = ("JPEG", "MPO")  # as Pillow names them; an MPO is a JPEG with further ones behind it
SCALES = (8, 4, 2, 1)  # a side is decoded at 1/scale
_END = b"\xff\xd9"
_NO_END = "Premature end of JPEG file"
_SEQUENTIAL = (0xC0, 0xC1)
_OTHER_FRAMES = (0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
_SCAN = 0xDA


def read_pixels(content: bytes, width: int, height: int, *, scale: int = 1, is_cmyk: bool = False) -> NDArray[np.uint8]:
    """RGB [H, W, 3], or CMYK [H, W, 4], of an image of this size, each side divided by the scale and rounded up.

    Raises ValueError where the decoder warns. A file that lacks its end marker and nothing else is read; what
    stands behind the marker does not matter.
    """
    if content.endswith(_END):
        return _decode(content, width, height, scale, is_cmyk)
    try:
        return _decode(content, width, height, scale, is_cmyk)
    except ValueError as error:
        if _NO_END not in str(error):
            raise
    return _decode(content + _END, width, height, scale, is_cmyk)


def is_read_by_rows(content: bytes) -> bool:
    """Whether the first scan holds everything. Progressive files and others are held in memory as a whole."""
    at, num_components = 2, 0
    while content[at : at + 1] == b"\xff":
        marker = int.from_bytes(content[at + 1 : at + 2])
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker == _SCAN:
            return num_components > 0 and content[at + 4 : at + 5] == bytes([num_components])
        elif marker in _OTHER_FRAMES:
            return False
        else:
            if marker in _SEQUENTIAL:
                num_components = int.from_bytes(content[at + 9 : at + 10])
            at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return False


def _decode(content: bytes, width: int, height: int, scale: int, is_cmyk: bool) -> NDArray[np.uint8]:
    """Scales that simplejpeg knows beside ours are never chosen: only larger sides than these are reduced."""
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        content,
        "CMYK" if is_cmyk else "RGB",
        min_height=-(-height // scale),
        min_width=-(-width // scale),
        min_factor=1 if scale > 1 else 8 * max(width, height),
        strict=True,
    )
    return pixels
