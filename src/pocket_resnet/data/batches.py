"""Which samples make up which step: a pure function of (seed, epoch, step).

Where only the hardest share of the images is trained, a step looks at more candidates than it trains, and
training/selection.py chooses. The last, smaller step of an epoch is trained too, but a single left-over image is
dropped: batch norm has nothing to compare it with.

Shapes: N samples, C candidates of a step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pocket_resnet.errors import UsageError
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.seeds import generator


@dataclass(frozen=True)
class Steps:
    """How a run of the recipe over so many samples is cut into optimizer steps.

    Raises UsageError where a step needs more images than there are.
    """

    num_samples: int
    recipe: Recipe

    def __post_init__(self) -> None:
        if self.num_candidates > self.num_samples:
            batch_size, hardest = self.recipe.batch_size, self.recipe.hardest
            looks = "" if hardest == 1 else f" of the hardest {hardest:g} looks at {self.num_candidates} images and"
            raise UsageError(
                f"batch_size {batch_size}{looks} exceeds the {self.num_samples} training images",
                mend=f"use fewer, for example --batch-size {_suggested(int(self.num_samples * hardest))}",
            )

    @property
    def num_candidates(self) -> int:
        """How many images a step looks at, but for the last of an epoch."""
        return round(self.recipe.batch_size / self.recipe.hardest)

    @property
    def per_epoch(self) -> int:
        """How many steps an epoch has."""
        whole, rest = divmod(self.num_samples, self.num_candidates)
        return whole + (rest > 1)

    @property
    def total(self) -> int:
        """How many steps the run has, if nothing stops it."""
        return self.recipe.epochs * self.per_epoch

    def candidates(self, order_N: Tensor, step: int) -> Tensor:
        """The sample indices that the step looks at, int64 [C], in the order of its epoch."""
        start = step % self.per_epoch * self.num_candidates
        return order_N[start : start + self.num_candidates]

    def share(self, step: int) -> float:
        """The share of its candidates that the step trains: the hardest, from `hardest_until` on all of them."""
        return self.recipe.hardest if step < round(self.recipe.hardest_until * self.total) else 1.0

    def num_trained(self, step: int) -> int:
        """How many images the step trains: two at the least where there are two, for batch norm."""
        num_left = self.num_samples - step % self.per_epoch * self.num_candidates
        count = min(self.num_candidates, num_left)
        return max(min(2, count), round(count * self.share(step)))


def _suggested(num_samples: int) -> int:
    """A power of two that gives an epoch at least four steps where there are images enough."""
    return max(2, min(64, 1 << max(1, (num_samples // 4).bit_length() - 1)))


def epoch_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """The epoch's permutation of the sample indices, int64 [N]."""
    return torch.randperm(num_samples, generator=generator(seed, "order", epoch))
