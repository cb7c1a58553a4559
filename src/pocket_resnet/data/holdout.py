"""Chooses the samples to hold out of training: the same ones on every machine and in every run.

`Holdout` decides about each image of a folder by its content alone: no image changes sides when the folder grows, and
copies of an image are on the same side. `hold_out` selects exact numbers; it was used to split the digits.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from pocket_resnet import seeds

Label = TypeVar("Label", int, str)

HOLDOUT_SEED = 20_090_408  # fixed: the run's seed must not change the validation images


@dataclass(frozen=True)
class Holdout:
    """The contents held out of training, and the small classes that needed an exception."""

    contents: frozenset[str]
    exceptions: tuple[str, ...]

    @classmethod
    def of(cls, classes: Mapping[str, Iterable[str]], share: float) -> Self:
        """Hold out about this share of the contents (hashes) of each class.

        A content is held out if its rank is below the share, with two exceptions. If a class has two or more contents
        and none is held out, its lowest-ranked one is. If all of them are held out, its highest-ranked one is trained
        on. An exception ends, and its image switches sides, once the class has grown enough for the first rule. If
        classes share a content, the second exception wins, so every class has an image to train on.
        """
        ranked = {name: sorted(set(contents), key=_rank) for name, contents in classes.items()}
        held = {content for contents in ranked.values() for content in contents if _rank(content) < share}
        unseen = {
            name: contents[0] for name, contents in ranked.items() if len(contents) > 1 and not held & {*contents}
        }
        held |= set(unseen.values())
        untrained = {name: contents[-1] for name, contents in ranked.items() if contents and held >= {*contents}}
        held -= set(untrained.values())
        return cls(frozenset(held), tuple(name for name in ranked if name in unseen or name in untrained))


def _rank(content: str) -> float:
    """A number from 0 to 1 that depends on the content alone."""
    return seeds.derive(HOLDOUT_SEED, content) / 2**63


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
