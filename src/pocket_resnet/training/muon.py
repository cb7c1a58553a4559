"""Muon: gradient descent whose updates of filters are made orthogonal.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
"""

import torch
from torch import Tensor

from pocket_resnet.training.sgd import ParameterGroup

# A quintic whose repeated application drives singular values towards 1. Source: Jordan et al. 2024.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 3


class Muon:
    """SGD with Nesterov momentum and orthogonal updates, for convolutions whose output only a norm reads.

    A convolution's filters [O, I, k, k] are treated as a matrix [O, k k I]. Before each update they are scaled to
    Euclidean norm sqrt(O), which batch norm undoes, so the learning rate is relative.
    """

    def __init__(self, filters: list[Tensor], lr: float, momentum: float) -> None:
        self.groups, self.momentum = [ParameterGroup(filters, lr)], momentum

    @torch.no_grad()
    def step(self, lr_factor: float) -> None:
        """Update every filter that has a gradient, at this share of the peak learning rate."""
        [group] = self.groups
        lr = group.peak_lr * lr_factor
        for weight in group.params if lr else ():
            if weight.grad is None:
                continue
            buffer = group.momentum_buffer(weight).mul_(self.momentum).add_(weight.grad)
            update_OIkk = weight.grad.add(buffer, alpha=self.momentum)
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            update_OkkI = update_OIkk.permute(0, 2, 3, 1)  # the memory order of channels last, so nothing is copied
            orthogonal_OkkI = orthogonalise(update_OkkI.flatten(1)).view_as(update_OkkI)
            weight.add_(orthogonal_OkkI.permute(0, 3, 1, 2), alpha=-lr)


def orthogonalise(matrix_OI: Tensor) -> Tensor:
    """A matrix [O, I] with the same singular vectors and all singular values near 1, by Newton-Schulz iteration.

    With M = min(O, I), a step is X <- P X (X P if O > I) with P a polynomial of the Gram matrix [M, M] of X, and the
    next Gram matrix is P times the last times P. Polynomials of one matrix are symmetric and commute, so all steps
    use Gram matrices and X is multiplied only once, in 0.4 of the time for the filters of `fast` (docs/log.md).
    Source: Jordan et al. 2024 (Muon); the Gram form is this file's own.
    """
    matrix_OI = matrix_OI / (matrix_OI.norm() + 1e-7)
    is_tall = matrix_OI.shape[0] > matrix_OI.shape[1]
    gram_MM = matrix_OI.T @ matrix_OI if is_tall else matrix_OI @ matrix_OI.T
    product_MM = step_MM = _newton_schulz_step(gram_MM)
    for _ in range(NEWTON_SCHULZ_STEPS - 1):
        gram_MM = step_MM @ gram_MM @ step_MM
        step_MM = _newton_schulz_step(gram_MM)
        product_MM = step_MM @ product_MM
    return matrix_OI @ product_MM if is_tall else product_MM @ matrix_OI


def _newton_schulz_step(gram_MM: Tensor) -> Tensor:
    """The factor P of one step: a + b G + c G^2."""
    a, b, c = NEWTON_SCHULZ
    step_MM = torch.addmm(gram_MM, gram_MM, gram_MM, beta=b, alpha=c)
    step_MM.diagonal().add_(a)
    return step_MM
