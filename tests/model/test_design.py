"""The dial: for any budget the network fits, and no wider one does."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocket_resnet.errors import UsageError
from pocket_resnet.model import design
from pocket_resnet.model.catalog import CATALOG, named
from pocket_resnet.model.counts import num_macs, num_params
from pocket_resnet.model.design import Budget
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import NetworkSpec

SHAPES = [
    *(named(name) for name in ("original", "fast", "resnet20", "resnet18", "wrn-16-4")),
    NetworkSpec(block="bottleneck", widths=(16, 32, 64), shortcut="identity"),
    NetworkSpec(groups=4, block="bottleneck", squeeze_excite="block"),
    NetworkSpec(groups=2, num_blocks=(1, 1, 1), stem_width=16, widths=(16, 32, 64), shortcut="identity"),
]


def fill_budget(spec: NetworkSpec, budget: int) -> NetworkSpec:
    return design.fill_budget(spec, Budget(num_params=budget))


def smallest_count(spec: NetworkSpec) -> int:
    with pytest.raises(UsageError) as raised:
        fill_budget(spec, 1)
    return int((raised.value.hint or "").removeprefix("give at least "))


def is_buildable(spec: NetworkSpec, stage: int) -> NetworkSpec | None:
    widths = tuple(width + spec.groups * (index == stage) for index, width in enumerate(spec.widths))
    try:
        return replace(spec, widths=widths)
    except UsageError:
        return None


@pytest.mark.threat(17)
@settings(max_examples=60, deadline=None)
@given(spec=st.sampled_from(SHAPES), budget=st.integers(1, 30_000_000))
def test_filled_networks_stay_within_the_budget(spec: NetworkSpec, budget: int) -> None:
    """Within the budget, only widths differ, no stage can be widened, and filling again changes nothing."""
    least = smallest_count(spec)
    if budget < least:
        with pytest.raises(UsageError, match=f"the smallest has {least:,}"):
            fill_budget(spec, budget)
        return
    filled = fill_budget(spec, budget)
    assert num_params(filled) <= budget
    assert replace(filled, widths=spec.widths, stem_width=spec.stem_width) == spec
    for stage in range(len(spec.widths)):
        wider = is_buildable(filled, stage)
        assert wider is None or num_params(wider) > budget
    assert fill_budget(filled, budget) == filled


@pytest.mark.parametrize("spec", SHAPES)
def test_large_budgets_are_nearly_filled(spec: NetworkSpec) -> None:
    for budget in (1_000_000, 5_000_000, 20_000_000):
        assert num_params(fill_budget(spec, budget)) >= 0.98 * budget


@pytest.mark.parametrize("name", CATALOG)
def test_a_networks_own_count_gives_at_least_as_large_a_network(name: str) -> None:
    spec = named(name)
    assert num_params(fill_budget(spec, num_params(spec))) >= 0.98 * num_params(spec)


@pytest.mark.threat(16)
@pytest.mark.parametrize("spec", SHAPES)
def test_the_stated_smallest_budget_works(spec: NetworkSpec) -> None:
    """A budget of the stated smallest count works."""
    least = smallest_count(spec)
    assert num_params(fill_budget(spec, least)) == least


@pytest.mark.threat(16)
@pytest.mark.parametrize("budget", [10**12, 10**15])
def test_a_budget_above_the_largest_network(budget: int) -> None:
    """Refused with the largest count, at once."""
    with pytest.raises(UsageError, match="the largest has") as raised:
        fill_budget(named("original"), budget)
    assert raised.value.where == "budget"


@pytest.mark.threat(16)
@pytest.mark.parametrize(("count", "message"), [(100, "the smallest has"), (10**14, "the largest has")])
def test_a_refused_limit_is_named_as_it_was_given(count: int, message: str) -> None:
    """In bytes if bytes are the binding limit, with the number of bytes that works."""
    budgets = {
        "budget": (Budget(num_params=count), Budget(num_params=count, num_bytes=4 * 10**15)),
        "max_bytes": (Budget(num_bytes=4 * count), Budget(num_params=10**15, num_bytes=4 * count)),
    }
    for flag, limits in budgets.items():
        for budget in limits:
            with pytest.raises(UsageError, match=message) as raised:
                design.design(budget, epochs=1)
            assert raised.value.where == flag
            possible = int((raised.value.hint or "").rpartition(" ")[2])
            fixed = Budget(num_params=possible) if flag == "budget" else Budget(num_bytes=possible)
            assert fixed.fits(design.design(fixed, epochs=1).spec)


@pytest.mark.threat(17)
@pytest.mark.parametrize("budget", [50_000, 300_000])
def test_the_built_network_has_the_count(budget: int) -> None:
    """Weights and biases, trainable or frozen, count; buffers do not."""
    for spec in SHAPES:
        filled = fill_budget(spec, max(budget, smallest_count(spec)))
        assert sum(parameter.numel() for parameter in ResNet(filled).parameters()) == num_params(filled)


BUDGETS = [20_000, 25_001, 33_333, 50_000, 77_777, 100_000, 150_000, 270_000, 400_000, 500_000, 750_000]
BUDGETS += [1_000_000, 1_500_000, 2_000_000, 3_000_000, 4_697_742, 5_000_000, 10_000_000, 20_000_000, 30_000_000]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("num_classes", [2, 10, 100])
@pytest.mark.parametrize("epochs", [1, 2000])
def test_the_dial_uses_nearly_all_and_never_more(budget: int, num_classes: int, epochs: int) -> None:
    designed = design.design(Budget(num_params=budget), epochs=epochs, num_classes=num_classes).spec
    assert (0.97 if budget >= 50_000 else 0.95) * budget <= num_params(designed) <= budget
    assert designed.num_classes == num_classes
    assert all(width % (16 if width >= 128 else 8 if width >= 48 else 2) == 0 for width in designed.widths)
    assert all(1.5 <= wide / narrow <= 2.67 for narrow, wide in itertools.pairwise(designed.widths))
    assert designed.stem == "whitening" or designed.stem_width == designed.widths[0]


@settings(max_examples=30, deadline=None)
@given(
    params=st.integers(100_000, 30_000_000),
    macs=st.integers(5_000_000, 2_000_000_000),
    epochs=st.sampled_from((1, 2000)),
)
def test_the_dial_keeps_every_limit(params: int, macs: int, epochs: int) -> None:
    """The binding limit is used to 97% for parameters, or to 94% for multiply-adds."""
    designed = design.design(Budget(num_params=params, num_macs=macs), epochs=epochs).spec
    assert num_params(designed) <= params
    assert num_macs(designed) <= macs
    assert num_params(designed) >= 0.97 * params or num_macs(designed) >= 0.94 * macs


def test_bytes_count_as_the_parameters_they_hold() -> None:
    both = Budget(num_bytes=4_000_003), Budget(num_params=1_000_000)
    assert len({design.design(budget, epochs=200).spec for budget in both}) == 1
    assert num_params(design.design(Budget(num_params=500_000, num_bytes=4_000_000), epochs=200).spec) <= 500_000


@pytest.mark.parametrize(
    ("epochs", "shape"),
    [
        (1, design.POOLED),
        (design.SHORT_RUN, design.POOLED),
        (design.SHORT_RUN + 1, design.SHALLOW),
        (design.LONG_RUN, design.SHALLOW),
        (design.LONG_RUN + 1, design.DEEP),
    ],
)
def test_the_shape_follows_from_the_epochs(epochs: int, shape: NetworkSpec) -> None:
    designed = design.design(Budget(num_params=10**6), epochs=epochs)
    assert replace(designed.spec, widths=shape.widths, stem_width=shape.stem_width) == shape


def test_under_a_limit_on_operations_the_cheap_shape_is_used() -> None:
    free = design.design(Budget(num_params=10**6), epochs=2000)
    bound = design.design(Budget(num_params=10**6, num_macs=num_macs(free.spec) - 1), epochs=2000)
    assert (free.spec.downsample, bound.spec.downsample) == ("stride", "pool")
    assert free.reasons != bound.reasons


@pytest.mark.parametrize(
    ("limits", "binding"),
    [
        ({"num_macs": 50_000_000, "num_bytes": 2_000_000}, "bytes"),
        ({"num_macs": 50_000_000}, "multiply-adds"),
        ({"num_macs": 10**9}, "parameters"),
    ],
)
def test_the_reasons_name_the_limit_that_binds(limits: dict[str, int], binding: str) -> None:
    designed = design.design(Budget(num_params=10**6, **limits), epochs=30)
    assert designed.reasons[-1] == f"the limit on {binding} stops the network from growing"


def test_a_single_limit_needs_no_such_reason() -> None:
    assert len(design.design(Budget(num_params=10**6), epochs=30).reasons) == 1


@pytest.mark.threat(16)
@pytest.mark.parametrize("more", [{}, {"block": "bottleneck", "expansion": 2}, {"groups": 4}])
@pytest.mark.parametrize("epochs", [10, 200])
def test_a_wide_fixed_stem_bounds_the_widths(more: dict[str, Any], epochs: int) -> None:
    """Identity shortcuts cannot narrow; a budget too small is refused with the smallest that works."""
    fixed = {"stem_width": 60, "shortcut": "identity"} | more
    with pytest.raises(UsageError, match="as few as 20,000 parameters; the smallest has") as raised:
        design.design(Budget(num_params=20_000), epochs=epochs, fixed=fixed)
    least = int((raised.value.hint or "").rpartition(" ")[2])
    smallest = design.design(Budget(num_params=least), epochs=epochs, fixed=fixed).spec
    assert num_params(smallest) == least
    assert smallest.stem_width == 60
    larger = design.design(Budget(num_params=3 * least), epochs=epochs, fixed=fixed).spec
    assert 0.9 * 3 * least < num_params(larger) <= 3 * least


def test_a_wide_fixed_stem_is_no_bound_where_pooling_changes_widths() -> None:
    fixed = {"stem_width": 60, "shortcut": "identity"}
    designed = design.design(Budget(num_params=30_000), epochs=3, fixed=fixed).spec
    assert designed.widths[0] < 60
    assert num_params(designed) > 0.9 * 30_000


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(num_macs=10**8), "neither parameters nor bytes are limited"),
        (Budget(num_params=1), "as few as 1 parameters; the smallest has"),
        (Budget(num_params=10**6, num_macs=1_000), "as few as 1,000 multiply-adds; the smallest has"),
    ],
)
def test_impossible_requests_are_explained(budget: Budget, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        design.design(budget, epochs=200)


def test_a_limit_on_multiply_adds_explains_a_shape_only_if_it_changes_it() -> None:
    limits = Budget(num_params=1_000_000, num_macs=5_000_000)
    assert "rules out the shape" not in design.design(limits, epochs=3).reasons[0]
    assert "rules out the shape" in design.design(limits, epochs=20).reasons[0]
