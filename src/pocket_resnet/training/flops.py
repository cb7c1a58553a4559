"""Floating-point operations of a training run."""

from collections import Counter

import torch
from torch import Tensor, nn

from pocket_resnet.data.loader import Steps
from pocket_resnet.model.counts import IMAGE_CHANNELS
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.schema import Recipe


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
    counted = 0

    def count(layer: nn.Conv2d | nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        """Count the forward pass, and the gradients of weights and input that the backward pass computes."""
        nonlocal counted
        num_passes = 1 + layer.weight.requires_grad + inputs[0].requires_grad
        counted += num_passes * 2 * output[0].numel() * layer.weight[0].numel()

    for layer in twin.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    twin(torch.zeros(2, IMAGE_CHANNELS, image_size, image_size))  # batch norm may need two images
    return counted
