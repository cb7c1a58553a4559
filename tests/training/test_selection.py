"""Which images are trained: the hardest of a step's candidates, by what they last cost."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pocket_resnet.data.batches import batch_indices, num_candidates, steps_per_epoch
from pocket_resnet.training.selection import Selection, fewest_trained, num_chosen

CPU = torch.device("cpu")


def test_the_hardest_in_the_candidates_order() -> None:
    selection = Selection(6, CPU)
    selection.note(torch.arange(6), torch.tensor([0.1, 3.0, 0.2, 2.0, 0.3, 1.0]))
    assert selection(torch.tensor([0, 1, 2, 3]), 0.5).tolist() == [1, 3]
    assert selection(torch.tensor([5, 4, 3, 0]), 0.5).tolist() == [5, 3]
    selection.note(torch.tensor([3]), torch.tensor([0.0]))
    assert selection(torch.tensor([5, 4, 3, 0]), 0.5).tolist() == [5, 4]


def test_what_was_never_trained_comes_first() -> None:
    selection = Selection(4, CPU)
    assert selection(torch.tensor([2, 0, 1, 3]), 0.5).tolist() == [2, 0]
    selection.note(torch.tensor([2, 0]), torch.tensor([9.0, 8.0]))
    assert selection(torch.tensor([0, 1, 2, 3]), 0.5).tolist() == [1, 3]


def test_every_image_comes_back() -> None:
    """One whose loss stays low is passed over until the others' have fallen below it."""
    selection, trained = Selection(8, CPU), torch.zeros(8)
    for _ in range(12):
        chosen_B = selection(torch.arange(8), 0.5)
        trained[chosen_B] += 1
        selection.note(chosen_B, selection.loss_N[chosen_B].clamp(max=2.0 + chosen_B) * 0.7)
    assert trained.min() >= 3


@given(num_candidates=st.integers(1, 2000), share=st.floats(0.05, 1))
def test_how_many(num_candidates: int, share: float) -> None:
    found = num_chosen(num_candidates, share)
    assert found == pytest.approx(max(min(2, num_candidates), num_candidates * share), abs=0.5)


@given(batch_size=st.integers(2, 2000), share=st.floats(0.05, 1))
def test_full_steps_train_whole_batches(batch_size: int, share: float) -> None:
    assert num_chosen(num_candidates(batch_size, share), share) == batch_size


def test_with_a_share_of_one_nothing_is_chosen_or_kept() -> None:
    selection, candidates_C = Selection(0, CPU), torch.tensor([2, 0, 1])
    assert selection(candidates_C, 1.0) is candidates_C
    assert selection.tensors() == {}
    selection.load_tensors({"loss": torch.zeros(4)})


def test_losses_of_another_number_of_images_are_not_taken_up() -> None:
    kept = Selection(4, CPU)
    kept.note(torch.arange(4), torch.arange(4.0))
    for num_samples, expected in ((4, [2, 3]), (5, [0, 1])):
        other = Selection(num_samples, CPU)
        other.load_tensors(kept.tensors())
        assert other(torch.arange(4), 0.5).tolist() == expected
    other.load_tensors({})
    assert other(torch.arange(4), 0.5).tolist() == [0, 1]


@given(num_samples=st.integers(2, 300), batch_size=st.integers(2, 40), share=st.floats(0.05, 1))
def test_smallest_step_is_the_smallest(num_samples: int, batch_size: int, share: float) -> None:
    step_size = num_candidates(batch_size, share)
    assume(step_size <= num_samples)
    order_N = torch.arange(num_samples)
    steps = [batch_indices(order_N, step, step_size) for step in range(steps_per_epoch(num_samples, batch_size, share))]
    sizes = [num_chosen(len(candidates_C), share) for candidates_C in steps]
    assert fewest_trained(num_samples, batch_size, share) == min(sizes)
