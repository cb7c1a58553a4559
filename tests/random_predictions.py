"""Random predictions and labels of three classes."""

import torch
from torch import Tensor


def predictions(num_images: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities [N, K] and labels [N]."""
    draws = torch.Generator().manual_seed(seed)
    probabilities_NK = (3 * torch.randn(num_images, 3, generator=draws)).softmax(1)
    return probabilities_NK, torch.randint(0, 3, (num_images,), generator=draws)
