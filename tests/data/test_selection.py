"""Which images are trained: the hard_fraction of a step's candidates with the highest last loss."""

import torch

from pocket_resnet.data.selection import Selection

CPU = torch.device("cpu")


def test_hardest_images_keep_their_order() -> None:
    selection = Selection(6, CPU)
    selection.record_losses(torch.arange(6), torch.tensor([0.1, 3.0, 0.2, 2.0, 0.3, 1.0]))
    assert selection(torch.tensor([0, 1, 2, 3]), 2).tolist() == [1, 3]
    assert selection(torch.tensor([5, 4, 3, 0]), 2).tolist() == [5, 3]
    selection.record_losses(torch.tensor([3]), torch.tensor([0.0]))
    assert selection(torch.tensor([5, 4, 3, 0]), 2).tolist() == [5, 4]


def test_untrained_images_come_first() -> None:
    selection = Selection(4, CPU)
    assert selection(torch.tensor([2, 0, 1, 3]), 2).tolist() == [2, 0]
    selection.record_losses(torch.tensor([2, 0]), torch.tensor([9.0, 8.0]))
    assert selection(torch.tensor([0, 1, 2, 3]), 2).tolist() == [1, 3]


def test_every_image_is_trained_again() -> None:
    """An image with a low loss is skipped until the others' losses have fallen below it."""
    selection, trained = Selection(8, CPU), torch.zeros(8)
    for _ in range(12):
        chosen_B = selection(torch.arange(8), 4)
        trained[chosen_B] += 1
        selection.record_losses(chosen_B, selection.loss_N[chosen_B].clamp(max=2.0 + chosen_B) * 0.7)
    assert trained.min() >= 3


def test_visits_are_counted_and_kept() -> None:
    selection, resumed = Selection(4, CPU), Selection(4, CPU)
    for chosen in ([0, 1], [1, 2], [1, 0]):
        selection.record_losses(torch.tensor(chosen), torch.ones(2))
    assert selection.visits_N.tolist() == [2, 3, 1, 0]
    resumed.load_tensors(selection.tensors())
    assert resumed.visits_N.tolist() == [2, 3, 1, 0]


def test_selecting_all_candidates_returns_them() -> None:
    candidates_C = torch.tensor([2, 0, 1])
    assert Selection(4, CPU)(candidates_C, 3) is candidates_C


def test_losses_for_another_number_of_images_are_ignored() -> None:
    kept = Selection(4, CPU)
    kept.record_losses(torch.arange(4), torch.arange(4.0))
    for num_samples, expected in ((4, [2, 3]), (5, [0, 1])):
        other = Selection(num_samples, CPU)
        other.load_tensors(kept.tensors())
        assert other(torch.arange(4), 2).tolist() == expected
    other.load_tensors({})
    assert other(torch.arange(4), 2).tolist() == [0, 1]
