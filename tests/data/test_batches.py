"""Batches: every sample once an epoch, in an order that depends on seed and epoch alone."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pocket_resnet.data.batches import Steps, epoch_order
from pocket_resnet.errors import UsageError
from pocket_resnet.recipe.schema import Recipe


def steps_of(num_samples: int, batch_size: int, hardest: float = 1.0, until: float = 1.0, epochs: int = 1) -> Steps:
    recipe = Recipe(batch_size=batch_size, epochs=epochs, hardest_until=until)
    return Steps(num_samples, recipe.model_copy(update={"hardest": hardest}))  # also where that leaves nothing out


@given(num_samples=st.integers(1, 300), batch_size=st.integers(1, 300), epoch=st.integers(0, 99), seed=st.integers(0))
def test_each_sample_once(num_samples: int, batch_size: int, epoch: int, seed: int) -> None:
    """But for one image that would be a batch of its own; batches are full but for the last."""
    assume(batch_size <= num_samples)
    order_N, steps = epoch_order(num_samples, seed, epoch), steps_of(num_samples, batch_size)
    first = epoch * steps.per_epoch
    batches = [steps.candidates(order_N, first + step).tolist() for step in range(steps.per_epoch)]
    seen = [index for batch in batches for index in batch]
    num_dropped = int(num_samples % batch_size == 1 and batch_size > 1)
    assert len(seen) == len(set(seen)) == num_samples - num_dropped
    assert set(seen) <= set(range(num_samples))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches[-1]) > 1 or batch_size == 1


def test_order_depends_on_seed_and_epoch() -> None:
    first = epoch_order(50, 0, 0)
    assert torch.equal(first, epoch_order(50, 0, 0))
    for seed, epoch in ((0, 1), (1, 0), (0, 10)):
        assert not torch.equal(first, epoch_order(50, seed, epoch))


def test_the_dropped_image_is_another_one_each_epoch() -> None:
    assert len({int(epoch_order(11, 0, epoch)[-1]) for epoch in range(20)}) > 3


def test_batch_beyond_the_data() -> None:
    """Row 15."""
    assert steps_of(5, 5).per_epoch == 1
    with pytest.raises(UsageError, match="batch_size 6 exceeds the 5 training images"):
        steps_of(5, 6)
    with pytest.raises(UsageError, match=r"of the hardest 0\.5 looks at 8 images and exceeds the 7") as raised:
        steps_of(7, 4, 0.5)
    assert raised.value.mend == "use fewer, for example --batch-size 2"
    assert steps_of(7, 2, 0.5).per_epoch == 2


@given(num_samples=st.integers(40, 300), batch_size=st.integers(2, 40), hardest=st.floats(0.05, 1))
def test_how_many_are_trained(num_samples: int, batch_size: int, hardest: float) -> None:
    """Whole batches but for the last of an epoch, which trains its share of what is left."""
    assume(round(batch_size / hardest) <= num_samples)
    steps = steps_of(num_samples, batch_size, hardest)
    found = [steps.num_trained(step) for step in range(steps.per_epoch)]
    assert found[:-1] == [batch_size] * (steps.per_epoch - 1)
    left = len(steps.candidates(torch.arange(num_samples), steps.per_epoch - 1))
    assert found[-1] == pytest.approx(max(min(2, left), left * hardest), abs=0.5)


@given(hardest=st.floats(0.05, 0.9), until=st.floats(0.01, 1), epochs=st.integers(1, 9))
def test_from_a_part_of_the_run_on_all_are_trained(hardest: float, until: float, epochs: int) -> None:
    steps = steps_of(600, 20, hardest, until, epochs)
    found = [steps.share(step) for step in range(steps.total)]
    num_chosen = round(until * steps.total)
    assert found == [hardest] * num_chosen + [1.0] * (steps.total - num_chosen)
    order_N = torch.arange(600)
    assert all(
        steps.num_trained(step) == len(steps.candidates(order_N, step)) for step in range(num_chosen, steps.total)
    )
