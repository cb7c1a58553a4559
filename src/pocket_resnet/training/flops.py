"""Floating-point operations of a training run, counted on the real network."""

from collections import Counter
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pocket_resnet.data.loader import Steps
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.schema import Recipe

COUNTED_BATCH = 2


def training_flops(model: ResNet, recipe: Recipe, num_samples: int, num_steps: int) -> tuple[int, int]:
    """(images trained, FLOP of their forward and backward passes) in the first `num_steps` steps.

    Counts convolutions and matrix products of the network, but not optimizer, evaluation and augmentation.
    """
    images = images_by_cost(Steps(num_samples, recipe), num_steps)
    flops = (count * flops_per_image(model, size, frozen=frozen) for (size, frozen), count in images.items())
    return images.total(), sum(flops)


def images_by_cost(steps: Steps, num_steps: int) -> Counter[tuple[int, bool]]:
    """Number of images in the first `num_steps` steps, by image size in pixels and whether the body is frozen."""
    images: Counter[tuple[int, bool]] = Counter()
    for step in range(num_steps):
        images[steps.image_size(step), steps.is_frozen(step)] += steps.num_trained(step)
    return images


def flops_per_image(model: ResNet, image_size: int, *, frozen: bool = False) -> int:
    """FLOP (two per multiply-add) of one image's forward and backward pass at `image_size` pixels.

    The backward pass of a network whose body is frozen ends at its head.
    """
    twin = ResNet(model.spec).train()
    for part in twin.body() if frozen else ():
        part.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        loss: Any = twin(torch.rand(COUNTED_BATCH, 3, image_size, image_size)).sum()
        loss.backward()
    return int(counter.get_total_flops()) // COUNTED_BATCH
