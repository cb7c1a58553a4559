"""Decodes a whole JPEG, or raises an error.

Pillow fills missing parts with grey and hides the decoder's warnings. simplejpeg uses the same decoder, libjpeg-turbo,
and raises them. Only this file uses simplejpeg.
"""

import re
from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray

FORMATS = ("JPEG", "MPO")  # Pillow's names; an MPO is a JPEG followed by others
SCALES = (8, 4, 2, 1)  # a side is decoded at 1/scale
_MAX_STRAY_BYTES = 16  # before the end marker; more of them mean damage, unless they are zeros
_MAX_REPAIRS = 4
_START, _END = b"\xff\xd8", b"\xff\xd9"
_NO_END = "Premature end of JPEG file"
_BAD_HEADER = re.compile(r"unknown JFIF revision|extraneous bytes before marker 0x(?!d9)")
_STRAY_BYTES = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_UNKNOWN_SAMPLING = "Could not determine subsampling"
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")  # any other byte after 0xff means data, padding or a restart
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_OTHER_FRAMES = (0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_SCAN, _APP0, _START_CODE, _END_CODE = 0xDA, 0xE0, 0xD8, 0xD9


class UnknownSamplingError(ValueError):
    """simplejpeg does not support the chroma sampling, for example 4:1:0."""


def read_pixels(content: bytes, width: int, height: int, *, scale: int = 1, is_cmyk: bool = False) -> NDArray[np.uint8]:
    """RGB [H, W, 3], or CMYK [H, W, 4], of an image of this size, each side divided by the scale and rounded up.

    Raises ValueError if the decoder warns of damage. Accepted are a missing end marker,
    bytes after it, an unknown JFIF version, stray bytes in the header, and a few stray bytes or any number of zeros
    before the end marker.
    """
    for _ in range(_MAX_REPAIRS):
        try:
            return _decode(content, width, height, scale, is_cmyk)
        except ValueError as error:
            if _UNKNOWN_SAMPLING in str(error) and _has_all_scans(content):
                raise UnknownSamplingError(str(error)) from error
            repaired = _repaired(content, str(error))
            if repaired is None or repaired == content:
                raise
            content = repaired
    return _decode(content, width, height, scale, is_cmyk)


def is_read_by_rows(content: bytes) -> bool:
    """Whether the first scan has all components. Others, such as progressive files, need memory for the whole."""
    num_components = 0
    for marker, segment, _ in _segments(content):
        if marker == _SCAN:
            return num_components > 0 and segment[4:5] == bytes([num_components])
        if marker in _OTHER_FRAMES:
            return False
        if marker in _SEQUENTIAL:
            num_components = int.from_bytes(segment[9:10])
    return False


def _repaired(content: bytes, warning: str) -> bytes | None:
    """The file without the cause of the decoder's warning, to be decoded again; None if the warning means damage."""
    if _NO_END in warning:
        return content + _END if _has_all_scans(content) else None
    if _BAD_HEADER.search(warning):
        return _with_clean_header(content)
    if match := _STRAY_BYTES.search(warning):
        return _without_stray_bytes(content, int(match[1]))
    return None


def _has_all_scans(content: bytes) -> bool:
    """Whether there is a scan for every bit of every coefficient: a progressive file may be cut between two scans."""
    missing: dict[int, list[int]] = {}  # bits of each coefficient that are still missing, by component
    for marker, segment, _ in _segments(content):
        if marker in (*_SEQUENTIAL, _PROGRESSIVE):
            missing = {component: [8] * 64 for component in segment[10::3]}
        elif marker in _OTHER_FRAMES:
            return False  # with arithmetic coding, the decoder does not report missing data
        elif marker == _SCAN and len(segment) == 8 + 2 * segment[4]:
            first, last, bits = segment[-3:]
            for component in segment[5:-3:2]:
                missing.get(component, [])[first : last + 1] = [bits & 15] * (last + 1 - first)
    return bool(missing) and not any(map(any, missing.values()))


def _with_clean_header(content: bytes) -> bytes | None:
    """The file with a known JFIF version and without bytes between the segments before the first scan."""
    parts = [_START]
    for marker, segment, end in _segments(content):
        is_jfif = marker == _APP0 and segment[4:9] == b"JFIF\0"
        parts.append(segment[:9] + b"\1\1" + segment[11:] if is_jfif else segment)
        if marker == _SCAN:
            return b"".join(parts) + content[end:]
    return None


def _without_stray_bytes(content: bytes, num_bytes: int) -> bytes | None:
    """The file without stray bytes before its end marker: all zeros, or `num_bytes` other bytes if they are few.

    A picture whose end was overwritten with zeros is too short without them, so the decoder reports it.
    """
    end = next((end for marker, _, end in _segments(content) if marker == _END_CODE), 0) - len(_END)
    if end < 0:
        return None
    data = content[:end].rstrip(b"\0")
    if len(data) < end:
        return data + (b"\0" if data.endswith(b"\xff") else b"") + _END
    return content[: end - num_bytes] + _END if num_bytes <= _MAX_STRAY_BYTES else None


def _segments(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, bytes and end of each segment after the start marker, up to the end marker; skips the data of scans."""
    end = len(_START) if content.startswith(_START) else len(content)
    while match := _MARKER.search(content, end):
        start, marker = match.start(), content[match.start() + 1]
        has_length = marker not in (_START_CODE, _END_CODE)
        end = start + 2 + (int.from_bytes(content[start + 2 : start + 4]) if has_length else 0)
        yield marker, content[start:end], end
        if not has_length:
            return


def _decode(content: bytes, width: int, height: int, scale: int, is_cmyk: bool) -> NDArray[np.uint8]:
    """The RGB or CMYK pixels at 1/scale of the size; `min_factor` rules out simplejpeg's other scales."""
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        content,
        "CMYK" if is_cmyk else "RGB",
        min_height=-(-height // scale),
        min_width=-(-width // scale),
        min_factor=1 if scale > 1 else 8 * max(width, height),
        strict=True,
    )
    return pixels
