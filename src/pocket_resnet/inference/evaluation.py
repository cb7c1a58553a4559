"""The result of an evaluation: a network's predictions for a split, and their statistics, computed when they are read.

Shapes: N images, K classes, M chosen images.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pocket_resnet.device import Precision
from pocket_resnet.inference.statistics import calibration_error, wilson_interval


@dataclass(frozen=True)
class ClassResult:
    """The result for one class."""

    name: str
    num_images: int
    accuracy: float | None
    interval: tuple[float, float] | None


class Confusion(NamedTuple):
    """Number of images of one class predicted as another, and their share of the class."""

    true: str
    predicted: str
    num_images: int
    share: float


class ImageOutcome(NamedTuple):
    """One image's true class, its predicted class, and the probabilities of both."""

    image: str
    """Its file, relative to the data's folder; without a file, its index in the split."""
    true: str
    predicted: str
    probability: float
    """Of the predicted class."""
    true_probability: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A network's predictions for a split; shares are 0 to 1.

    With many classes the confusion matrix is large, so it is built only when `confusion` is read.
    """

    probabilities_NK: Tensor
    """The probability of each class for each image, float32 on the CPU."""
    labels_N: Tensor
    """The true class of each image, int64, in the order of the split."""
    class_names: tuple[str, ...]
    split: str
    views: int = 1
    precision: Precision = "fp32"
    caveat: str | None = None
    """Why the accuracy may not be one on unseen images, otherwise None."""
    files: Sequence[str] = ()
    """The file of each image, relative to the data's folder; empty if the images have no files of their own."""

    def __repr__(self) -> str:
        """The main figures."""
        figures = f"accuracy={self.accuracy}, interval={self.interval}, num_images={self.num_images}"
        return f"Evaluation({figures}, split={self.split!r}, views={self.views}, precision={self.precision!r})"

    @cached_property
    def confidence_N(self) -> Tensor:
        """The probability of the predicted class of each image."""
        return self.probabilities_NK.amax(1)

    @cached_property
    def predicted_N(self) -> Tensor:
        """The predicted class of each image."""
        return self.probabilities_NK.argmax(1)

    @cached_property
    def hit_N(self) -> Tensor:
        """Whether each image is classified correctly."""
        return self.predicted_N == self.labels_N

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.labels_N)

    @cached_property
    def accuracy(self) -> float:
        """The share of correctly classified images."""
        return int(self.hit_N.sum()) / self.num_images

    @property
    def interval(self) -> tuple[float, float]:
        """The accuracy's 95% interval (Wilson)."""
        return wilson_interval(int(self.hit_N.sum()), self.num_images)

    @cached_property
    def nll(self) -> float:
        """Negative log-likelihood, in nats per image."""
        return float(-self._of_truth_N.double().clamp(min=1e-12).log().mean())

    @cached_property
    def ece(self) -> float:
        """Expected calibration error over 15 bins of confidence."""
        return calibration_error(self.confidence_N, self.hit_N)

    @cached_property
    def per_class(self) -> tuple[ClassResult, ...]:
        """The result for each class, in the order of the model's classes."""
        num_images_K = self._count_by_class(self.labels_N).tolist()
        num_hits_K = self._count_by_class(self.labels_N[self.hit_N]).tolist()
        return tuple(map(_class_result, self.class_names, num_images_K, num_hits_K))

    @cached_property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """`confusion[true][predicted]` counts images."""
        num_classes = len(self.class_names)
        counts = torch.bincount(self.labels_N * num_classes + self.predicted_N, minlength=num_classes**2)
        return tuple(map(tuple, counts.view(num_classes, num_classes).tolist()))

    def confusions(self, count: int | None = 10) -> list[Confusion]:
        """The `count` most frequent mistakes, or all of them, each a pair of classes."""
        num_classes, wrong_N = len(self.class_names), ~self.hit_N
        pairs_M = self.labels_N[wrong_N] * num_classes + self.predicted_N[wrong_N]
        num_images_K = self._count_by_class(self.labels_N).tolist()
        mistakes = []
        for pair, num_images in Counter(pairs_M.sort().values.tolist()).most_common(count):
            true, predicted = divmod(pair, num_classes)
            share = num_images / num_images_K[true]
            mistakes.append(Confusion(self.class_names[true], self.class_names[predicted], num_images, share))
        return mistakes

    def surest_mistakes(self, count: int) -> Tensor:
        """The indices of wrongly classified images, most confident first."""
        return self._by_confidence(~self.hit_N, descending=True)[:count]

    def doubtful_hits(self, count: int) -> Tensor:
        """The indices of correctly classified images, least confident first."""
        return self._by_confidence(self.hit_N, descending=False)[:count]

    def outcomes(self, chosen_M: Tensor | None = None) -> list[ImageOutcome]:
        """The outcome for each image in the order of the split, or for the images with these indices."""
        chosen_M = torch.arange(self.num_images) if chosen_M is None else chosen_M
        columns = self.labels_N, self.predicted_N, self.confidence_N, self._of_truth_N
        rows = zip(chosen_M.tolist(), *(values_N[chosen_M].tolist() for values_N in columns), strict=True)
        files, names = self.files, self.class_names
        return [
            ImageOutcome(files[index] if files else str(index), names[true], names[predicted], sure, sure_of_truth)
            for index, true, predicted, sure, sure_of_truth in rows
        ]

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints; `confusion[true][predicted]` counts images."""
        return {
            "accuracy": self.accuracy,
            "interval": self.interval,
            "num_images": self.num_images,
            "split": self.split,
            "views": self.views,
            "precision": self.precision,
            "per_class": {
                result.name: {
                    "num_images": result.num_images,
                    "accuracy": result.accuracy,
                    "interval": result.interval,
                }
                for result in self.per_class
            },
            "confusion": self.confusion,
            "nll": self.nll,
            "ece": self.ece,
            "caveat": self.caveat,
        }

    @cached_property
    def _of_truth_N(self) -> Tensor:
        """The probability of the true class of each image."""
        return self.probabilities_NK.gather(1, self.labels_N[:, None])[:, 0]

    def _count_by_class(self, classes_M: Tensor) -> Tensor:
        return torch.bincount(classes_M, minlength=len(self.class_names))

    def _by_confidence(self, is_chosen_N: Tensor, *, descending: bool) -> Tensor:
        chosen_M = is_chosen_N.nonzero().flatten()
        return chosen_M[self.confidence_N[chosen_M].argsort(descending=descending, stable=True)]


def _class_result(name: str, num_images: int, num_hits: int) -> ClassResult:
    if num_images == 0:
        return ClassResult(name, 0, None, None)
    return ClassResult(name, num_images, num_hits / num_images, wilson_interval(num_hits, num_images))
