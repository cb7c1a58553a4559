"""The optimizer of a training: SGD and Muon, each for some of the parameters, and Lookahead."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.sections import OptimRecipe
from pocket_resnet.training.muon import Muon
from pocket_resnet.training.sgd import SGD, ParameterGroup


class Lookahead:
    """Every `num_steps` steps, move slow weights a share `alpha` towards the fast ones and start again from there.

    Source: Zhang et al. 2019 (arXiv:1907.08610), algorithm 1.
    """

    def __init__(self, params: list[Tensor], num_steps: int, alpha: float) -> None:
        self.params: list[Tensor] = list(params)
        self.num_steps, self.alpha = num_steps, alpha
        self.slow = [parameter.detach().clone() for parameter in params]

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Call after the inner optimizer's update number `step` (from 0)."""
        if (step + 1) % self.num_steps == 0:
            torch._foreach_lerp_(self.slow, self.params, self.alpha)
            torch._foreach_copy_(self.params, self.slow)


class Optimizer:
    """All trainable parameters of a network under one recipe. Its state is a flat dictionary of tensors."""

    def __init__(self, model: ResNet, recipe: OptimRecipe) -> None:
        self.recipe = recipe
        self.names: dict[Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self.params = list(self.names)
        groups = parameter_groups(model, recipe)
        filters = groups.pop("filters").params if recipe.name == "muon" else []
        self.inner: list[SGD | Muon] = [SGD(list(groups.values()), recipe.momentum, nesterov=recipe.nesterov)]
        if filters:
            self.inner.append(Muon(filters, recipe.muon_lr, recipe.muon_momentum))
        self.lookahead = (
            Lookahead(self.params, recipe.lookahead_steps, recipe.lookahead_alpha) if recipe.lookahead_steps else None
        )

    def gradients(self) -> list[Tensor]:
        """All existing gradients, in the parameters' order."""
        return [parameter.grad for parameter in self.params if parameter.grad is not None]

    def gradient_norm(self) -> Tensor:
        """The Euclidean norm of the whole gradient, a scalar on the device; NaN or infinite if any entry is."""
        return nn.utils.get_total_norm(self.gradients())

    def step(self, step: int, lr_factor: float) -> None:
        """Clip the gradients, update every parameter at this share of its peak learning rate, then apply Lookahead."""
        if self.recipe.clip_value:
            nn.utils.clip_grad_value_(self.params, self.recipe.clip_value)
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.params, self.recipe.clip_norm)
        for inner in self.inner:
            inner.step(lr_factor)
        if self.lookahead is not None:
            self.lookahead.step(step)

    def zero_grad(self) -> None:
        """Delete the gradients."""
        for parameter in self.params:
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Momentum and slow weights by parameter name: the state needed to resume."""
        state_by_name = {
            f"momentum.{self.names[parameter]}": buffer
            for group in self._groups()
            for parameter, buffer in group.momentum_buffers.items()
        }
        if self.lookahead is not None:
            slow_by_name = zip(self.names.values(), self.lookahead.slow, strict=True)
            state_by_name |= {f"slow.{name}": slow for name, slow in slow_by_name}
        return state_by_name

    @torch.no_grad()
    def load_tensors(self, saved: dict[str, Tensor]) -> None:
        """Restore the state that `tensors` returned; missing slow weights begin with the current weights."""
        for group in self._groups():
            for parameter in group.params:
                if (buffer := saved.get(f"momentum.{self.names[parameter]}")) is not None:
                    group.momentum_buffer(parameter).copy_(buffer)
        if self.lookahead is not None:
            for (weight, name), slow in zip(self.names.items(), self.lookahead.slow, strict=True):
                slow.copy_(saved.get(f"slow.{name}", weight))

    def _groups(self) -> Iterator[ParameterGroup]:
        return (group for inner in self.inner for group in inner.groups)


def parameter_groups(model: ResNet, recipe: OptimRecipe) -> dict[str, ParameterGroup]:
    """All parameters by kind. Muon trains `filters`, the weights of convolutions whose output only a norm reads.

    SGD also trains `other_filters`, for example in a network without norms: Muon rescales filters, and only a norm
    undoes that. If a learning rate is scaled, weight decay is divided by the factor, so a step decays as much.
    """
    kinds: dict[str, list[Tensor]] = {
        "filters": [],
        "other_filters": [],
        "norm_gains": [],
        "norm_biases": [],
        "biases": [],
        "head": [],
    }
    normed_convs = set(model.normed_convs())
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                is_filter = module in normed_convs and name == "weight"
                kinds["filters" if is_filter else _kind(module, name)].append(parameter)
    scales = {"norm_biases": recipe.norm_bias_lr_scale, "head": recipe.head_lr_scale}
    groups = {}
    for kind, params in kinds.items():
        scale = scales.get(kind, 1.0)
        decays = recipe.decay_norms_and_biases or kind in ("filters", "other_filters", "head")
        weight_decay = recipe.weight_decay / (scale or 1.0) if decays else 0.0
        groups[kind] = ParameterGroup(params, recipe.lr * scale, weight_decay)
    return groups


def _kind(module: nn.Module, name: str) -> str:
    if isinstance(module, nn.BatchNorm2d):
        return "norm_gains" if name == "weight" else "norm_biases"
    if name == "bias":
        return "biases"
    if isinstance(module, nn.Linear):
        return "head"
    return "other_filters"
