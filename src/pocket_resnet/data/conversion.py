"""Convert images from Python programs to uint8 RGB [size, size, 3], with the decoder that training uses.

Accepts paths, encoded files in memory, Pillow images, and arrays or tensors that are grey, RGB or RGBA, with whole
numbers from 0 to 255 or fractions from 0 to 1. Refuses everything else.
"""

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocket_resnet.data.image import MAX_FILE_BYTES, ImageError, Picture, decode, fit, from_picture
from pocket_resnet.errors import UsageError
from pocket_resnet.io.files import expanded

ACCEPTED = (
    "give paths, encoded bytes, open files, Pillow images, or arrays and tensors: grey [H, W], RGB or RGBA [H, W, C] "
    "(tensors [C, H, W]), whole numbers from 0 to 255 or fractions from 0 to 1; one or several"
)
_NUM_CHANNELS = (1, 3, 4)


def each_image(images: Any) -> Iterator[Any]:
    """The images of a list, generator, pandas column or batch of arrays, or the only image."""
    if isinstance(images, np.ndarray | Tensor):
        is_batch = images.ndim == 4 or (
            images.ndim == 1 and isinstance(images, np.ndarray) and images.dtype.kind in "OU"
        )
        yield from images if is_batch else [images]
    elif _is_one(images):
        yield images
    elif isinstance(images, Mapping) or hasattr(images, "columns") or not isinstance(images, Iterable):
        raise UsageError(f"{type(images).__name__} is neither an image nor a list of images", hint=ACCEPTED)
    else:
        yield from images


def pixels(image: Any, size: int) -> NDArray[np.uint8]:
    """The image as uint8 RGB [size, size, 3]. Raises ImageError or UsageError naming what is accepted."""
    if isinstance(image, str | os.PathLike):
        return decode(expanded(image), size)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode(bytes(image), size)
    if isinstance(image, Picture):
        return from_picture(image, size)
    if hasattr(image, "read"):
        return decode(_content(image), size)
    if isinstance(image, Tensor):
        return fit(_channels_last(_whole_numbers(_array(image)), first=True), size)
    if isinstance(image, np.ndarray):
        return fit(_channels_last(_whole_numbers(image), first=False), size)
    raise UsageError(f"{type(image).__name__} is not an image", hint=ACCEPTED)


def _is_one(images: Any) -> bool:
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Picture)
    return isinstance(images, kinds) or hasattr(images, "read")


def _content(file: Any) -> bytes:
    """The whole content of an open file."""
    content = file.getvalue() if isinstance(file, io.BytesIO) else _read(file)
    if not isinstance(content, bytes):
        raise UsageError("a file opened as text is not an image", hint="open it with mode 'rb'")
    if len(content) > MAX_FILE_BYTES:
        raise ImageError(f"over the limit of {MAX_FILE_BYTES:,} bytes")
    return content


def _read(file: Any) -> Any:
    if getattr(file, "seekable", lambda: False)():
        file.seek(0)
    return file.read(MAX_FILE_BYTES + 1)


def _array(image: Tensor) -> NDArray[Any]:
    on_cpu = image.detach().cpu()
    array: NDArray[Any] = (on_cpu.float() if on_cpu.dtype == torch.bfloat16 else on_cpu).numpy()
    return array


def _whole_numbers(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The values as 0 to 255. Raises ImageError if their range is unclear."""
    array_text = f"an array of {array.dtype} {array.shape}"
    if not array.size:
        raise ImageError(f"{array_text} is empty", hint=ACCEPTED)
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "fiu" or array.dtype == np.uint16:
        raise ImageError(f"{array_text} has no known value range", hint=ACCEPTED)
    low, high = array.min(), array.max()
    most = 1 if array.dtype.kind == "f" else 255
    if not (low >= 0 and high <= most):  # NaN too
        raise ImageError(f"{array_text} has values from {low:g} to {high:g}, outside of 0 to {most}", hint=ACCEPTED)
    scaled: NDArray[np.uint8] = np.rint(array * (255 // most)).astype(np.uint8)
    return scaled


def _channels_last(array: NDArray[np.uint8], *, first: bool) -> NDArray[np.uint8]:
    """The array as [H, W] or [H, W, C]. Raises ImageError otherwise.

    Only with `first` may channels come first: an array [3, H, W] could also be three grey images.
    """
    if array.ndim == 2:
        return array
    if array.ndim == 3:
        at_start, at_end = (array.shape[axis] in _NUM_CHANNELS for axis in (0, 2))
        if first and at_start:
            array, at_end = array.transpose(1, 2, 0), True
        if at_end:
            return array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array)
    raise ImageError(f"an array of shape {array.shape} is not an image", hint=ACCEPTED)
