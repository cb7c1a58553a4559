"""Learning rate and image side over a run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocket_resnet.recipe.sections import ScheduleRecipe
from pocket_resnet.training.schedule import lr_factor


def factors(kind: str, warmup_epochs: float = 0.0, num_steps: int = 8) -> list[float]:
    schedule = ScheduleRecipe(shape=kind, warmup_epochs=warmup_epochs)  # type: ignore[arg-type]
    return [lr_factor(schedule, step, num_steps, steps_per_epoch=2) for step in range(num_steps + 1)]


def test_cosine() -> None:
    assert factors("cosine") == pytest.approx([(1 + math.cos(math.pi * step / 8)) / 2 for step in range(9)])


def test_linear() -> None:
    assert factors("linear") == pytest.approx([1 - step / 8 for step in range(9)])


def test_constant() -> None:
    assert factors("constant") == [1.0] * 9


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_warmup_rises_to_the_peak_where_the_decay_begins(kind: str) -> None:
    rates = factors(kind, warmup_epochs=2.0)
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:] == pytest.approx(factors(kind, num_steps=4))


@given(
    kind=st.sampled_from(["cosine", "linear", "constant"]),
    warmup_epochs=st.floats(0, 50),
    num_steps=st.integers(1, 200),
    steps_per_epoch=st.integers(1, 50),
)
def test_lr_factor_is_between_0_and_1(kind: str, warmup_epochs: float, num_steps: int, steps_per_epoch: int) -> None:
    """Even if the warm-up is longer than the run; above 0 at every step."""
    schedule = ScheduleRecipe(shape=kind, warmup_epochs=warmup_epochs)  # type: ignore[arg-type]
    rates = [lr_factor(schedule, step, num_steps, steps_per_epoch) for step in range(num_steps)]
    assert all(0 < value <= 1 for value in rates)
