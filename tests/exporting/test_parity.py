"""When a file is refused: figures beyond the limits, NaN, pictures prepared in another way."""

from dataclasses import replace

import pytest

from pocket_resnet.exporting.parity import Comparison, ExportPrecision, ParityError, check

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
    ("precision", "changes"),
    [
        ("fp32", {}),
        ("fp16", {"largest_difference": 0.01}),
        ("int8", {"agreement": 0.993, "num_lost": 20, "num_won": 10}),
        ("int8", {"num_images": 300, "agreement": 0.99, "num_lost": 3, "num_won": 1}),
    ],
)
def test_within_the_limits(precision: ExportPrecision, changes: dict[str, float]) -> None:
    check(replace(SAME, **changes), precision)


@pytest.mark.threat(32)
@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("fp32", {"largest_difference": 2e-4}),
        ("fp32", {"largest_difference": float("nan")}),
        ("fp16", {"largest_difference": float("nan")}),
        ("fp16", {"agreement": 0.99}),
        ("int8", {"agreement": 0.992}),
        ("int8", {"num_lost": 30, "num_won": 10}),
        ("int8", {"num_images": 300, "agreement": 0.99, "num_lost": 3}),
    ],
)
def test_beyond_the_limits(precision: ExportPrecision, changes: dict[str, float]) -> None:
    with pytest.raises(ParityError, match=rf"the {precision} file differs from the model: largest logit difference"):
        check(replace(SAME, **changes), precision)
