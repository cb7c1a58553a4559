"""Batches: every sample once an epoch, in an order that depends on seed and epoch alone."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pocket_resnet.data.batches import batch_indices, epoch_order, steps_per_epoch
from pocket_resnet.errors import UsageError


@given(num_samples=st.integers(1, 300), batch_size=st.integers(1, 300), epoch=st.integers(0, 99), seed=st.integers(0))
def test_each_sample_once(num_samples: int, batch_size: int, epoch: int, seed: int) -> None:
    """But for one image that would be a batch of its own; batches are full but for the last."""
    assume(batch_size <= num_samples)
    order_N = epoch_order(num_samples, seed, epoch)
    num_steps = steps_per_epoch(num_samples, batch_size)
    batches = [batch_indices(order_N, step, batch_size).tolist() for step in range(num_steps)]
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
    assert steps_per_epoch(5, 5) == 1
    with pytest.raises(UsageError, match="batch_size 6 exceeds the 5 training images"):
        steps_per_epoch(5, 6)
    with pytest.raises(UsageError, match=r"of the hardest 0\.5 looks at 8 images and exceeds the 7") as raised:
        steps_per_epoch(7, 4, 0.5)
    assert raised.value.mend == "use fewer, for example --batch-size 2"
    assert steps_per_epoch(7, 2, 0.5) == 2
