"""The losses of a training step against computations by hand.

Shapes: B images per batch, N training images, K classes.
"""

import pytest
import torch
from torch.nn import functional as F

from pocket_resnet.data.augment import Targets
from pocket_resnet.training.trainer import balanced_weights, mixed_cross_entropy


def test_balanced_weights_are_inverse_to_counts_with_mean_1() -> None:
    """The mean is over images; a class without images counts as one image and changes nothing."""
    labels_N = torch.tensor([0] * 6 + [1] * 3 + [3])
    weights_K = balanced_weights(labels_N, 4)
    assert weights_K[labels_N].mean() == pytest.approx(1)
    assert weights_K[[0, 1, 3]].tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert balanced_weights(torch.arange(6) % 3, 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_weighted_loss_is_the_mean_of_weighted_losses(share: float) -> None:
    """Of both classes of a mixed image, with smoothed labels; independent of other images."""
    logits_BK, labels_B, others_B = torch.randn(5, 3), torch.tensor([0, 0, 1, 2, 0]), torch.tensor([1, 2, 2, 0, 1])
    weights_K, log_BK = torch.tensor([0.5, 1.0, 4.0]), logits_BK.log_softmax(1)
    expected = 0.0
    for log_K, label, other in zip(log_BK, labels_B, others_B, strict=True):
        for part, k in ((share, label), (1 - share, other)):
            expected += part * float(weights_K[k] * -(0.9 * log_K[k] + 0.1 * log_K.mean())) / 5
    loss = mixed_cross_entropy(logits_BK, Targets(labels_B, others_B, share), 0.1, weights_K)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_mixed_cross_entropy() -> None:
    logits_BK = torch.randn(5, 3, requires_grad=True)
    labels_B, others_B = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 2, 1, 0, 0])
    probabilities_BK = 0.3 * F.one_hot(labels_B, 3) + 0.7 * F.one_hot(others_B, 3)
    for smoothing in (0.0, 0.2):
        smoothed_BK = (1 - smoothing) * probabilities_BK + smoothing / 3
        expected = F.cross_entropy(logits_BK, smoothed_BK)
        loss = mixed_cross_entropy(logits_BK, Targets(labels_B, others_B, 0.3), smoothing)
        assert torch.allclose(loss, expected, atol=1e-6)
    alone = mixed_cross_entropy(logits_BK, Targets(labels_B, labels_B, 1.0), 0.0)
    assert torch.allclose(alone, F.cross_entropy(logits_BK, labels_B))
