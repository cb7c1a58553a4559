"""1,797 real handwritten digits, included in the package so that everything works offline.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
1998 (https://doi.org/10.24432/C50P49, CC BY 4.0), as in scikit-learn's `load_digits`. digits.npz holds 8 x 8
images of 0 to 16 with their labels and rows in `load_digits`, split once by `holdout` into 1,197 for training,
300 for validation (the last of `trainval`) and 300 for testing, each with the same shares of the classes.
"""

import hashlib
import io
from importlib import resources

import numpy as np
import torch

from pocket_resnet.data.source import Source, Split, Verification
from pocket_resnet.errors import DataError

NUM_VAL = NUM_TEST = 300
IMAGE_SIZE = 32
_SCALE = IMAGE_SIZE // 8
_MAX_VALUE = 16


class Digits(Source):
    """The digits as 32 x 32 RGB: each of the 8 x 8 pixels becomes a 4 x 4 block, and 16 becomes 255."""

    name = "digits"
    class_names = tuple("0123456789")
    image_size = IMAGE_SIZE
    num_val = NUM_VAL
    num_test = NUM_TEST
    flip_invariant = False

    def __init__(self) -> None:
        file = resources.files("pocket_resnet.data") / "digits.npz"
        self.where = str(file)
        self._content = file.read_bytes()
        self.fingerprint = hashlib.sha256(self._content).hexdigest()

    def trainval(self) -> Split:
        """1,497 images; the last `num_val` are for validation."""
        return self._load("trainval")

    def test(self) -> Split:
        """300 images."""
        return self._load("test")

    def verify(self) -> Verification:
        """Read the whole file, which has a checksum of each part. Raises DataError if it is damaged."""
        self.trainval()
        self.test()
        return Verification(1)

    def _load(self, part: str) -> Split:
        try:
            with np.load(io.BytesIO(self._content), allow_pickle=False) as arrays:
                small_N88, labels_N = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        except Exception as error:  # zip, zlib and npy raise different ones
            raise DataError(f"damaged: {error}", where=self.where, hint="reinstall the package") from error
        grey_N88 = (small_N88.astype(np.uint16) * 255 + _MAX_VALUE // 2) // _MAX_VALUE
        grey_NHW = grey_N88.astype(np.uint8).repeat(_SCALE, axis=1).repeat(_SCALE, axis=2)
        images_NCHW = torch.from_numpy(grey_NHW)[:, None].expand(-1, 3, -1, -1).contiguous()
        return Split(images_NCHW, torch.from_numpy(labels_N.astype(np.int64)))
