"""Re-measured batch-norm statistics: those of the images under the present weights, only inside the block."""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pocket_resnet.data.augment import to_float
from pocket_resnet.data.source import Source
from pocket_resnet.model.resnet import ResNet, initialise
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.training.precise_bn import remeasured


@pytest.fixture(name="images_NCHW")
def _images(source: Source) -> Tensor:
    return source.split("train").images_NCHW


def state(model: ResNet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def batches(images_NCHW: Tensor, size: int = 100) -> list[Tensor]:
    """The uint8 images as float batches of about this size."""
    count = -(-len(images_NCHW) // size)
    return [to_float(part) for part in torch.tensor_split(images_NCHW, count)] if count else []


def test_statistics_are_those_of_the_images(tiny_model: ResNet, images_NCHW: Tensor) -> None:
    with torch.no_grad():
        before_norm = tiny_model.stem.conv(to_float(images_NCHW))
    with remeasured(tiny_model, batches(images_NCHW)):
        norm = tiny_model.stem.norm
        assert torch.allclose(norm.running_mean, before_norm.mean((0, 2, 3)), atol=1e-5)
        assert torch.allclose(norm.running_var, before_norm.var((0, 2, 3)), atol=1e-4)


@pytest.mark.threat(72)
@pytest.mark.parametrize("num_images", [8, 11, 13])
def test_several_batches_count_as_one(num_images: int, tiny_model: ResNet, images_NCHW: Tensor) -> None:
    """Mean and variance are those of all values together, for any batch sizes, with variance between batches."""
    images_NCHW = images_NCHW[:num_images].sort(dim=0).values
    with torch.no_grad():
        before_norm = tiny_model.stem.conv(to_float(images_NCHW))
    with remeasured(tiny_model, batches(images_NCHW, size=4)):
        norm = tiny_model.stem.norm
        assert torch.allclose(norm.running_mean, before_norm.mean((0, 2, 3)), atol=1e-6)
        assert torch.allclose(norm.running_var, before_norm.var((0, 2, 3)), atol=1e-6)
        assert int(norm.num_batches_tracked) == -(-num_images // 4)


@pytest.mark.threat(15)
@pytest.mark.parametrize("num_images", [2, 5, 9])
def test_maps_of_one_pixel(num_images: int, tiny_spec: NetworkSpec, images_NCHW: Tensor) -> None:
    """Five and nine images leave one over where a batch is four, and one value has no variance."""
    model = ResNet(replace(tiny_spec, image_size=2))
    initialise(model, "default", torch.Generator().manual_seed(0))
    with remeasured(model, batches(images_NCHW[:num_images, :, :2, :2], size=4)), torch.no_grad():
        assert model.stages(model.stem(to_float(images_NCHW[:1, :, :2, :2]))).shape[2:] == (1, 1)
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.parametrize("num_images", [14, 0])
def test_the_model_is_restored(num_images: int, tiny_model: ResNet, images_NCHW: Tensor) -> None:
    """Also after an error; without a batch nothing changes."""
    before, momentum = state(tiny_model), tiny_model.stem.norm.momentum
    tiny_model.train().stages.eval()
    with contextlib.suppress(RuntimeError), remeasured(tiny_model, batches(images_NCHW[:num_images])):
        assert same(before, state(tiny_model)) == (num_images == 0)
        assert not any(module.training for module in tiny_model.modules())
        raise RuntimeError
    assert same(before, state(tiny_model))
    assert tiny_model.stem.norm.momentum == momentum
    assert tiny_model.stem.norm.training
    assert not tiny_model.stages.training
