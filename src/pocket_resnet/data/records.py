"""CIFAR's two official formats, from bytes to arrays; nothing here touches a file.

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
_MEND = "download the official file again"

Records = tuple[NDArray[np.uint8], NDArray[np.int64]]


def parse_binary(content: bytes, num_classes: int, where: str, num_label_bytes: int) -> Records:
    """Images [N, C, H, W], a view of the content, and labels [N], of which the last label byte counts.

    Raises DataError naming `where` and the record that is cut short or has a label out of range.
    """
    record_bytes = num_label_bytes + NUM_PIXEL_BYTES
    num_whole, rest = divmod(len(content), record_bytes)
    if rest or not num_whole:
        raise DataError(f"cut short: record {num_whole} has {rest} of {record_bytes:,} bytes", where=where, hint=_MEND)
    records = np.frombuffer(content, np.uint8).reshape(num_whole, record_bytes)
    labels_N = records[:, num_label_bytes - 1].astype(np.int64)
    _check_labels(labels_N, num_classes, where)
    return records[:, num_label_bytes:].reshape(-1, *CHW), labels_N


def parse_python(content: bytes, num_classes: int, where: str, label_key: str) -> Records:
    """Images [N, C, H, W] and labels [N] of a pickled batch, read without running anything it asks for.

    Raises DataError naming `where`.
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
        raise DataError(f"not a CIFAR batch: {error or type(error).__name__}", where=where, hint=_MEND) from error
    _check_labels(labels_N, num_classes, where)
    return images_NX.reshape(-1, *CHW), labels_N


def _check_labels(labels_N: NDArray[np.int64], num_classes: int, where: str) -> None:
    wrong = np.flatnonzero((labels_N < 0) | (labels_N >= num_classes))
    if wrong.size:
        raise DataError(
            f"record {wrong[0]}: label {labels_N[wrong[0]]} is not one of 0 to {num_classes - 1}",
            where=where,
            hint=_MEND,
        )


def _refuse_far_slots(content: bytes) -> None:
    """Raise UnpicklingError where a value is put in memo slot 2**32, say: the unpickler would make that many."""
    for opcode, slot, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(slot or 0) > len(content):
            raise pickle.UnpicklingError(f"memo slot {slot:,}")


class _Array:
    """Stands in for numpy.ndarray in a pickle: uint8 and nothing else, so NumPy is never called."""

    array: NDArray[np.uint8]

    def __setstate__(self, state: Sequence[Any]) -> None:
        _version, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Uint8) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array of a type other than uint8")
        self.array = np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_fortran else "C")


class _Uint8:
    """Stands in for numpy.dtype; the only one there is."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of {code!r}")

    def __setstate__(self, state: object) -> None:
        """Byte order and the like: a byte has none."""


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
    """Knows strings, bytes, numbers, lists, dicts and uint8 arrays; refuses every other name, runs none."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"refused: it asks for {module}.{name}")
        return _STAND_INS[module, name]
