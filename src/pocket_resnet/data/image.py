"""Decodes image files to pixels, for training and prediction alike.

A file's format is determined by its content, never by its name. Limits are checked in the header, before any pixel is
decoded. Incomplete pictures are refused instead of filled with grey. Damage outside the picture does not matter.
Only this file uses Pillow.
"""

import io
import os
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from pocket_resnet.data import jpeg, pillow_warnings, png, unsupported_formats
from pocket_resnet.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
MAX_JPEG_PIXELS = 150_000_000  # if a JPEG is decoded by rows, to at most MAX_PIXELS
MAX_SIDE_PX = 30_000
MAX_NUM_FRAMES = 1_000
DECODER_VERSION = 2  # increase it if decoded pixels change, so that cached pixels are rebuilt

_DRAFT_FACTOR = 4  # a JPEG is decoded at 1/2 to 1/8 if that is still this many times the target size
_UPRIGHT = {  # EXIF orientation -> transposition that turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Picture = Image.Image


class ImageError(DataError):
    """A file that is not a whole image of an allowed format within the limits."""

    usual_hint = "save it again as an image, or remove it"


def read_file(path: Path) -> bytes:
    """The content of a regular file of at most MAX_FILE_BYTES.

    Raises ImageError, also for a FIFO or device, without waiting for it.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not a regular file", where=path)
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(f"over the limit of {MAX_FILE_BYTES:,} bytes", where=path)
            return file.read(status.st_size)  # a read of the limit would allocate 64 MiB for every file
    except IsADirectoryError as error:
        raise ImageError("a folder, not an image", where=path, hint="give the files in it") from error
    except OSError as error:
        what, hint = f"cannot be read: {error.strerror}", "check its path and permissions"
        raise ImageError(what, where=path, hint=hint) from error


def decode(source: bytes | Path, size: int | None = None) -> NDArray[np.uint8]:
    """The picture as 8-bit RGB [H, W, 3]; with a size, its centre square as [size, size, 3].

    Resized bicubically with antialiasing; turned upright by the EXIF orientation; transparency becomes white; 16 bits
    are reduced to the high byte; only an animation's first frame is decoded. Raises ImageError.
    """
    where = source if isinstance(source, Path) else None
    content = source if isinstance(source, bytes) else read_file(source)
    if not content:
        raise ImageError("an empty file", where=where)
    try:
        with pillow_warnings.ignored():
            return _decode_salvaged(content, size)
    except ImageError as refusal:
        raise ImageError(refusal.what, where=where) from None
    except UnidentifiedImageError:
        raise ImageError(f"not an image in a supported format ({', '.join(FORMATS)})", where=where) from None
    except Image.DecompressionBombError:
        raise ImageError(f"over the limit of {MAX_PIXELS:,} pixels", where=where) from None
    except Exception as error:  # hostile bytes make Pillow raise nearly anything
        raise ImageError(f"a damaged image: {error}", where=where) from error


def is_image(path: Path) -> bool:
    """Whether a file's content begins like an image, which may be damaged, too large, or of an unsupported format."""
    try:
        with pillow_warnings.ignored(), Image.open(path, formats=FORMATS):
            return True
    except UnidentifiedImageError:
        with path.open("rb") as file:
            return unsupported_formats.name_of(file.read(unsupported_formats.NUM_BYTES)) not in (None, "PDF")
    except Exception:  # a damaged header, or a file that cannot be read
        return True


def fit(pixels_HWC: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A uint8 array, grey [H, W], RGB or RGBA [H, W, C], converted to [size, size, 3] as `decode` converts a file."""
    if pixels_HWC.shape == (size, size, 3):
        return pixels_HWC
    return _resized(_to_rgb(Image.fromarray(pixels_HWC)), size)


def from_picture(picture: Picture, size: int) -> NDArray[np.uint8]:
    """A Pillow image converted to [size, size, 3] as `decode` converts a file. Raises ImageError."""
    try:
        _check_header(picture, MAX_PIXELS)
        with pillow_warnings.ignored():
            loaded = picture.copy()  # leaves the caller's unchanged
            loaded.format = picture.format  # _scale_to_8_bits needs it: a PGM stores grey in 0..65535
            return _upright(loaded, _orientation(loaded), size)
    except ImageError:
        raise
    except Exception as error:  # its file is closed or damaged
        raise ImageError(f"a damaged image: {error}") from error


def to_png(pixels_HWC: NDArray[np.uint8]) -> bytes:
    """The content of a PNG file with these RGB pixels."""
    content = io.BytesIO()
    Image.fromarray(pixels_HWC).save(content, "PNG", optimize=True)
    return content.getvalue()


def _decode_salvaged(content: bytes, size: int | None) -> NDArray[np.uint8]:
    """Like `_decode_content`; if that fails for a PNG, it is decoded without its metadata."""
    try:
        return _decode_content(content, size)
    except ImageError:
        raise
    except Exception:
        bare = png.without_metadata(content) if content.startswith(png.SIGNATURE) else content
        if len(bare) == len(content):
            raise
    return _decode_content(bare, size)


def _decode_content(content: bytes, size: int | None) -> NDArray[np.uint8]:
    if name := unsupported_formats.name_of(content):
        raise ImageError(unsupported_formats.refusal(name))
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.format in jpeg.FORMATS:
            loaded = _load_jpeg(image, content, size)
        else:
            _check_header(image, MAX_PIXELS)
            if image.format == "PNG" and png.has_wrong_pixels(content):
                raise ImageError("a damaged image: checksum of the pixel data is wrong")
            image.load()
            loaded = image
        return _upright(loaded, _orientation(image), size)


def _upright(loaded: Image.Image, orientation: int | None, size: int | None) -> NDArray[np.uint8]:
    """A loaded picture in RGB, turned upright, at its own size or at `size`."""
    picture = _to_rgb(loaded)
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    return np.array(picture) if size is None else _resized(picture, size)


def _load_jpeg(image: Image.Image, content: bytes, size: int | None) -> Image.Image:
    """The picture at 1/1 to 1/8 of its size, as Pillow's draft mode chooses, or smaller if it is very large."""
    width, height = image.size
    scale = _jpeg_scale(width, height, size)
    is_by_rows = scale > 1 and jpeg.is_read_by_rows(content)
    _check_header(image, MAX_JPEG_PIXELS if is_by_rows else MAX_PIXELS)
    is_cmyk = image.mode == "CMYK"
    try:
        pixels_HWC = jpeg.read_pixels(content, width, height, scale=scale, is_cmyk=is_cmyk)
    except jpeg.UnknownSamplingError:
        raise ImageError("its chroma sampling is not supported (4:4:4, 4:2:2 and 4:2:0 are)") from None
    if is_cmyk:
        return Image.frombytes("CMYK", pixels_HWC.shape[1::-1], (255 - pixels_HWC).tobytes())
    return Image.fromarray(pixels_HWC)


def _jpeg_scale(width: int, height: int, size: int | None) -> int:
    """The largest scale that leaves _DRAFT_FACTOR times the size, or just the size if it exceeds MAX_PIXELS."""
    if size is None:
        return 1
    side = min(width, height)
    fine = next((scale for scale in jpeg.SCALES if side // scale >= _DRAFT_FACTOR * size), 1)
    is_possible = [scale for scale in reversed(jpeg.SCALES) if scale >= fine and side // scale >= size]
    return next((scale for scale in is_possible if width * height <= scale**2 * MAX_PIXELS), fine)


def _resized(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """The centre square at [size, size, 3], bicubic with antialiasing.

    Cropped first, at whole pixels, so pixels outside the square have no influence; exported files do the same.
    """
    if picture.width != picture.height:
        picture = picture.crop(_centre_square(*picture.size))
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(picture)


def _check_header(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if image.format == "TIFF" and unsupported_formats.is_raw_tiff(dict(image.tag_v2)):  # type: ignore[attr-defined]
        raise ImageError(unsupported_formats.refusal("RAW"))
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} is over the limit of {max_pixels:,} pixels")
    if max(width, height) > MAX_SIDE_PX:
        raise ImageError(f"{width} x {height} is over the limit of {MAX_SIDE_PX:,} pixels per side")
    num_frames = getattr(image, "n_frames", 1)
    if num_frames > MAX_NUM_FRAMES:
        raise ImageError(f"{num_frames:,} frames are over the limit of {MAX_NUM_FRAMES:,}")


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation; None if the block cannot be read: editors often damage it."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _scale_to_8_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = Image.new("RGBA", image.size, "white")
    picture.alpha_composite(image.convert("RGBA"))
    return picture.convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """The high byte of 16-bit grey, as Pillow does for colour. Pillow reads a PGM as 32 bits in 0..65535."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ImageError(f"pixel mode {image.mode} has no defined white; save the image with 8 or 16 bits per channel")
    deep_HW = np.asarray(image)
    if (transparent := image.info.get("transparency")) is not None:
        deep_HW = np.where(deep_HW == transparent, 0xFFFF, deep_HW)  # transparency becomes white
    return Image.fromarray((deep_HW >> 8).astype(np.uint8))


def _centre_square(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom; if the margins cannot be equal, left or top is one pixel smaller."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side
