"""Small data sets in the official formats and as folders, made for each test."""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pocket_resnet.data import published

NUM_PER_FILE = 20
Pictures = tuple[NDArray[np.uint8], NDArray[np.int64]]
Files = dict[str, bytes]


def pictures(seed: int, num_classes: int, count: int = NUM_PER_FILE) -> Pictures:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, 32, 32), np.uint8), rng.integers(0, num_classes, count)


def binary(content: Pictures, coarse: bool = False) -> bytes:
    images, labels = content
    columns = [labels.astype(np.uint8)[:, None], images.reshape(len(labels), -1)]
    return np.hstack([np.zeros_like(columns[0]), *columns] if coarse else columns).tobytes()


def pickled(content: Pictures, label_key: str) -> bytes:
    images, labels = content
    batch = {
        b"data": images.reshape(len(labels), -1),
        label_key.encode(): labels.tolist(),
        b"batch_label": b"x",
    }
    return pickle.dumps(batch, protocol=2)


class Cifar:
    """One synthetic family: its files in both layouts, and the tables that fit them."""

    def __init__(self, official: published.Family) -> None:
        num_classes = len(official.class_names)
        is_10 = official.name == "cifar10"
        num_files = len(official.layouts[0].train)
        self.parts = [pictures(seed, num_classes) for seed in range(num_files)]
        self.test_part = pictures(99, num_classes)
        label_key = "labels" if is_10 else "fine_labels"
        writers: list[Callable[[Pictures], bytes]] = [
            lambda part: binary(part, coarse=not is_10),
            lambda part: pickled(part, label_key),
        ]
        self.files: dict[str, Files] = {}
        layouts = []
        for layout, write in zip(official.layouts, writers, strict=True):
            names = zip(layout.members, [*self.parts, self.test_part], strict=True)
            content = {name: write(part) for name, part in names}
            self.files[layout.folder] = content
            md5 = {name: hashlib.md5(content[name]).hexdigest() for name in layout.md5}
            archive_md5 = hashlib.md5(self.archive(layout.folder)).hexdigest()
            layouts.append(replace(layout, md5=md5, archive_md5=archive_md5))
        self.family = replace(
            official,
            layouts=tuple(layouts),
            num_trainval=num_files * NUM_PER_FILE,
            num_val=num_files * NUM_PER_FILE // 10,
            num_test=NUM_PER_FILE,
        )

    def write(self, data_dir: Path, folder: str, without: tuple[str, ...] = ()) -> Path:
        (data_dir / folder).mkdir(parents=True)
        for name, content in self.files[folder].items():
            if name not in without:
                (data_dir / folder / name).write_bytes(content)
        return data_dir / folder

    def archive(self, folder: str) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, content in {**self.files[folder], "readme.html": b"hello"}.items():
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        packed_bytes = bytearray(packed.getvalue())
        packed_bytes[4:8] = bytes(4)  # the time of packing
        return bytes(packed_bytes)


@pytest.fixture
def cifar10(monkeypatch: pytest.MonkeyPatch) -> Cifar:
    made = Cifar(published.CIFAR10)
    monkeypatch.setitem(published.FAMILIES, "cifar10", made.family)
    monkeypatch.setattr("pocket_resnet.data.datasets.CIFAR10", made.family)
    return made


@pytest.fixture
def cifar100(monkeypatch: pytest.MonkeyPatch) -> Cifar:
    made = Cifar(published.CIFAR100)
    monkeypatch.setitem(published.FAMILIES, "cifar100", made.family)
    return made


MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """make_folder({"cat": 3, "dog": 2}, name="pictures") writes that many PNGs, all different, a class."""

    def make(counts: dict[str, int], name: str = "pictures", seed: int = 0) -> Path:
        root = tmp_path / name
        rng = np.random.default_rng([seed, *name.encode()])
        for class_name, count in counts.items():
            (root / class_name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (9, 7, 3), np.uint8)
                Image.fromarray(pixels).save(root / class_name / f"{number}.png")
        return root

    return make
