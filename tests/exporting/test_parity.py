"""When a file is refused: figures beyond the limits, NaN, pictures prepared in another way."""

from dataclasses import replace

import pytest

from pocket_resnet.exporting.parity import Comparison, ParityError, Precision, check

SAME = Comparison(
    num_images=5000,
    largest_difference=1e-5,
    agreement=1.0,
    accuracy=0.9,
    accuracy_exported=0.9,
    num_lost=0,
    num_won=0,
)


@pytest.mark.threat(32)
@pytest.mark.parametrize(
    ("precision", "changes", "is_refused"),
    [
        ("fp32", {}, False),
        ("fp32", {"largest_difference": 2e-4}, True),
        ("fp32", {"largest_difference": float("nan")}, True),
        ("fp16", {"largest_difference": 0.01}, False),
        ("fp16", {"largest_difference": float("nan")}, True),
        ("fp16", {"agreement": 0.99}, True),
        ("int8", {"agreement": 0.993, "num_lost": 20, "num_won": 10}, False),
        ("int8", {"agreement": 0.992}, True),
        ("int8", {"num_lost": 30, "num_won": 10}, True),
        ("int8", {"num_images": 300, "agreement": 0.99, "num_lost": 3}, True),
        ("int8", {"num_images": 300, "agreement": 0.99, "num_lost": 3, "num_won": 1}, False),
    ],
)
def test_limits(precision: Precision, changes: dict[str, float], is_refused: bool) -> None:
    comparison = replace(SAME, **changes)
    if not is_refused:
        check(comparison, precision)
        return
    with pytest.raises(ParityError, match=rf"the {precision} file differs from the model: largest logit difference"):
        check(comparison, precision)
