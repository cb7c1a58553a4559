"""Stochastic gradient descent with momentum, and the groups of parameters that optimizers train.

Results are those of torch.optim but for rounding. Its base class is not used, because its first step imports torch's
compiler, which takes seconds (docs/log.md).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False)
class ParameterGroup:
    """Parameters with the same learning rate and decay, and the momentum of those that have had a gradient."""

    params: list[Tensor]
    peak_lr: float
    weight_decay: float = 0.0
    momentum_buffers: dict[Tensor, Tensor] = field(default_factory=dict)

    def momentum_buffer(self, parameter: Tensor) -> Tensor:
        """The parameter's momentum, zeros at first."""
        if parameter not in self.momentum_buffers:
            self.momentum_buffers[parameter] = torch.zeros_like(parameter)
        return self.momentum_buffers[parameter]


class SGD:
    """Gradient descent with an L2 penalty and momentum, on request Nesterov's.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", in the form of
    torch.optim.SGD.
    """

    def __init__(self, groups: list[ParameterGroup], momentum: float, *, nesterov: bool = False) -> None:
        self.groups, self.momentum, self.nesterov = groups, momentum, nesterov

    @torch.no_grad()
    def step(self, lr_factor: float) -> None:
        """Update every parameter that has a gradient, at this share of its peak learning rate."""
        for group in self.groups:
            params = [parameter for parameter in group.params if parameter.grad is not None]
            gradients = [parameter.grad for parameter in params if parameter.grad is not None]
            if not params:
                continue
            updates = torch._foreach_add(gradients, params, alpha=group.weight_decay)
            if self.momentum:
                buffers = [group.momentum_buffer(parameter) for parameter in params]
                torch._foreach_mul_(buffers, self.momentum)
                torch._foreach_add_(buffers, updates)
                if self.nesterov:
                    torch._foreach_add_(updates, buffers, alpha=self.momentum)
                else:
                    updates = tuple(buffers)
            torch._foreach_add_(params, updates, alpha=-group.peak_lr * lr_factor)
