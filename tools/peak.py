"""Measures this machine's convolutions on the shapes that a recipe trains: the upper limit of its speed.

Shapes: B images, C channels, H x W pixels.
"""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pocket_resnet.data.loader import Steps
from pocket_resnet.device import Hardware
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training.flops import images_by_cost

REPEATS = 3


@dataclass(frozen=True)
class Convolution:
    """One convolution of the network on one batch, as the step runs it."""

    module: nn.Conv2d
    shape_BCHW: tuple[int, ...]
    needs_input_gradient: bool

    def seconds_and_flops(self, hardware: Hardware) -> tuple[float, int]:
        """Median time of forward and backward pass, and their floating-point operations."""
        x_BCHW = torch.randn(self.shape_BCHW, device=hardware.device).to(memory_format=hardware.memory_format)
        x_BCHW.requires_grad_(self.needs_input_gradient)
        with FlopCounterMode(display=False) as counter:
            self._once(x_BCHW, hardware)
        times = []
        for _ in range(REPEATS):
            hardware.synchronize()
            started_s = time.perf_counter()
            self._once(x_BCHW, hardware)
            hardware.synchronize()
            times.append(time.perf_counter() - started_s)
        return statistics.median(times), counter.get_total_flops()

    def _once(self, x_BCHW: Tensor, hardware: Hardware) -> None:
        with hardware.autocast():
            y_BDHW = self.module(x_BCHW)
        y_BDHW.backward(torch.ones_like(y_BDHW))


def convolutions(model: ResNet, image_size: int, batch_size: int) -> list[Convolution]:
    """The network's trained convolutions, with their shapes for this image size."""
    trained: list[Convolution] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            trained.append(Convolution(module, (batch_size, *inputs[0].shape[1:]), needs_input_gradient=bool(trained)))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    with torch.no_grad():
        model(torch.zeros(2, 3, image_size, image_size, device=model.normalize.mean.device))
    for hook in hooks:
        hook.remove()
    return trained


def flops_per_s(model: ResNet, recipe: Recipe, num_images: int, hardware: Hardware) -> float:
    """The rate of a run of the recipe that computed only its convolutions."""
    steps = Steps(num_images, recipe)
    seconds, flops = 0.0, 0.0
    for (image_size, _), count in images_by_cost(steps, steps.total).items():
        num_batches = count / recipe.batch_size
        for convolution in convolutions(model, image_size, recipe.batch_size):
            one_s, one_flops = convolution.seconds_and_flops(hardware)
            seconds += num_batches * one_s
            flops += num_batches * one_flops
    return flops / seconds
