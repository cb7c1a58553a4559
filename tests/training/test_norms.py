"""Batch-norm statistics measured anew: those of the images under the present weights, and only inside."""

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pocket_resnet.data.augment import to_float
from pocket_resnet.data.source import Source
from pocket_resnet.device import Hardware
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.training import norms
from pocket_resnet.training.norms import remeasured

CPU = Hardware(torch.device("cpu"), "fp32", channels_last=False)


@pytest.fixture(name="images_NCHW")
def _images(source: Source) -> Tensor:
    return source.split("train").images_NCHW


def state(model: ResNet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_inside_they_are_the_images(tiny_model: ResNet, images_NCHW: Tensor) -> None:
    with torch.no_grad():
        before_norm = tiny_model.stem.conv(to_float(images_NCHW))
    with remeasured(tiny_model, images_NCHW, CPU):
        norm = tiny_model.stem.norm
        assert torch.allclose(norm.running_mean, before_norm.mean((0, 2, 3)), atol=1e-5)
        assert torch.allclose(norm.running_var, before_norm.var((0, 2, 3)), atol=1e-4)


def test_batches_count_alike(tiny_model: ResNet, images_NCHW: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "BATCH", 4)
    with torch.no_grad():
        parts = [tiny_model.stem.conv(to_float(part)).mean((0, 2, 3)) for part in images_NCHW[:8].split(4)]
    with remeasured(tiny_model, images_NCHW[:8], CPU):
        assert torch.allclose(tiny_model.stem.norm.running_mean, torch.stack(parts).mean(0), atol=1e-5)


@pytest.mark.parametrize("choose", [lambda images: images, lambda images: images[:0]])
def test_afterwards_all_is_as_before(
    choose: Callable[[Tensor], Tensor], tiny_model: ResNet, images_NCHW: Tensor
) -> None:
    """Also after an error; without images nothing changes inside either."""
    before, momentum = state(tiny_model), tiny_model.stem.norm.momentum
    with contextlib.suppress(RuntimeError), remeasured(tiny_model, choose(images_NCHW), CPU):
        assert same(before, state(tiny_model)) == (len(choose(images_NCHW)) == 0)
        raise RuntimeError
    assert same(before, state(tiny_model))
    assert tiny_model.stem.norm.momentum == momentum
