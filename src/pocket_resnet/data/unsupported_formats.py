"""Recognises unsupported image formats, so that an error can name the format."""

_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    b"crx ": "RAW",
}
_MAGIC = {
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"FUJIFILMCCD-RAW": "RAW",
    b"IIRO": "RAW",  # Olympus
    b"IIRS": "RAW",
    b"MMOR": "RAW",
    b"IIU\0": "RAW",  # Panasonic
    b"II\x1a\0\0\0HEAPCCDR": "RAW",  # Canon, before CR2
    b"FOVb": "RAW",  # Sigma
    b"\0MRM": "RAW",  # Minolta
    b"8BPS": "Photoshop",
    b"%PDF-": "PDF",
    b"v/1\x01": "OpenEXR",
}
NUM_BYTES = 64  # at the beginning of a file, which are enough to recognise it
_CR2 = (b"II*\0", 8, b"CR")  # a TIFF apart from this
_DNG_VERSION, _SUBFILE_TYPE, _SUB_IFDS = 50706, 254, 330


def name_of(content: bytes) -> str | None:
    """The format's name, if it is a known unsupported format."""
    if content[4:8] == b"ftyp":
        brands = [content[8:12], *(content[at : at + 4] for at in range(16, min(len(content), NUM_BYTES), 4))]
        names = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return "AVIF" if "AVIF" in names else next(iter(names), None)
    start, at, mark = _CR2
    if content.startswith(start) and content[at : at + len(mark)] == mark:
        return "RAW"
    return next((name for magic, name in _MAGIC.items() if content.startswith(magic)), None)


def is_raw_tiff(tags: dict[int, object]) -> bool:
    """Whether these are the tags of a camera's raw file (DNG, NEF, ARW), whose readable image is only a thumbnail."""
    kind = tags.get(_SUBFILE_TYPE)
    return _DNG_VERSION in tags or (isinstance(kind, int) and bool(kind & 1) and _SUB_IFDS in tags)


def refusal(name: str) -> str:
    """The error message about a file of this format."""
    return f"{name} is not supported: convert it to PNG or JPEG"
