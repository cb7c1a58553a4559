"""Which pictures a page shows: none that may be private or of unknown licence, unless requested."""

import base64
import io

import numpy as np
from PIL import Image

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.source import Source
from pocket_resnet.exporting.web.samples import choose_samples


def test_digits_come_with_their_source() -> None:
    digits = open_source("digits")
    val = digits.split("val")
    samples = choose_samples(digits, val, digits.class_names, 0)
    assert [each.description for each in samples.pictures] == [f"Validation image of {name}" for name in "0123456789"]
    assert "CC BY 4.0" in samples.note
    first = val.labels_N.tolist().index(0)
    content = base64.b64decode(samples.pictures[0].uri.removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(Image.open(io.BytesIO(content)), val.images_NCHW[first].permute(1, 2, 0))


def test_own_images_only_on_request(source: Source) -> None:
    val = source.split("val")
    assert choose_samples(source, val, source.class_names, 0).pictures == ()
    pictures = choose_samples(source, val, source.class_names, 4).pictures
    assert [each.description.rpartition(" ")[2] for each in pictures] == ["red", "green", "blue", "red"]
    assert len({each.uri for each in pictures}) == 4
    assert len(choose_samples(source, val, source.class_names, 99).pictures) == len(val)


def test_drawings_of_known_classes(source: Source) -> None:
    samples = choose_samples(source, source.split("val"), ("truck", "../../LICENSE", "red", "ship"), 0)
    assert [each.description for each in samples.pictures] == ["Drawing of truck", "Drawing of ship"]
    assert all(each.uri.startswith("data:image/svg+xml;base64,") for each in samples.pictures)
    assert "drawings" in samples.note
