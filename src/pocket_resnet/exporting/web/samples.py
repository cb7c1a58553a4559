"""The sample pictures of the page, for visitors without a picture.

Digits come with this package, under a licence that allows it. Drawings were made for this package. Images of other
data are shown only if the user asks for them: they may be private, or under a licence that forbids it.
"""

import base64
from collections import Counter
from dataclasses import dataclass
from importlib import resources

from pocket_resnet.data.image import to_png
from pocket_resnet.data.source import Source, Split

NUM_DIGITS = 10
_DRAWINGS = resources.files("pocket_resnet.exporting.web") / "drawings"


@dataclass(frozen=True)
class Sample:
    """A picture to click."""

    uri: str
    """The picture as a data URI."""
    description: str
    """Alternative text."""


@dataclass(frozen=True)
class Samples:
    """The page's sample pictures, and a note about their origin."""

    pictures: tuple[Sample, ...]
    note: str


def choose_samples(source: Source, val: Split, class_names: tuple[str, ...], num_images: int) -> Samples:
    """`num_images` validation images if that is more than 0, otherwise digits of the package or drawings.

    `class_names` are the model's, which number the labels of `val`.
    """
    if source.name == "digits":
        note = (
            "The sample pictures are from: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine "
            "Learning Repository (1998), CC BY 4.0."
        )
        return Samples(_images(val, class_names, num_images or NUM_DIGITS), note)
    if num_images:
        return Samples(_images(val, class_names, num_images), "The sample pictures are validation images.")
    return drawings(class_names)


def _images(val: Split, class_names: tuple[str, ...], count: int) -> tuple[Sample, ...]:
    """The first image of each class, then the second of each, and so on."""
    labels_N = val.labels_N.tolist()
    num_before: Counter[int] = Counter()
    turns = []
    for index, label in enumerate(labels_N):
        turns.append((num_before[label], label, index))
        num_before[label] += 1
    return tuple(
        Sample(
            _data_uri("image/png", to_png(val.images_NCHW[index].permute(1, 2, 0).contiguous().numpy())),
            f"Validation image of {class_names[label]}",
        )
        for _, label, index in sorted(turns)[:count]
    )


def drawings(class_names: tuple[str, ...]) -> Samples:
    """Drawings of the classes that have one."""
    drawn = {file.name.removesuffix(".svg"): file for file in _DRAWINGS.iterdir()}
    pictures = tuple(
        Sample(_data_uri("image/svg+xml", drawn[name].read_bytes()), f"Drawing of {name}")
        for name in class_names
        if name in drawn
    )
    note = "The sample pictures are drawings made for this page. The network was trained on other pictures."
    return Samples(pictures, note)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
