"""A folder of your own images, one subfolder per class, optionally under train/, val/ and test/; see `layout`.

Classes are sorted by name as text; a model records the order. Without val/, about 10% of the images (at least one per
class, but never its only one) are held out by content; see `Holdout`. val/ and test/ must
have the classes of train/, matched by name. Files under test/ are listed, but not opened for training.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch

from pocket_resnet.data.cache import PixelStore
from pocket_resnet.data.holdout import Holdout
from pocket_resnet.data.layout import Classes, read_layout
from pocket_resnet.data.listing import ImageFile, Listing, printable
from pocket_resnet.data.source import Source, Split, Verification
from pocket_resnet.errors import DataError, UsageError, listed

VAL_FRACTION = 0.1
_log = logging.getLogger(__name__)


class Folder(Source):
    """An image folder as training, validation and test images of one size.

    Raises DataError if classes are missing, empty or contradict each other, or if files are not usable images.
    """

    def __init__(self, root: Path, data_dir: Path, image_size: int, num_workers: int) -> None:
        if image_size < 1:
            raise UsageError(f"an image size of {image_size} px", hint="choose 1 or more")
        self.name = self.where = str(root)
        self.image_size = image_size
        self._root = root
        listing = Listing(self._root)
        layout = read_layout(listing)
        for line in listing.skipped_lines():
            _log.warning("%s", line)
        parts = layout.splits
        self.class_names = tuple(parts["train"])
        self.is_plain = layout.is_plain
        self._test = _files(parts["test"]) if "test" in parts else None
        self.num_test = None if self._test is None else len(self._test)
        self._store = PixelStore(self._root, data_dir, image_size, num_workers)
        train = _files(parts["train"])
        val = _files(parts["val"]) if "val" in parts else []
        content = dict(zip(train + val, self._store.hashes(train + val), strict=True))
        if "val" not in parts:
            train, val = _cut(train, content)
        self._trainval, self.num_val = train + val, len(val)
        self._hashes = [content[image] for image in self._trainval]
        self.fingerprint = _fingerprint(self._trainval, self._hashes, f"the last {self.num_val} for validation")
        self._store.make_room(self.pixels_key, len(self._trainval))
        _warn_of_single_images(train, val)
        _warn_of_duplicates(self._hashes, self.num_val)

    def trainval(self) -> Split:
        """The images of training and validation; the last `num_val` are for validation."""
        return self._split(self._trainval, self._hashes, self.fingerprint)

    def test(self) -> Split:
        """The images of test/. Raises DataError if there is none."""
        if self._test is None:
            raise DataError("it has no test/", where=printable(self.name), hint="add test/, one subfolder per class")
        return self._split(*self._test_images())

    def verify(self) -> Verification:
        """Decode each file again. Raises DataError naming the changed files."""
        self._store.verify(self._trainval, self._hashes, self.fingerprint)
        if self._test:
            self._store.verify(*self._test_images())
        images = [*self._trainval, *(self._test or ())]
        return Verification(len(images), sum(image.relative in self._store.new for image in images))

    @property
    def pixels_key(self) -> str:
        """Identifies the decoded training images: their fingerprint, size and decoder."""
        return self._store.key(self.fingerprint)

    def has_fingerprint(self, fingerprint: str | None) -> bool:
        """Whether this is the data's fingerprint, in the current or the earlier form."""
        return fingerprint in (self.fingerprint, self._earlier_fingerprint)

    @cached_property
    def _earlier_fingerprint(self) -> str:
        """The fingerprint as versions with decoder 2 recorded it: together with the image size and that decoder."""
        return _fingerprint(self._trainval, self._hashes, f"{self.image_size} px, decoder 2")

    def changes_since(self, fingerprint: str) -> list[str]:
        """The files that differ between the training images and those of that fingerprint; empty if it is not known."""
        return self._store.changes(fingerprint, self._trainval, self._hashes)

    def _test_images(self) -> tuple[list[ImageFile], list[str], str]:
        """The images of test/, the hashes of their contents, and their fingerprint."""
        images = self._test or []
        hashes = self._store.hashes(images)
        return images, hashes, _fingerprint(images, hashes, "test")

    def _split(self, images: Sequence[ImageFile], hashes: Sequence[str], fingerprint: str) -> Split:
        number = {name: index for index, name in enumerate(self.class_names)}
        labels_N = torch.tensor([number[image.class_name] for image in images], dtype=torch.int64)
        return Split(self._store.load(images, hashes, fingerprint), labels_N, tuple(image.relative for image in images))


def _fingerprint(images: Sequence[ImageFile], hashes: Sequence[str], heading: str) -> str:
    """A hash of the images' names and contents in this order, and of the heading."""
    lines = [f"{image.relative}\0{content}" for image, content in zip(images, hashes, strict=True)]
    return hashlib.sha256("\0\0".join([heading, *lines]).encode("utf-8", "surrogateescape")).hexdigest()


def _files(classes: Classes) -> list[ImageFile]:
    return [image for images in classes.values() for image in images]


def _cut(images: list[ImageFile], content: Mapping[ImageFile, str]) -> tuple[list[ImageFile], list[ImageFile]]:
    """Training and validation images."""
    classes = defaultdict[str, list[str]](list)
    for image in images:
        classes[image.class_name].append(content[image])
    held = Holdout.of(classes, VAL_FRACTION)
    train = [image for image in images if content[image] not in held.contents]
    val = [image for image in images if content[image] in held.contents]
    if names := listed([printable(name) for name in held.exceptions], ", "):
        what = "one image of each of these classes may switch between training and validation when images are added"
        _log.info("%s: %s", what, names)
    return train, val


def _warn_of_single_images(train: Sequence[ImageFile], val: Sequence[ImageFile]) -> None:
    validated = {image.class_name for image in val}
    names = dict.fromkeys(printable(image.class_name) for image in train if image.class_name not in validated)
    if names:
        _log.warning("classes with only one distinct image, used for training only: %s", ", ".join(names))


def _warn_of_duplicates(hashes: Sequence[str], num_val: int) -> None:
    num_train = len(hashes) - num_val
    trained = set(hashes[:num_train])
    if count := sum(content in trained for content in hashes[num_train:]):
        _log.warning("%d of %d validation images are also training images", count, num_val)
