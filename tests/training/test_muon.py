"""Muon against the published iteration. Shapes: O output channels, I inputs of a filter."""

import pytest
import torch
from torch import nn

from pocket_resnet.training.muon import NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS, Muon, orthogonalise


@pytest.mark.parametrize("shape", [(16, 36), (36, 16), (20, 20), (1, 9)])
def test_orthogonalise(shape: tuple[int, int]) -> None:
    """The same singular vectors; singular values near 1, whatever the matrix's scale."""
    draws = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=draws), full_matrices=False)
    singular = torch.linspace(1.0, 0.3, min(shape))
    for scale in (1e-3, 1.0, 1e3):
        orthogonal = orthogonalise(scale * u @ singular.diag() @ v)
        in_basis = u.T @ orthogonal @ v.T
        assert (in_basis.diagonal() > 0.5).all()
        assert (in_basis.diagonal() < 1.35).all()
        assert (in_basis - in_basis.diagonal().diag()).abs().max() < 1e-4
    assert torch.isfinite(orthogonalise(torch.zeros(shape))).all()


@pytest.mark.parametrize("shape", [(8, 72), (72, 8)])
def test_orthogonalise_steps_as_published(shape: tuple[int, int]) -> None:
    """The iteration written down as in its source, on a matrix whose singular values span four decades."""
    a, b, c = NEWTON_SCHULZ
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    matrix = u @ torch.logspace(-4, 0, 8).diag() @ v
    x = (matrix / matrix.norm()).double()
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    assert torch.allclose(orthogonalise(matrix).double(), x, atol=1e-5)


def test_muon_step() -> None:
    """Filter scaled to norm sqrt(O), then moved by lr along the orthogonalised Nesterov gradient."""
    weight = nn.Parameter(torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0)))
    muon = Muon([weight], lr=0.1, momentum=0.6)
    expected, velocity = weight.detach().clone(), torch.zeros_like(weight)
    for step, lr_factor in enumerate((1.0, 0.5, 0.75, 0.25)):
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step + 1))
        weight.grad = gradient.clone()
        muon.step(lr_factor)
        velocity = 0.6 * velocity + gradient
        expected *= 6**0.5 / expected.norm()
        expected -= 0.1 * lr_factor * orthogonalise((gradient + 0.6 * velocity).flatten(1)).view_as(expected)
        assert torch.allclose(weight, expected, atol=1e-5)
        assert torch.equal(weight.grad, gradient)
