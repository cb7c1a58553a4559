"""Which samples are held out of training: the same ones on every machine and in every run.

Samples are ranked by a hash of their key, class by class. With content as the key, neither renaming nor
adding images moves the others, and copies of one image stay side by side.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pocket_resnet import seeds

Label = TypeVar("Label", int, str)

HOLDOUT_SEED = 20_090_408  # fixed: the run's seed must not change what is validated on


def hold_out(labels: Sequence[Label], keys: Sequence[int | str], quotas: Mapping[Label, int]) -> set[int]:
    """Indices of quotas[label] samples of each label, chosen by their keys."""
    ranked = sorted(range(len(labels)), key=lambda index: (seeds.derive(HOLDOUT_SEED, keys[index]), index))
    left = dict(quotas)
    chosen = set()
    for index in ranked:
        if left.get(labels[index], 0) > 0:
            left[labels[index]] -= 1
            chosen.add(index)
    return chosen


def proportional(labels: Sequence[Label], total: int) -> dict[Label, int]:
    """Quotas that add up to the total, in proportion to the classes' sizes (largest remainder)."""
    sizes = Counter(labels)
    shares = {label: total * size / len(labels) for label, size in sorted(sizes.items())}
    quotas = {label: int(share) for label, share in shares.items()}
    by_remainder = sorted(shares, key=lambda label: quotas[label] - shares[label])
    for label in by_remainder[: total - sum(quotas.values())]:
        quotas[label] += 1
    return quotas
