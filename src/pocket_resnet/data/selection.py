"""Hard-example mining: each step trains those of its images that had the highest losses when last trained.

Late in a run the network fits most images, and training on them again helps little. A step takes the images with the
highest losses from a larger set of candidates. The loss is the one from the image's last training step, so selection
needs no extra forward pass. A skipped image keeps its loss and returns once the other losses have fallen below it.
Which images a step trains therefore depends on all steps before it, and so does how often an image was trained.
Source: Loshchilov & Hutter 2015 (arXiv:1511.06343), section 4, there by sampling.

Shapes: N training images, C candidates, B of them chosen.
"""

import torch
from torch import Tensor

from pocket_resnet.device import sent

UNSEEN = torch.finfo(torch.float32).max  # images that were never trained come first


class Selection:
    """Selects candidates by the last loss of every training image, and counts how often each was trained."""

    def __init__(self, num_samples: int, device: torch.device) -> None:
        self.loss_N = torch.full((num_samples,), UNSEEN, device=device)
        self.visits_N = torch.zeros(num_samples, dtype=torch.int32)  # on the CPU, which draws the augmentation

    def __call__(self, candidates_C: Tensor, count: int) -> Tensor:
        """The `count` candidates with the highest losses (sample indices on the CPU), in their order.

        Waits for the device.
        """
        if count == len(candidates_C):
            return candidates_C
        loss_C = self.loss_N[candidates_C.to(self.loss_N.device)].cpu()
        chosen_B = loss_C.argsort(descending=True, stable=True)[:count]
        return candidates_C[chosen_B.sort().values]

    def record_losses(self, chosen_B: Tensor, loss_B: Tensor) -> None:
        """Record the losses of the images that were just trained."""
        self.loss_N[sent(chosen_B, self.loss_N.device)] = loss_B
        self.visits_N[chosen_B] += 1

    def tensors(self) -> dict[str, Tensor]:
        """The state needed to resume."""
        return {"loss": self.loss_N, "visits": self.visits_N}

    def load_tensors(self, saved: dict[str, Tensor]) -> None:
        """Restore the state that `tensors` returned; skips tensors that are missing or have another length."""
        for name, kept in self.tensors().items():
            if len(saved.get(name, ())) == len(kept):
                kept.copy_(saved[name])
