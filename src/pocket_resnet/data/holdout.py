"""Chooses the samples to hold out of training: the same ones on every machine and in every run.

`Holdout` decides about each image of a folder by its content alone: no image changes sides when the folder grows, and
copies of an image are on the same side.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from pocket_resnet import seeds

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
