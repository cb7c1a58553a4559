"""Parses CIFAR's two official formats, from bytes to arrays, without reading files.

Binary: records of one label byte (CIFAR-100: coarse, then fine), then 1,024 red, 1,024 green and 1,024 blue
bytes, row by row. Python: a pickle of 2009 with `data` [N, 3072] in the same order and a list of labels.
Source: https://www.cs.toronto.edu/~kriz/cifar.html

Shapes: N images, C = 3 channels, H = W = 32 pixels.
"""

import io
import pickle
import pickletools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_resnet.errors import DataError

CHW = (3, 32, 32)
NUM_PIXEL_BYTES = 3 * 32 * 32
_HINT = "download the official file again"

Records = tuple[NDArray[np.uint8], NDArray[np.int64]]


def parse_binary(content: bytes, num_classes: int, where: str, num_label_bytes: int) -> Records:
    """Images [N, C, H, W], a view of the content, and labels [N], the last label byte of each record.

    Raises DataError naming `where` and a record that is cut short or has an invalid label.
    """
    record_bytes = num_label_bytes + NUM_PIXEL_BYTES
    num_whole, rest = divmod(len(content), record_bytes)
    if rest or not num_whole:
        raise DataError(f"cut short: record {num_whole} has {rest} of {record_bytes:,} bytes", where=where, hint=_HINT)
    records = np.frombuffer(content, np.uint8).reshape(num_whole, record_bytes)
    labels_N = records[:, num_label_bytes - 1].astype(np.int64)
    _check_labels(labels_N, num_classes, where)
    return records[:, num_label_bytes:].reshape(-1, *CHW), labels_N


def parse_python(content: bytes, num_classes: int, where: str, label_key: str) -> Records:
    """Images [N, C, H, W] and labels [N] of a pickled batch, read without running any code in the pickle.

    Raises DataError naming `where` if it is not a CIFAR batch.
    """
    try:
        _refuse_far_slots(content)
        batch = _CifarUnpickler(io.BytesIO(content), encoding="bytes").load()
        entries = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        images_NX, labels = entries["data"].array, entries[label_key]
        labels_N = np.array(labels, np.int64)
        if images_NX.shape != (len(labels_N), NUM_PIXEL_BYTES) or labels_N.shape != (len(labels),):
            raise ValueError(f"data of shape {images_NX.shape} for {len(labels)} labels")
    except Exception as error:  # a hostile pickle raises nearly anything
        raise DataError(f"not a CIFAR batch: {error or type(error).__name__}", where=where, hint=_HINT) from error
    _check_labels(labels_N, num_classes, where)
    return images_NX.reshape(-1, *CHW), labels_N


def _check_labels(labels_N: NDArray[np.int64], num_classes: int, where: str) -> None:
    wrong = np.flatnonzero((labels_N < 0) | (labels_N >= num_classes))
    if wrong.size:
        raise DataError(
            f"record {wrong[0]}: label {labels_N[wrong[0]]} is not one of 0 to {num_classes - 1}",
            where=where,
            hint=_HINT,
        )


def _refuse_far_slots(content: bytes) -> None:
    """Raise UnpicklingError for a memo slot such as 2**32: the unpickler would allocate that many slots."""
    for opcode, slot, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(slot or 0) > len(content):
            raise pickle.UnpicklingError(f"memo slot {slot:,}")


class _Array:
    """Replaces numpy.ndarray in a pickle; accepts only uint8 and never calls NumPy's unpickling."""

    array: NDArray[np.uint8]

    def __setstate__(self, state: Sequence[Any]) -> None:
        _version, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Uint8) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array of a type other than uint8")
        self.array = np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_fortran else "C")


class _Uint8:
    """Replaces numpy.dtype in a pickle; accepts only uint8."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of {code!r}")

    def __setstate__(self, state: object) -> None:
        """Ignore the state, such as the byte order, which a byte does not have."""


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text as {encoding!r}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Uint8,
    ("_codecs", "encode"): _encode,
}


class _CifarUnpickler(pickle.Unpickler):
    """Reads strings, bytes, numbers, lists, dicts and uint8 arrays; refuses all other names."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"refused: the pickle references {module}.{name}")
        return _STAND_INS[module, name]
