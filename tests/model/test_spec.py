"""What a spec counts and refuses. test_resnet.py compares its counts with the built network."""

import dataclasses
import subprocess
import sys
from typing import Any, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from pocket_resnet.errors import UsageError
from pocket_resnet.model.counts import layers, num_macs, num_params, peak_activation_values
from pocket_resnet.model.spec import PER_STAGE, NetworkSpec

ONE_BLOCK: dict[str, Any] = {
    "stem_width": 4,
    "num_blocks": (1,),
    "widths": (4,),
    "kernel_sizes": (3,),
    "shortcut_kernel_sizes": (1,),
    "image_size": 8,
}
ALLOWED = {
    name: field.get("items", field) for name, field in TypeAdapter(NetworkSpec).json_schema()["properties"].items()
}


@pytest.mark.threat(74)
def test_counts_of_a_network_small_enough_to_count_by_hand() -> None:
    spec = NetworkSpec(**ONE_BLOCK, num_classes=2)
    stem, conv, norm, head = 3 * 4 * 9, 4 * 4 * 9, 2 * 4, 4 * 2
    assert num_params(spec) == stem + norm + 2 * (conv + norm) + head + 2
    assert num_macs(spec) == (stem + 2 * conv) * 8 * 8 + head
    assert num_macs(spec, image_size=16) == (stem + 2 * conv) * 16 * 16 + head
    # The second convolution holds its input, its output and the shortcut.
    assert peak_activation_values(spec) == 3 * 4 * 8 * 8


def test_peak_includes_the_branch_during_a_projection() -> None:
    wider = NetworkSpec(**{**ONE_BLOCK, "widths": (8,)})
    shortcut = next(layer for layer in layers(wider) if layer.name.endswith("shortcut.conv"))
    assert shortcut.num_live_values == (4 + 8 + 8) * 8 * 8  # input, output, and the branch waiting to be added


def test_counts_are_sums_over_named_layers() -> None:
    spec = NetworkSpec(squeeze_excite="block")
    plan = layers(spec)
    assert len({layer.name for layer in plan}) == len(plan)
    assert plan[0].name == "stem.conv"
    assert plan[-1].name == "head"
    assert plan[-1].out_shape == (10, 1, 1)
    assert num_params(spec) == sum(layer.num_params for layer in plan)
    assert num_macs(spec) == sum(layer.num_macs for layer in plan)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("widths", (64, 128)),
        ("widths", ()),
        ("kernel_sizes", (3, 2, 3)),
        ("shortcut_kernel_sizes", (2, 1, 1)),
        ("stem_kernel_size", 4),
        ("num_blocks", (4, 0, 3)),
        ("num_blocks", (4, 4, 3, 1)),
        ("groups", 3),
        ("dropout", float("nan")),
        ("image_size", 0),
    ],
)
def test_refuses_what_cannot_be_built(field: str, value: object) -> None:
    with pytest.raises(UsageError) as refusal:
        NetworkSpec(**{field: value})  # type: ignore[arg-type]
    named = ("num_blocks", *PER_STAGE) if field in PER_STAGE else (field,)
    assert str(refusal.value).startswith(named)
    assert refusal.value.hint


@pytest.mark.parametrize("field", [name for name, allowed in ALLOWED.items() if "enum" in allowed])
def test_refuses_an_unknown_choice_and_lists_the_known(field: str) -> None:
    with pytest.raises(UsageError, match=rf"{field}: 'other'.*\n.*{ALLOWED[field]['enum'][-1]}"):
        NetworkSpec(**{field: "other"})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [name for name, allowed in ALLOWED.items() if "minimum" in allowed])
def test_refuses_numbers_out_of_range(field: str) -> None:
    low, high = ALLOWED[field]["minimum"], ALLOWED[field]["maximum"]
    for number in (low - 1, high + 1):
        value = (number,) * 3 if field in PER_STAGE else number
        with pytest.raises(UsageError) as refusal:
            NetworkSpec(**{field: value})  # type: ignore[arg-type]
        assert str(refusal.value) == f"{field}: {number} is out of range\n  choose from {low:g} to {high:,}"


@pytest.mark.parametrize("change", [{"groups": True}, {"groups": "1"}, {"groups": 1.0}, {"batch_norm": 1}, {"with": 1}])
def test_is_strict_about_types_and_names(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NetworkSpec(**change)


def test_is_frozen_and_hashable_also_where_lists_are_given() -> None:
    spec = NetworkSpec(widths=[64, 128, 256])  # type: ignore[arg-type]
    assert {spec} == {NetworkSpec()}
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.groups = 2  # type: ignore[misc]
    with pytest.raises(UsageError, match="groups: 0 is out of range"):
        dataclasses.replace(spec, groups=0)


def test_refuses_images_that_run_out_of_pixels() -> None:
    pooled = NetworkSpec(downsample="pool", image_size=8)
    with pytest.raises(UsageError, match=r"image_size: too small: no pixels are left after stages\.2\.entry"):
        num_macs(pooled, image_size=7)
    with pytest.raises(UsageError, match=r"no pixels are left after stem\.conv"):
        NetworkSpec(stem="whitening", stem_kernel_size=4, image_size=3)


def test_refuses_identity_shortcuts_that_would_narrow() -> None:
    with pytest.raises(UsageError, match=r"widths: .*narrows 64 channels to 32"):
        NetworkSpec(shortcut="identity", widths=(32, 64, 128))


@pytest.mark.parametrize("downsample", ["pool", "pool-late"])
def test_refuses_preactivation_with_pooling(downsample: Literal["pool", "pool-late"]) -> None:
    with pytest.raises(UsageError, match=f'preactivation: not possible with downsample "{downsample}"'):
        NetworkSpec(preactivation=True, downsample=downsample)


def test_strided_entry_saves_the_operations_that_pooling_would_throw_away() -> None:
    pooled, strided = (NetworkSpec(downsample=downsample) for downsample in ("pool", "pool-late"))
    entry, strided_entry = (next(x for x in layers(s) if x.name == "stages.0.entry.conv") for s in (pooled, strided))
    assert entry.num_macs == 4 * strided_entry.num_macs
    assert num_params(pooled) == num_params(strided)
    assert [x.num_macs for x in layers(pooled)[3:]] == [x.num_macs for x in layers(strided)[3:]]


def test_every_number_and_choice_is_checked() -> None:
    for name, allowed in ALLOWED.items():
        assert "enum" in allowed or {"minimum", "maximum"} <= allowed.keys() or allowed["type"] == "boolean", name


def test_whitening_stem_has_both_signs_of_every_filter() -> None:
    assert NetworkSpec(stem="whitening", stem_kernel_size=2).stem_channels == 24
    assert NetworkSpec(stem_width=16).stem_channels == 16


def test_bottleneck_puts_out_expanded_widths() -> None:
    spec = NetworkSpec(block="bottleneck", expansion=2)
    assert spec.stage_channels == (128, 256, 512)


def test_is_pure_python() -> None:
    code = "import sys, pocket_resnet.model.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
