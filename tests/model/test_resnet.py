"""The built network has the counts of its spec, is deterministic, and every option has an effect.

Shapes: B images, C channels, H x W pixels, K classes; P patches of D values.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pocket_resnet.errors import UsageError
from pocket_resnet.model.blocks import DropPath, SqueezeExcite
from pocket_resnet.model.catalog import CATALOG, named
from pocket_resnet.model.counts import layers, num_macs, num_params
from pocket_resnet.model.resnet import Initialisation, ResNet, initialise
from pocket_resnet.model.spec import NetworkSpec

FIELDS = TypeAdapter(NetworkSpec).json_schema()["properties"]
CHOICES = {name: field["enum"] for name, field in FIELDS.items() if "enum" in field}

SMALL = NetworkSpec(
    num_blocks=(1, 1),
    widths=(8, 16),
    kernel_sizes=(3, 3),
    shortcut_kernel_sizes=(1, 1),
    stem_width=8,
    image_size=16,
)


def build(spec: NetworkSpec, how: Initialisation = "default", seed: int = 0) -> ResNet:
    model = ResNet(spec)
    initialise(model, how, torch.Generator().manual_seed(seed))
    return model


@st.composite
def specs(draw: st.DrawFn) -> NetworkSpec:
    num_stages = draw(st.integers(1, 3))
    per_stage = {
        "num_blocks": st.integers(0, 2),
        "widths": st.sampled_from((4, 8, 16, 24)),
        "kernel_sizes": st.sampled_from((1, 3, 5)),
        "shortcut_kernel_sizes": st.sampled_from((1, 3)),
    }
    fields: dict[str, st.SearchStrategy[Any]] = {
        **{name: st.tuples(*[each] * num_stages) for name, each in per_stage.items()},
        **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
        **{name: st.booleans() for name in ("batch_norm", "preactivation", "head_bias")},
        "num_classes": st.integers(2, 12),
        "stem_width": st.sampled_from((4, 8, 12)),
        "stem_kernel_size": st.integers(1, 5),
        "expansion": st.integers(1, 4),
        "groups": st.sampled_from((1, 2, 4)),
        "squeeze_reduction": st.sampled_from((2, 16)),
        "drop_path": st.sampled_from((0.0, 0.5)),
    }
    try:
        return NetworkSpec(**draw(st.fixed_dictionaries(fields)))
    except UsageError:
        reject()


def measure(spec: NetworkSpec, image_size: int) -> tuple[dict[str, int], dict[str, tuple[int, ...]], int]:
    """Parameters and output shape of each layer with weights, and FLOP, of the network built on no device."""
    with torch.device("meta"):
        model, images_BCHW = ResNet(spec).eval(), torch.zeros(1, 3, image_size, image_size)
    params = {
        name: sum(p.numel() for p in module.parameters(recurse=False))
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name in params:
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, out, name=name: shapes.update({name: (*out.shape[1:], 1, 1)[:3]})
        )
    with FlopCounterMode(display=False) as counter:
        model(images_BCHW)
    return params, shapes, counter.get_total_flops()


@pytest.mark.threat(74)
@settings(max_examples=100, deadline=None)
@given(specs(), st.integers(14, 40))
def test_every_network_has_the_counts_of_its_spec(spec: NetworkSpec, other_size: int) -> None:
    for image_size in (32, other_size):
        params, shapes, num_flops = measure(spec, image_size)
        plan = layers(spec, image_size)
        assert params == {layer.name: layer.num_params for layer in plan}
        assert shapes == {layer.name: layer.out_shape for layer in plan}
        assert num_flops == 2 * num_macs(spec, image_size)
    assert sum(params.values()) == num_params(spec)


@pytest.mark.threat(71)
@settings(max_examples=100, deadline=None)
@given(specs())
def test_only_normed_filters_can_be_rescaled(spec: NetworkSpec) -> None:
    """Scaling a trainable filter of `normed_convs` keeps the logits; scaling any other changes them."""
    model = build(replace(spec, drop_path=0.0, image_size=16)).double().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-20
        elif isinstance(module, SqueezeExcite):
            nn.init.ones_(module.squeeze.bias)  # a hidden unit that is never active hides the scale
    images_BCHW = torch.rand(8, 3, 16, 16, dtype=torch.float64)
    normed_convs, variances = model.normed_convs(), [torch.ones(1)]
    with torch.no_grad():
        hooks = [
            module.register_forward_pre_hook(lambda _, inputs: variances.append(inputs[0].var((0, 2, 3))))
            for module in model.modules()
            if isinstance(module, nn.BatchNorm2d)
        ]
        logits_BK = model(images_BCHW)
        for hook in hooks:
            hook.remove()
        assume(
            torch.cat([variance_C.double() for variance_C in variances]).min() > 1e-6
        )  # else eps counts, or rounding
        for name, conv in model.named_modules():
            if not isinstance(conv, nn.Conv2d) or not conv.weight.requires_grad or conv.bias is not None:
                continue
            conv.weight *= 3
            is_same = torch.allclose(model(images_BCHW), logits_BK, rtol=1e-6, atol=1e-9)
            assert is_same == (conv in normed_convs), name
            conv.weight /= 3
    assert len(set(normed_convs)) == len(normed_convs)
    assert all(isinstance(conv, nn.Conv2d) and conv.bias is None for conv in normed_convs)


@pytest.mark.threat(74)
@pytest.mark.parametrize("name", CATALOG)
def test_every_named_network_has_the_counts_of_its_spec(name: str) -> None:
    params, _, num_flops = measure(named(name), 32)
    assert sum(params.values()) == num_params(named(name))
    assert num_flops == 2 * num_macs(named(name))


@pytest.mark.parametrize(
    "changes",
    [
        {"squeeze_excite": "stem"},
        {"squeeze_excite": "block"},
        {"activation": "gelu"},
        {"activation": "silu"},
        {"block": "single"},
        {"block": "bottleneck"},
        {"preactivation": True},
        {"batch_norm": False},
        {"shortcut": "identity"},
        {"downsample": "pool"},
        {"downsample": "pool-late"},
        {"stem": "whitening"},
        {"pool": "max"},
        {"head_bias": False},
        {"head_scale": 0.5},
        {"groups": 2},
        {"kernel_sizes": (5, 3)},
        {"shortcut_kernel_sizes": (1, 3)},
    ],
    ids=str,
)
def test_every_option_changes_the_logits_and_can_be_trained(changes: dict[str, Any]) -> None:
    model, plain = build(replace(SMALL, **changes)), build(SMALL)
    images_BCHW = torch.rand(4, 3, 16, 16)
    logits_BK = model(images_BCHW)
    assert logits_BK.shape == (4, 10)
    assert not torch.allclose(logits_BK, plain(images_BCHW))
    F.cross_entropy(logits_BK, torch.arange(4)).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize("option", ["dropout", "drop_path"])
def test_randomness_only_in_training(option: str) -> None:
    model = build(replace(SMALL, **{option: 0.5}))
    images_BCHW = torch.rand(16, 3, 16, 16)
    assert not torch.equal(model(images_BCHW), model(images_BCHW))
    torch.manual_seed(7)
    first = model(images_BCHW)
    torch.manual_seed(7)
    assert torch.equal(model(images_BCHW), first)
    model.eval()
    assert torch.equal(model(images_BCHW), model(images_BCHW))


def test_drop_probability_rises_linearly_to_the_last_block() -> None:
    model = ResNet(replace(SMALL, num_blocks=(1, 3), drop_path=0.4))
    drops = [module.drop_probability for module in model.modules() if isinstance(module, DropPath)]
    assert drops == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_batch_norm_momentum_reaches_every_norm() -> None:
    model = ResNet(replace(named("fast"), batch_norm_momentum=0.6))
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.6}


@pytest.mark.parametrize("how", ["default", "dirac"])
def test_initialisation_depends_only_on_its_generator(how: Initialisation) -> None:
    first = build(SMALL, how, seed=3).state_dict()
    torch.manual_seed(99)
    model = ResNet(SMALL)
    state = torch.get_rng_state()
    initialise(model, how, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    other = build(SMALL, how, seed=4).state_dict()
    assert not torch.equal(other["head.weight"], first["head.weight"])


def test_default_initialisation_is_uniform_within_the_root_of_the_fan_in() -> None:
    model = build(named("fast"))
    weight = model.stages[2].blocks[0].convs[0].weight.detach()
    bound = (128 * 9) ** -0.5
    assert weight.abs().max() == pytest.approx(bound, rel=0.001)
    assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize("groups", [1, 2])
def test_dirac_passes_the_first_channels_on(groups: int) -> None:
    model = build(replace(SMALL, groups=groups, squeeze_excite="block"), "dirac")
    conv = model.stages[1].blocks[0].convs[1]
    x_BCHW = torch.randn(2, 16, 6, 6)
    assert torch.equal(conv(x_BCHW), x_BCHW)
    widening = model.stages[1].blocks[0].convs[0]  # 8 -> 16 channels, stride 2
    each = 8 // groups
    x_BCHW = torch.randn(2, 8, 6, 6)
    for group, out_BCHW in enumerate(widening(x_BCHW).chunk(groups, dim=1)):
        inputs_BCHW = x_BCHW[:, group * each : (group + 1) * each, ::2, ::2]
        assert torch.equal(out_BCHW[:, :each], inputs_BCHW)
        assert not torch.equal(out_BCHW[:, each:], inputs_BCHW)


def test_global_average_is_the_originals_pool_of_8_by_8() -> None:
    model = build(named("original")).eval()
    images_BCHW = torch.rand(1, 3, 32, 32)
    x_BCHW = model.stages(model.stem(model.normalize(images_BCHW)))
    assert x_BCHW.shape == (1, 256, 8, 8)
    expected = model.head(F.avg_pool2d(x_BCHW, 8).flatten(1))
    torch.testing.assert_close(model(images_BCHW), expected)


@pytest.mark.parametrize("name", ["fast", "resnet20", "wrn-16-4"])
def test_compiles_whole_and_keeps_its_logits_in_channels_last(name: str) -> None:
    model = build(named(name)).eval()
    images_BCHW = torch.rand(2, 3, 32, 32)
    expected = model(images_BCHW)
    model = model.to(memory_format=torch.channels_last)
    last_BCHW = images_BCHW.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(last_BCHW), expected, atol=1e-4, rtol=1e-3)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(last_BCHW), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_runs_in_bfloat16_autocast(training: bool) -> None:
    spec = replace(SMALL, squeeze_excite="block", drop_path=0.5, dropout=0.1)
    model = build(spec).train(training)
    with torch.autocast("cpu", torch.bfloat16):
        logits_BK = model(torch.rand(4, 3, 16, 16))
    assert logits_BK.dtype == torch.bfloat16
    assert logits_BK.isfinite().all()
