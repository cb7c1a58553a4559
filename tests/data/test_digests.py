"""Digests identify images by their pixels."""

import hashlib

import numpy as np
import pytest
import torch

from pocket_resnet.data.digests import count_among, digests, packed, unpacked

IMAGES_NCHW = torch.randint(0, 256, (9, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_a_digest_is_of_the_pixels_alone() -> None:
    digests_N = digests(IMAGES_NCHW)
    for image_CHW, digest in zip(IMAGES_NCHW, digests_N, strict=True):
        expected = hashlib.blake2b(image_CHW.numpy().tobytes(), digest_size=8).digest()
        assert int(digest).to_bytes(8, "little") == expected
    assert np.array_equal(digests(IMAGES_NCHW.to(memory_format=torch.channels_last)), digests_N)
    assert np.array_equal(digests(IMAGES_NCHW[2:5]), digests_N[2:5])
    assert len(digests(IMAGES_NCHW[:0])) == 0


def test_files_hold_each_once_and_ascending() -> None:
    some, others = digests(IMAGES_NCHW[:6]), digests(IMAGES_NCHW[4:])
    content = packed(some, others)
    assert len(content) == 9 * 8
    assert unpacked(content).tolist() == sorted({*some.tolist(), *others.tolist()})
    with pytest.raises(ValueError, match="multiple"):
        unpacked(content[:-1])


def test_known_images_are_counted() -> None:
    known = unpacked(packed(digests(IMAGES_NCHW[:6])))
    assert count_among(IMAGES_NCHW[4:], known) == 2
    assert count_among(IMAGES_NCHW[[0, 0, 8]], known) == 2
    assert count_among(IMAGES_NCHW[:0], known) == 0
