"""CIFAR's formats from bytes: values, and every way a record can be wrong."""

import contextlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocket_resnet.data.records import parse_binary, parse_python
from pocket_resnet.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
LABELS = np.array([3, 0, 9, 5])
BINARY = b"".join(bytes([label]) + image.tobytes() for label, image in zip(LABELS, IMAGES, strict=True))
BINARY_100 = b"".join(bytes([1, label]) + image.tobytes() for label, image in zip(LABELS, IMAGES, strict=True))


def pickled(**changes: Any) -> bytes:
    batch = {"data": IMAGES.reshape(4, -1), "labels": LABELS.tolist(), "filenames": ["a.png"] * 4, **changes}
    return pickle.dumps({key.encode(): value for key, value in batch.items()}, protocol=2)


@pytest.mark.parametrize(
    "records",
    [
        parse_binary(BINARY, 10, "x", num_label_bytes=1),
        parse_binary(BINARY_100, 10, "x", num_label_bytes=2),
        parse_python(pickled(), 10, "x", label_key="labels"),
        parse_python(pickled(data=np.asfortranarray(IMAGES.reshape(4, -1))), 10, "x", label_key="labels"),
    ],
    ids=["binary", "binary, coarse and fine label", "python", "python, Fortran order"],
)
def test_values(records: Any) -> None:
    images, labels = records
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    assert labels.dtype == np.int64


def test_a_pickle_of_python_2_and_numpy_1() -> None:
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        b"U\x01b\x87Rq\x05(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + IMAGES[0].tobytes() + b"tbU\x06labels"
        b"q\x08]q\tK\x07au."
    )
    images, labels = parse_python(content, 10, "x", label_key="labels")
    np.testing.assert_array_equal(images, IMAGES[:1])
    assert labels.tolist() == [7]


@pytest.mark.threat(26)
@pytest.mark.parametrize(("cut", "record"), [(1, 3), (3074, 2), (4 * 3073, 0)])
def test_cut_short_names_the_record(cut: int, record: int) -> None:
    with pytest.raises(DataError, match=f"some.bin: cut short: record {record} has"):
        parse_binary(BINARY[: len(BINARY) - cut], 10, "some.bin", num_label_bytes=1)


def test_any_number_of_whole_records_is_read() -> None:
    """How many a file must have is not known here."""
    assert len(parse_binary(BINARY[:-3073], 10, "x", num_label_bytes=1)[1]) == 3


@pytest.mark.threat(26)
def test_label_out_of_range_names_file_and_record() -> None:
    """In both formats, exit code 3."""
    content = bytearray(BINARY)
    content[2 * 3073] = 10
    with pytest.raises(DataError, match=r"some\.bin: record 2: label 10 is not one of 0 to 9") as raised:
        parse_binary(bytes(content), 10, "some.bin", num_label_bytes=1)
    assert raised.value.exit_code == 3
    with pytest.raises(DataError, match="batch: record 1: label -1 is not one of 0 to 9"):
        parse_python(pickled(labels=[0, -1, 0, 0]), 10, "batch", label_key="labels")


class Sentinel:
    """A pickle that would make a file if it ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.threat(29)
def test_malicious_pickles_are_refused_and_nothing_runs(tmp_path: Path) -> None:
    for content in (
        pickled(extra=Sentinel(tmp_path / "ran")),
        pickle.dumps(Sentinel(tmp_path / "ran"), protocol=2),
        b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x07loadtxt\x93.",
    ):
        with pytest.raises(DataError, match=r"refused: the pickle references"):
            parse_python(content, 10, "batch", label_key="labels")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"no pickle at all",
        pickled()[:-100],
        pickled(labels=[1, 2]),
        pickled(labels=[[1], [2], [3], [4]]),
        pickled(labels="abcd"),
        pickled(data=IMAGES[:, 0].reshape(4, -1)),
        pickled(data=IMAGES.astype(np.float32).reshape(4, -1)),
        pickled(data=np.array([object] * 4)),
        pickled(data=[1, 2]),
        pickle.dumps([1], protocol=2),
        pickle.dumps({b"labels": [1]}, protocol=2),
        b"\x80\x02cnumpy\nndarray\n).",
        b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.",
    ],
)
def test_damaged_pickles_are_data_errors(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^batch: "):
        parse_python(content, 10, "batch", label_key="labels")


def test_random_damage_never_escapes_as_another_error() -> None:
    rng = np.random.default_rng(1)
    whole = pickled()
    places = [*range(300), *range(len(whole) - 300, len(whole))]
    num_accepted = 0
    for _ in range(500):
        content = bytearray(whole)
        content[rng.choice(places)] = rng.integers(256)
        with contextlib.suppress(DataError):
            parse_python(bytes(content), 10, "batch", label_key="labels")
            num_accepted += 1
    assert 0 < num_accepted < 500
