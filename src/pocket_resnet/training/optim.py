"""Optimizers: SGD and Muon, each for some of the parameters, and Lookahead.

The training loop uses `Optimizer`, whose state is a flat dictionary of tensors.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.sections import OptimRecipe

# Jordan et al. 2024 (Muon): a quintic whose repeated application drives singular values towards 1
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 3


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose update is made orthogonal, for convolutions whose output only a norm reads.

    A convolution's filters [O, I, k, k] are treated as a matrix [O, k k I]. Before each update they are scaled to
    Euclidean norm sqrt(O), which batch norm undoes, so the learning rate is relative.
    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, _closure: Any = None) -> None:  # type: ignore[override]
        """Update every filter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"] if group["lr"] else ():
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(weight.grad)
                update_OIkk = weight.grad.add(buffer, alpha=group["momentum"])
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                update_OkkI = update_OIkk.permute(0, 2, 3, 1)  # the memory order of channels last, so nothing is copied
                orthogonal_OkkI = orthogonalise(update_OkkI.flatten(1)).view_as(update_OkkI)
                weight.add_(orthogonal_OkkI.permute(0, 3, 1, 2), alpha=-group["lr"])


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
    """All trainable parameters of a network under one recipe."""

    def __init__(self, model: ResNet, recipe: OptimRecipe) -> None:
        self.recipe = recipe
        self.names: dict[Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self.params = list(self.names)
        groups = parameter_groups(model, recipe)
        filters = groups.pop("filters") if recipe.name == "muon" else None
        self.inner: list[torch.optim.Optimizer] = [
            torch.optim.SGD(
                [group for group in groups.values() if group["params"]],
                lr=recipe.lr,
                momentum=recipe.momentum,
                nesterov=recipe.nesterov,
                fused=self.params[0].device.type in ("cpu", "cuda"),
            )
        ]
        if filters is not None and filters["params"]:
            self.inner.append(Muon(filters["params"], recipe.muon_lr, recipe.muon_momentum))
        self.peak_lrs = [[group["lr"] for group in inner.param_groups] for inner in self.inner]
        self.lookahead = (
            Lookahead(self.params, recipe.lookahead_steps, recipe.lookahead_alpha) if recipe.lookahead_steps else None
        )

    def set_lr_factor(self, factor: float) -> None:
        """Use this share of every group's peak learning rate from now on."""
        for inner, peaks in zip(self.inner, self.peak_lrs, strict=True):
            for group, peak in zip(inner.param_groups, peaks, strict=True):
                group["lr"] = peak * factor

    def gradients(self) -> list[Tensor]:
        """All existing gradients, in the parameters' order."""
        return [parameter.grad for parameter in self.params if parameter.grad is not None]

    def gradient_norm(self) -> Tensor:
        """The Euclidean norm of the whole gradient, a scalar on the device; NaN or infinite if any entry is."""
        return nn.utils.get_total_norm(self.gradients())

    def step(self, step: int) -> None:
        """Clip the gradients, update every parameter, then apply Lookahead."""
        if self.recipe.clip_value:
            nn.utils.clip_grad_value_(self.params, self.recipe.clip_value)
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.params, self.recipe.clip_norm)
        self._begin_momentum()
        for inner in self.inner:
            inner.step()
        if self.lookahead is not None:
            self.lookahead.step(step)

    def _begin_momentum(self) -> None:
        """Give SGD's parameters zero momentum with their first gradient.

        The fused step fails on a group of which only some have momentum: a head's biases and those of its frozen body.
        """
        sgd = self.inner[0]
        for parameter in (each for group in sgd.param_groups if group["momentum"] for each in group["params"]):
            if parameter.grad is not None and "momentum_buffer" not in sgd.state[parameter]:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def zero_grad(self) -> None:
        """Delete the gradients."""
        for inner in self.inner:
            inner.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Momentum and slow weights by parameter name: the state needed to resume."""
        state_by_name = {}
        for inner in self.inner:
            for parameter, state in inner.state.items():
                if (buffer := state.get("momentum_buffer")) is not None:
                    state_by_name[f"momentum.{self.names[parameter]}"] = buffer
        if self.lookahead is not None:
            slow_by_name = zip(self.names.values(), self.lookahead.slow, strict=True)
            state_by_name |= {f"slow.{name}": slow for name, slow in slow_by_name}
        return state_by_name

    @torch.no_grad()
    def load_tensors(self, saved: dict[str, Tensor]) -> None:
        """Restore the state that `tensors` returned; missing slow weights begin with the current weights."""
        for inner in self.inner:
            for group in inner.param_groups:
                for parameter in group["params"]:
                    if (buffer := saved.get(f"momentum.{self.names[parameter]}")) is not None:
                        inner.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)
        if self.lookahead is not None:
            for (parameter, name), slow in zip(self.names.items(), self.lookahead.slow, strict=True):
                slow.copy_(saved.get(f"slow.{name}", parameter))


def parameter_groups(model: ResNet, recipe: OptimRecipe) -> dict[str, dict[str, Any]]:
    """SGD's parameter groups. Muon trains `filters`, the weights of convolutions whose output only a norm reads.

    SGD also trains `other_filters`, for example in a network without norms: Muon rescales filters, and only a norm
    undoes that. If a learning rate is scaled, weight decay is divided by the factor, so a step decays as much.
    """
    kinds: dict[str, list[nn.Parameter]] = {
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
        groups[kind] = {"params": params, "lr": recipe.lr * scale, "weight_decay": weight_decay}
    return groups


def _kind(module: nn.Module, name: str) -> str:
    if isinstance(module, nn.BatchNorm2d):
        return "norm_gains" if name == "weight" else "norm_biases"
    if name == "bias":
        return "biases"
    if isinstance(module, nn.Linear):
        return "head"
    return "other_filters"
