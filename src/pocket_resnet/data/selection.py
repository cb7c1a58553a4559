"""Which of a step's images are trained: those that the network knew least when it last trained them.

Late in a run most images are known, and training them once more teaches little. A step looks at more images than it
trains and takes those with the highest losses. A loss is the one of the last time that the image was trained, so
that choosing costs nothing; an image passed over keeps its own and comes back when the others' have fallen below it.
Which images a step trains therefore depends on all steps before it, and so does how often an image was trained.
Source: Loshchilov & Hutter 2015 (arXiv:1511.06343), section 4, there by sampling.

Shapes: N training images, C candidates, B of them chosen.
"""

import torch
from torch import Tensor

from pocket_resnet.device import sent

UNSEEN = torch.finfo(torch.float32).max  # images that were never trained come first


class Selection:
    """The last loss of every training image, the choice that follows from it, and how often each was trained."""

    def __init__(self, num_samples: int, device: torch.device) -> None:
        self.loss_N = torch.full((num_samples,), UNSEEN, device=device)
        self.visits_N = torch.zeros(num_samples, dtype=torch.int32)  # on the CPU, where augmentation is decided

    def __call__(self, candidates_C: Tensor, count: int) -> Tensor:
        """The `count` candidates with the highest losses (sample indices on the CPU), in their order.

        Waits for the device.
        """
        if count == len(candidates_C):
            return candidates_C
        loss_C = self.loss_N[candidates_C.to(self.loss_N.device)].cpu()
        chosen_B = loss_C.argsort(descending=True, stable=True)[:count]
        return candidates_C[chosen_B.sort().values]

    def note(self, chosen_B: Tensor, loss_B: Tensor) -> None:
        """Remember the losses that the chosen images had when they were trained just now."""
        self.loss_N[sent(chosen_B, self.loss_N.device)] = loss_B
        self.visits_N[chosen_B] += 1

    def tensors(self) -> dict[str, Tensor]:
        """All that resuming needs."""
        return {"loss": self.loss_N, "visits": self.visits_N}

    def load_tensors(self, saved: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave; nothing where it is of another number of images, or there is none."""
        for name, kept in self.tensors().items():
            if len(saved.get(name, ())) == len(kept):
                kept.copy_(saved[name])
