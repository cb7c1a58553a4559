"""Optimizers against loops written out by hand; every key of the recipe has an effect.

Shapes: O output channels, I inputs of a filter.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pocket_resnet.model.resnet import ResNet, initialise
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.sections import OptimRecipe
from pocket_resnet.training.optim import (
    Lookahead,
    Optimizer,
    parameter_groups,
)

NUM_STEPS = 7


def recipe(**changes: Any) -> OptimRecipe:
    return OptimRecipe(**{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01} | changes)


def loss_of(model: nn.Module, step: int) -> Tensor:
    x_BCHW = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(step))
    return nn.functional.cross_entropy(model(x_BCHW), torch.arange(6) % 3)


def trained(model: ResNet, num_steps: int = NUM_STEPS, **changes: Any) -> dict[str, Tensor]:
    """Parameters after some steps with a falling learning rate; the model itself is unchanged."""
    model = copy.deepcopy(model)
    optimizer = Optimizer(model, recipe(**changes))
    for step in range(num_steps):
        loss_of(model, step).backward()
        optimizer.step(step, 1 - step / 10)
        optimizer.zero_grad()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def by_hand(
    model: ResNet, nesterov: bool = False, clip: Callable[[list[Tensor]], Any] | None = None
) -> dict[str, Tensor]:
    """SGD with momentum and an L2 penalty on everything."""
    model = copy.deepcopy(model)
    parameters = dict(model.named_parameters())
    velocity: dict[str, Tensor] = {}
    for step in range(NUM_STEPS):
        model.zero_grad()
        loss_of(model, step).backward()
        if clip is not None:
            clip([parameter.grad for parameter in parameters.values()])  # type: ignore[misc]
        with torch.no_grad():
            for name, parameter in parameters.items():
                pull = parameter.grad + 0.01 * parameter
                velocity[name] = 0.9 * velocity.get(name, torch.zeros_like(pull)) + pull
                update = pull + 0.9 * velocity[name] if nesterov else velocity[name]
                parameter -= 0.1 * (1 - step / 10) * update
    return {name: parameter.detach() for name, parameter in parameters.items()}


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(actual[name], value, rtol=1e-4, atol=1e-6), name


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    return {name for name in first if not torch.equal(first[name], second[name])}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(nesterov: bool, channels_last: bool, tiny_model: ResNet) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = tiny_model.to(memory_format=layout)
    assert_close(trained(model, nesterov=nesterov), by_hand(model, nesterov))


def clip_values(gradients: list[Tensor]) -> None:
    for gradient in gradients:
        gradient.clamp_(-0.01, 0.01)


def clip_norm(gradients: list[Tensor]) -> None:
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    for gradient in gradients:
        gradient.mul_(min(1.0, 0.05 / float(norm)))


@pytest.mark.parametrize(("key", "limit", "clip"), [("clip_value", 0.01, clip_values), ("clip_norm", 0.05, clip_norm)])
def test_clipping(key: str, limit: float, clip: Callable[[list[Tensor]], None], tiny_model: ResNet) -> None:
    clipped = trained(tiny_model, **{key: limit})
    assert_close(clipped, by_hand(tiny_model, clip=clip))
    assert differing(clipped, trained(tiny_model))


def test_gradient_norm(tiny_model: ResNet) -> None:
    optimizer = Optimizer(tiny_model, recipe())
    loss_of(tiny_model, 0).backward()
    flat = torch.cat([parameter.grad.flatten() for parameter in tiny_model.parameters()])  # type: ignore[union-attr]
    assert optimizer.gradient_norm().item() == pytest.approx(flat.norm().item(), rel=1e-5)
    for value in (float("nan"), float("inf")):
        tiny_model.head.weight.grad[1, 2] = value  # type: ignore[index]
        assert not torch.isfinite(optimizer.gradient_norm())


def groups_by_name(model: ResNet, **changes: Any) -> dict[str, tuple[str, float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (kind, group.peak_lr, group.weight_decay)
        for kind, group in parameter_groups(model, recipe(**changes)).items()
        for parameter in group.params
    }


def kind_of(name: str) -> str:
    if "norm" in name:
        return "norm_gains" if name.endswith("weight") else "norm_biases"
    if name.endswith("bias"):
        return "biases"
    return "head" if name.startswith("head") else "filters"


def test_every_parameter_is_in_the_right_group(tiny_model: ResNet) -> None:
    groups = groups_by_name(tiny_model)
    assert groups == {name: (kind_of(name), 0.1, 0.01) for name, _ in tiny_model.named_parameters()}


def test_frozen_parameters_are_in_no_group(tiny_model: ResNet) -> None:
    tiny_model.stem.conv.weight.requires_grad_(False)
    assert "stem.conv.weight" not in groups_by_name(tiny_model)
    before = tiny_model.stem.conv.weight.clone()
    assert torch.equal(trained(tiny_model)["stem.conv.weight"], before)


def test_decay_switch_spares_norms_and_biases(tiny_model: ResNet) -> None:
    for name, (kind, _, weight_decay) in groups_by_name(tiny_model, decay_norms_and_biases=False).items():
        assert weight_decay == (0.01 if kind in ("filters", "head") else 0), name


@pytest.mark.parametrize(("key", "scaled"), [("norm_bias_lr_scale", "norm_biases"), ("head_lr_scale", "head")])
def test_learning_rate_scales(key: str, scaled: str, tiny_model: ResNet) -> None:
    """The weight decay of a step, learning rate times coefficient, stays the same."""
    for name, (kind, lr, weight_decay) in groups_by_name(tiny_model, **{key: 8.0}).items():
        assert lr == pytest.approx(0.8 if kind == scaled else 0.1), name
        assert lr * weight_decay == pytest.approx(0.1 * 0.01)
    for _, lr, weight_decay in groups_by_name(tiny_model, **{key: 0.0}).values():
        assert torch.isfinite(torch.tensor([lr, weight_decay])).all()


CHANGES: dict[str, Any] = {
    "name": "muon",
    "lr": 0.2,
    "momentum": 0.5,
    "nesterov": True,
    "weight_decay": 0.1,
    "decay_norms_and_biases": False,
    "norm_bias_lr_scale": 2.0,
    "head_lr_scale": 2.0,
    "muon_lr": 0.1,
    "muon_momentum": 0.1,
    "clip_value": 1e-3,
    "clip_norm": 1e-3,
    "lookahead_steps": 2,
    "lookahead_alpha": 0.9,
}


@pytest.mark.parametrize("key", OptimRecipe.model_fields)
def test_every_key_has_an_effect(key: str, tiny_model: ResNet) -> None:
    base: dict[str, Any] = {"name": "muon"} if key.startswith("muon") else {}
    base |= {"lookahead_steps": 2} if key == "lookahead_alpha" else {}
    assert differing(trained(tiny_model, **base), trained(tiny_model, **base | {key: CHANGES[key]}))


def test_lookahead_matches_algorithm_1(tiny_model: ResNet) -> None:
    """phi <- phi + alpha (theta - phi) every k steps, theta <- phi; the inner momentum is kept."""
    model, k, alpha = copy.deepcopy(tiny_model), 3, 0.3
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    slow = [parameter.detach().clone() for parameter in model.parameters()]
    for step in range(NUM_STEPS):
        inner.param_groups[0]["lr"] = 0.1 * (1 - step / 10)
        inner.zero_grad()
        loss_of(model, step).backward()
        inner.step()
        if (step + 1) % k == 0:
            with torch.no_grad():
                for phi, theta in zip(slow, model.parameters(), strict=True):
                    phi += alpha * (theta - phi)
                    theta.copy_(phi)
    expected = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert_close(trained(tiny_model, lookahead_steps=k, lookahead_alpha=alpha), expected)


def test_lookahead_with_alpha_1_and_0(tiny_model: ResNet) -> None:
    assert_close(trained(tiny_model, lookahead_steps=2, lookahead_alpha=1.0), trained(tiny_model))
    parameter = torch.zeros(2)
    lookahead = Lookahead([parameter], num_steps=1, alpha=0.0)
    parameter += 1
    lookahead.step(0)
    assert parameter.tolist() == [0, 0]


def test_muon_moves_filters_and_sgd_the_rest(tiny_model: ResNet) -> None:
    optimizer = Optimizer(tiny_model, recipe(name="muon"))
    sgd, muon = optimizer.inner
    filters = [parameter for name, parameter in tiny_model.named_parameters() if kind_of(name) == "filters"]
    assert {id(parameter) for parameter in muon.groups[0].params} == {id(parameter) for parameter in filters}
    num_sgd = sum(len(group.params) for group in sgd.groups)
    assert num_sgd + len(filters) == len(list(tiny_model.parameters()))
    assert muon.groups[0].peak_lr == OptimRecipe().muon_lr


@pytest.mark.threat(71)
def test_muon_leaves_the_scale_of_filters_that_no_norm_follows(tiny_spec: NetworkSpec) -> None:
    """A pre-activated block's last filters and its projection's: added up, their scales decide which counts more."""
    model = ResNet(replace(tiny_spec, preactivation=True))
    initialise(model, "default", torch.Generator().manual_seed(0))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    after = trained(model, num_steps=1, name="muon", lr=0.0, muon_lr=1e-6)
    assert {name.removesuffix(".weight") for name in differing(before, after)} == {
        f"stages.{stage}.blocks.0.convs.0" for stage in (0, 1)
    }
    kinds = {name: kind for name, (kind, _, _) in groups_by_name(model).items() if "conv" in name}
    others = ("stem.conv", "stages.0.blocks.0.convs.1", "stages.1.blocks.0.convs.1", "stages.1.blocks.0.shortcut.conv")
    assert all(kinds[f"{name}.weight"] == "other_filters" for name in others)
    assert list(kinds.values()).count("filters") == 2


def test_a_parameter_may_have_its_first_gradient_later(tiny_spec: NetworkSpec) -> None:
    """As when a body is frozen at first, whose squeeze-and-excitation is in the groups of the head."""
    model = ResNet(replace(tiny_spec, squeeze_excite="block"))
    optimizer = Optimizer(model, recipe())
    for step, is_frozen in enumerate((True, False)):
        before = copy.deepcopy(model.state_dict())
        loss_of(model, step).backward()
        for name, parameter in model.named_parameters():
            if is_frozen and not name.startswith("head"):
                parameter.grad = None
        optimizer.step(step, 1.0)
        optimizer.zero_grad()
        changed = {name for name in differing(before, model.state_dict()) if "running" not in name}
        names = set(optimizer.names.values())
        assert {name for name in names if not is_frozen or name.startswith("head")} == changed & names


@pytest.mark.parametrize("kind", ["sgd", "muon"])
@pytest.mark.parametrize("num_before", [0, 4])
def test_going_on_from_saved_tensors_is_exact(kind: str, num_before: int, tiny_model: ResNet) -> None:
    settings = recipe(name=kind, lookahead_steps=3)

    def advance(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
        for step in steps:
            loss_of(model, step).backward()
            optimizer.step(step, 1.0)
            optimizer.zero_grad()

    whole = copy.deepcopy(tiny_model).to(memory_format=torch.channels_last)
    optimizer = Optimizer(whole, settings)
    advance(whole, optimizer, range(num_before))
    saved = {name: value.clone() for name, value in optimizer.tensors().items()}
    again = copy.deepcopy(whole)
    resumed = Optimizer(again, settings)
    resumed.load_tensors(saved)
    advance(whole, optimizer, range(num_before, 9))
    advance(again, resumed, range(num_before, 9))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert bool(saved) == (num_before > 0 or settings.lookahead_steps > 0)
