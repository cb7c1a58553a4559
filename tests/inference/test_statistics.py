"""Intervals, calibration and paired tests against SciPy and slow loops.

Shapes: N images, K classes.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_ind
from scipy.stats import t as student

from pocket_resnet.inference.statistics import (
    NUM_CALIBRATION_BINS,
    calibration_bins,
    calibration_error,
    paired_difference,
    t_quantile_95,
    welch_interval,
    wilson_interval,
)
from random_predictions import predictions


@pytest.mark.threat(75)
@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval(counts: tuple[int, int]) -> None:
    hits, num_images = counts
    expected = binomtest(hits, num_images).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(hits, num_images) == pytest.approx((expected.low, expected.high), abs=1e-12)


def slow_calibration_error(confidence: list[float], hit: list[bool]) -> float:
    total = 0.0
    for m in range(NUM_CALIBRATION_BINS):
        low, high = m / NUM_CALIBRATION_BINS, (m + 1) / NUM_CALIBRATION_BINS
        inside = [index for index, value in enumerate(confidence) if low < value <= high]
        if inside:
            accuracy = sum(hit[index] for index in inside) / len(inside)
            mean = sum(confidence[index] for index in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.threat(76)
def test_calibration_error() -> None:
    probabilities_NK, labels_N = predictions()
    confidence_N, hit_N = probabilities_NK.amax(1), probabilities_NK.argmax(1) == labels_N
    expected = slow_calibration_error(confidence_N.tolist(), hit_N.tolist())
    assert expected > 0.1
    assert calibration_error(confidence_N, hit_N) == pytest.approx(expected, abs=1e-6)
    assert calibration_error(torch.tensor([1.0, 1.0]), torch.tensor([True, True])) == 0
    assert calibration_error(torch.tensor([1.0, 1.0]), torch.tensor([False, True])) == pytest.approx(0.5)


@pytest.mark.threat(76)
def test_calibration_bins() -> None:
    """Each image is in one bin, also those with probability 1."""
    bins = calibration_bins(torch.tensor([0.2, 0.3, 0.35, 1.0]), torch.tensor([True, False, True, True]))
    assert [each.num_images for each in bins] == [1, 1, 1, 1]
    assert [each.accuracy for each in bins] == [1, 0, 1, 1]
    probabilities_NK, labels_N = predictions()
    bins = calibration_bins(probabilities_NK.amax(1), probabilities_NK.argmax(1) == labels_N)
    assert sum(each.num_images for each in bins) == len(labels_N)
    assert [each.confidence for each in bins] == sorted(each.confidence for each in bins)


@pytest.mark.threat(75)
@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (3, 12), (12, 3), (7, 7), (400, 455), (0, 90)])
def test_paired_difference(only_first: int, only_second: int) -> None:
    """p equals scipy's; images that both or neither classified correctly do not count."""
    both = [True] * 5 + [False] * 3
    first_N = torch.tensor(both + [True] * only_first + [False] * only_second)
    second_N = torch.tensor(both + [False] * only_first + [True] * only_second)
    difference = paired_difference(first_N, second_N)
    assert (difference.num_only_first, difference.num_only_second) == (only_first, only_second)
    total = only_first + only_second
    assert difference.p == pytest.approx(binomtest(only_first, total).pvalue if total else 1, rel=1e-9)


@pytest.mark.parametrize("freedom", [1, 2, 2.25, 4, 10, 1000])
def test_quantiles_of_students_t(freedom: float) -> None:
    assert t_quantile_95(freedom) == pytest.approx(student.ppf(0.975, freedom), rel=1e-3)


@pytest.mark.parametrize(("first", "second"), [([1, 2, 3], [6, 10, 14]), ([0.99, 0.991, 0.989], [0.99, 0.992])])
def test_welch_interval(first: list[float], second: list[float]) -> None:
    expected = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert welch_interval(first, second) == pytest.approx(tuple(expected), rel=1e-3)
    assert welch_interval([1, 1], [3, 3]) == (-2, -2)
