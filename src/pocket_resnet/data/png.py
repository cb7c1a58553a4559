"""Removes metadata from PNG files, and verifies the checksums of their pixel data.

Pillow refuses a whole file because of a long text, a large profile or a wrong checksum in either. Source: the PNG
specification, third edition, sections 5 and 11.
"""

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_TRANSPARENCY = b"tRNS"
_PIXELS = b"IDAT"
_ANCILLARY = 0x20  # bit of a chunk's first letter: the picture can be shown without the chunk
_FRAME = 12  # bytes of length, name and checksum


def without_metadata(content: bytes) -> bytes:
    """The file without texts, profiles, and ancillary chunks with a wrong checksum; transparency is always kept."""
    start = len(SIGNATURE)
    chunks = list(_chunks(content))
    rest = content[start + sum(map(len, chunks)) :]
    return b"".join([content[:start], *(chunk for chunk in chunks if not _is_metadata(chunk)), rest])


def has_wrong_pixels(content: bytes) -> bool:
    """Whether a complete chunk of pixels has a wrong checksum, which Pillow does not verify."""
    return any(chunk[4:8] == _PIXELS and not _is_right(chunk) for chunk in _chunks(content))


def _chunks(content: bytes) -> Iterator[bytes]:
    """The complete chunks, each with length, name, content and checksum."""
    at = len(SIGNATURE)
    while at + _FRAME <= len(content):
        stop = at + _FRAME + int.from_bytes(content[at : at + 4])
        if stop > len(content):
            return
        yield content[at:stop]
        at = stop


def _is_metadata(chunk: bytes) -> bool:
    name = chunk[4:8]
    if name == _TRANSPARENCY or not name[0] & _ANCILLARY:
        return False
    return name in _TEXTS or not _is_right(chunk)


def _is_right(chunk: bytes) -> bool:
    return zlib.crc32(memoryview(chunk)[4:-4]) == int.from_bytes(chunk[-4:])
