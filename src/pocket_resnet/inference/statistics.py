"""Confidence intervals, calibration, and a test of whether two networks differ.

Shapes: N images, M bins.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_CALIBRATION_BINS = 15
Z_95 = 1.959963984540054  # the normal distribution's 97.5% quantile


def wilson_interval(hits: int, num_images: int) -> tuple[float, float]:
    """The 95% score interval of a share (Wilson 1927)."""
    share, squared = hits / num_images, Z_95**2 / num_images
    centre = (share + squared / 2) / (1 + squared)
    reach = Z_95 / (1 + squared) * math.sqrt(share * (1 - share) / num_images + squared / (4 * num_images))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def welch_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the difference of two means, first - second (Welch 1947, Biometrika 34).

    Each sample has at least two values. If neither varies, both ends are the difference itself.
    """
    difference = statistics.fmean(first) - statistics.fmean(second)
    variances = [statistics.variance(values) / len(values) for values in (first, second)]
    if sum(variances) == 0:
        return difference, difference
    freedom = sum(variances) ** 2 / sum(
        variance**2 / (len(values) - 1) for variance, values in zip(variances, (first, second), strict=True)
    )
    reach = t_quantile_95(freedom) * math.sqrt(sum(variances))
    return difference - reach, difference + reach


def t_quantile_95(freedom: float) -> float:
    """Student's t that is exceeded in size with 5% probability, for at least one degree of freedom.

    With t = sqrt(freedom) tan(angle), its density is proportional to cos(angle)^(freedom - 1), summed up to 95%.
    """
    num_bins = 100_000
    width = math.pi / 2 / num_bins
    total = math.sqrt(math.pi) / 2 * math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2))
    inside, number = 0.0, 0
    while inside < 0.95 * total:
        inside += math.cos((number + 0.5) * width) ** (freedom - 1) * width
        number += 1
    return math.sqrt(freedom) * math.tan(number * width)


@dataclass(frozen=True)
class CalibrationBin:
    """Images of similar confidence: their number, mean confidence, and share of correct predictions."""

    num_images: int
    confidence: float
    accuracy: float


def calibration_bins(confidence_N: Tensor, hit_N: Tensor) -> list[CalibrationBin]:
    """The non-empty ones of 15 equal bins from 0 to 1; a bin includes its upper bound, not its lower."""
    bins_N = (confidence_N.double() * NUM_CALIBRATION_BINS).ceil().long().clamp(1, NUM_CALIBRATION_BINS) - 1
    sums_3M = torch.zeros(3, NUM_CALIBRATION_BINS, dtype=torch.float64, device=confidence_N.device)
    for sums_M, values_N in zip(sums_3M, (torch.ones_like(confidence_N), confidence_N, hit_N), strict=True):
        sums_M.index_add_(0, bins_N, values_N.double())
    return [CalibrationBin(int(n), sure / n, hits / n) for n, sure, hits in sums_3M.T.tolist() if n]


def calibration_error(confidence_N: Tensor, hit_N: Tensor) -> float:
    """Expected calibration error over 15 equal bins of confidence (Guo et al. 2017, arXiv:1706.04599, section 2)."""
    gaps = (each.num_images * abs(each.accuracy - each.confidence) for each in calibration_bins(confidence_N, hit_N))
    return sum(gaps) / len(confidence_N)


@dataclass(frozen=True)
class PairedDifference:
    """Two networks on the same images: numbers that only one classified correctly, and the p-value."""

    num_only_first: int
    num_only_second: int
    p: float


def paired_difference(first_hit_N: Tensor, second_hit_N: Tensor) -> PairedDifference:
    """Whether two networks differ in accuracy: McNemar's exact two-sided test (1947, Psychometrika 12).

    p is the probability of a split at least as uneven of the images that only one classified correctly, if both
    networks were equally accurate; 1 if there are none.
    """
    only_first, only_second = int((first_hit_N & ~second_hit_N).sum()), int((second_hit_N & ~first_hit_N).sum())
    total = only_first + only_second
    log_chances = (
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(min(only_first, only_second) + 1)
    )
    return PairedDifference(only_first, only_second, min(1.0, 2 * math.fsum(map(math.exp, log_chances))))
