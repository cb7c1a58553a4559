"""Input normalisation and whitening. Shapes: B images, C channels, H x W pixels; P patches of D values."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pocket_resnet.errors import UsageError
from pocket_resnet.model.resnet import Normalize, ResNet, initialise, whitening_filters
from pocket_resnet.model.spec import NetworkSpec

SMALL = NetworkSpec(
    num_blocks=(1, 1),
    widths=(8, 16),
    kernel_sizes=(3, 3),
    shortcut_kernel_sizes=(1, 1),
    stem_width=8,
    image_size=16,
)


def build(spec: NetworkSpec, seed: int = 0) -> ResNet:
    model = ResNet(spec)
    initialise(model, "default", torch.Generator().manual_seed(seed))
    return model


def test_normalisation_travels_with_the_weights() -> None:
    model, other = build(SMALL).eval(), build(SMALL, seed=1).eval()
    images_BCHW = torch.rand(2, 3, 16, 16)
    before = model(images_BCHW)
    model.normalize.set_statistics((0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
    scaled_BCHW = (images_BCHW - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.25, 0.2, 0.1]).view(
        3, 1, 1
    )
    torch.testing.assert_close(model.normalize(images_BCHW), scaled_BCHW)
    assert not torch.allclose(model(images_BCHW), before)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images_BCHW), model(images_BCHW))


def test_normalisation_refuses_a_std_that_is_not_positive() -> None:
    with pytest.raises(UsageError, match="std: not positive"):
        Normalize().set_statistics((0.0, 0.0, 0.0), (1.0, 0.0, 1.0))


def correlated_images() -> Tensor:
    noise_BCHW = torch.randn(100, 3, 18, 18)
    smooth_BCHW = F.avg_pool2d(noise_BCHW, 3, stride=1)
    return smooth_BCHW + 0.5 * smooth_BCHW.roll(1, dims=1) + 0.3


def test_whitened_patches_are_uncorrelated_with_unit_variance() -> None:
    images_BCHW = correlated_images()
    filters = whitening_filters(images_BCHW, kernel_size=2, eps=0.0)
    assert filters.shape == (24, 3, 2, 2)
    assert torch.equal(filters[:12], -filters[12:])
    whitened_DP = F.conv2d(images_BCHW, filters[:12]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.cov(whitened_DP), torch.eye(12), atol=1e-3, rtol=0)


def test_whitening_damps_directions_without_variance() -> None:
    filters = whitening_filters(torch.full((4, 3, 8, 8), 0.5), kernel_size=2, eps=5e-4)
    torch.testing.assert_close(filters.flatten(1).norm(dim=1), torch.full((24,), 5e-4**-0.5))


def test_set_whitening_normalises_as_the_network_does_and_stays_frozen() -> None:
    model = build(replace(SMALL, stem="whitening", stem_kernel_size=2))
    model.normalize.set_statistics((0.3, 0.3, 0.3), (0.2, 0.3, 0.4))
    images_BCHW = correlated_images()
    model.set_whitening(images_BCHW)
    assert torch.equal(model.stem.conv.weight, whitening_filters(model.normalize(images_BCHW), 2))
    assert not model.stem.conv.weight.requires_grad
    assert model.stem.conv.bias is None


def test_set_whitening_refuses_a_conv_stem() -> None:
    with pytest.raises(UsageError, match="stem: "):
        build(SMALL).set_whitening(torch.rand(1, 3, 16, 16))
