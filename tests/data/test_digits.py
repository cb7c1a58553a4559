"""The digits are scikit-learn's, in three stratified splits.

To write the file again: python tests/data/test_digits.py
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pocket_resnet import seeds
from pocket_resnet.data import digits
from pocket_resnet.data.holdout import HOLDOUT_SEED
from pocket_resnet.data.source import Verification

FILE = Path(digits.__file__).with_name("digits.npz")


def hold_out(labels: Sequence[int], keys: Sequence[int], quotas: Mapping[int, int]) -> set[int]:
    """Indices of quotas[label] samples of each label, chosen by their keys."""
    ranked = sorted(range(len(labels)), key=lambda index: (seeds.derive(HOLDOUT_SEED, keys[index]), index))
    left = dict(quotas)
    chosen = set()
    for index in ranked:
        if left.get(labels[index], 0) > 0:
            left[labels[index]] -= 1
            chosen.add(index)
    return chosen


def proportional(labels: Sequence[int], total: int) -> dict[int, int]:
    """Quotas that add up to the total, in proportion to the classes' sizes (largest remainder)."""
    sizes = Counter(labels)
    shares = {label: total * size / len(labels) for label, size in sorted(sizes.items())}
    quotas = {label: int(share) for label, share in shares.items()}
    by_remainder = sorted(shares, key=lambda label: quotas[label] - shares[label])
    for label in by_remainder[: total - sum(quotas.values())]:
        quotas[label] += 1
    return quotas


def arrays_from_sklearn() -> dict[str, NDArray[np.generic]]:
    bunch = load_digits()
    labels = [int(label) for label in bunch.target]
    rows = list(range(len(labels)))
    parts = {}
    for part, count in (("test", digits.NUM_TEST), ("val", digits.NUM_VAL)):
        rest = [labels[row] for row in rows]
        held = hold_out(rest, rows, proportional(rest, count))
        parts[part] = [row for index, row in enumerate(rows) if index in held]
        rows = [row for index, row in enumerate(rows) if index not in held]
    arrays = {}
    for part, chosen in (("trainval", rows + parts["val"]), ("test", parts["test"])):
        arrays[f"{part}_images"] = bunch.images[chosen].astype(np.uint8)
        arrays[f"{part}_labels"] = bunch.target[chosen].astype(np.uint8)
        arrays[f"{part}_rows"] = np.array(chosen, np.uint16)
    return arrays


def test_shipped_file_equals_sklearn() -> None:
    expected = arrays_from_sklearn()
    with np.load(FILE, allow_pickle=False) as shipped:
        assert set(shipped.files) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(shipped[name], array, err_msg=name)
            assert shipped[name].dtype == array.dtype
    rows = np.concatenate([expected["trainval_rows"], expected["test_rows"]])
    assert sorted(rows) == list(range(1797))


def test_splits_are_stratified() -> None:
    reader = digits.Digits()
    trainval_N, test_N = reader.trainval().labels_N, reader.test().labels_N
    assert (len(trainval_N), len(test_N)) == (1497, 300)
    for labels_N in (trainval_N[: -reader.num_val], trainval_N[-reader.num_val :], test_N):
        counts = torch.bincount(labels_N, minlength=10) / len(labels_N)
        assert counts.min() > 0.09
        assert counts.max() < 0.11


def test_shown_as_rgb_of_32_px_in_blocks_of_4() -> None:
    split = digits.Digits().trainval()
    images_NCHW, labels_N = split.images_NCHW, split.labels_N
    assert images_NCHW.shape == (1497, 3, 32, 32)
    assert images_NCHW.dtype == torch.uint8
    assert labels_N.dtype == torch.int64
    assert images_NCHW.is_contiguous()
    small_N88 = images_NCHW[:, 0, ::4, ::4]
    with np.load(FILE) as shipped:
        np.testing.assert_array_equal(np.round(small_N88.numpy() / 255 * 16), shipped["trainval_images"])
    assert torch.equal(small_N88.repeat_interleave(4, 1).repeat_interleave(4, 2), images_NCHW[:, 2])
    assert (images_NCHW.min(), images_NCHW.max()) == (0, 255)


def test_verify_reads_everything() -> None:
    assert digits.Digits().verify() == Verification(num_files=1)


if __name__ == "__main__":
    np.savez_compressed(FILE, **arrays_from_sklearn())
