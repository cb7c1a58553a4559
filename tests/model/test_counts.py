"""Numbers of operations in words."""

import pytest

from pocket_resnet.model.counts import operations


@pytest.mark.parametrize(
    ("flops", "expected"),
    [
        (0, "0 GFLOP"),
        (4.2e5, "0.00042 GFLOP"),
        (3_093_747_048, "3.09 GFLOP"),
        (9.996e11, "1 TFLOP"),
        (2.358e14, "236 TFLOP"),
        (1.051131e17, "105 PFLOP"),
        (2.5e19, "25,000 PFLOP"),
    ],
)
def test_the_unit_suits_the_number(flops: float, expected: str) -> None:
    assert operations(flops) == expected
