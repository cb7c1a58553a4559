"""Chooses the network for a budget: its shape by the number of epochs, its widths by the budget."""

import bisect
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pocket_resnet.errors import UsageError
from pocket_resnet.model.catalog import CATALOG
from pocket_resnet.model.counts import FP32_BYTES, num_macs, num_params
from pocket_resnet.model.spec import MAX_CHANNELS, NetworkSpec

FLAGS = {"parameters": "budget", "multiply-adds": "max_macs"}
# DEEP and SHALLOW: three stages of basic blocks, widths 1:2:4. POOLED: a convolution and max-pool before each stage;
# with as many parameters as DEEP, it needs about a third to two thirds of the operations.
DEEP = replace(CATALOG["resnet20"], shortcut="projection")
SHALLOW = replace(DEEP, num_blocks=(2, 2, 2))
POOLED = replace(CATALOG["fast"], downsample="pool", widths=(32, 64, 128), activation="gelu")
# Fast widths: the factor by which they may differ from those that fill the budget exactly, the number tried per
# stage, the ratio of neighbouring stages, and the share of the budget to use, from SMALL_PARAMS on and below.
NEAR, NUM_NEAR, MIN_RATIO, MAX_RATIO = 1.3, 16, 1.5, 2.67
SMALL_PARAMS, MIN_USED, MIN_USED_SMALL = 50_000, 0.97, 0.95
SHORT_RUN = 4  # epochs up to which POOLED is used: the best of 18 shapes after 3 epochs, not after 6 (docs/report.md)
LONG_RUN = 30  # epochs up to which SHALLOW is used, which is better than DEEP after 10; nothing longer was compared


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits on a network: parameters, multiply-adds per image, bytes of fp32 weights; None means no limit."""

    num_params: int | None = None
    num_macs: int | None = None
    num_bytes: int | None = None

    def given(self) -> dict[str, int]:
        """The limits as they were set, by name of the cost."""
        all_three = {"parameters": self.num_params, "multiply-adds": self.num_macs, "bytes": self.num_bytes}
        return {what: most for what, most in all_three.items() if most is not None}

    def limits(self) -> dict[str, int]:
        """The limits by name of the cost; a limit on bytes becomes one on parameters."""
        in_bytes = None if self.num_bytes is None else self.num_bytes // FP32_BYTES
        params = [most for most in (self.num_params, in_bytes) if most is not None]
        macs = [] if self.num_macs is None else [self.num_macs]
        return {what: min(most) for what, most in (("parameters", params), ("multiply-adds", macs)) if most}

    def flag_for(self, what: str, count: int) -> tuple[str, int]:
        """The flag that limits `what`, and its value for that count, in bytes if the limit on bytes binds."""
        in_bytes = None if self.num_bytes is None else self.num_bytes // FP32_BYTES
        if what == "parameters" and in_bytes is not None and in_bytes == self.limits()[what] != self.num_params:
            return "max_bytes", count * FP32_BYTES
        return FLAGS[what], count

    def fits(self, spec: NetworkSpec) -> bool:
        """Whether the network exceeds no limit."""
        return all(cost(spec, what) <= most for what, most in self.limits().items())

    def is_filled_by(self, spec: NetworkSpec) -> bool:
        """Whether the network fits and uses at least 97% of a limit, or 95% below 50,000 parameters."""
        least = MIN_USED if self.limits().get("parameters", SMALL_PARAMS) >= SMALL_PARAMS else MIN_USED_SMALL
        return self.fits(spec) and any(cost(spec, what) >= least * most for what, most in self.limits().items())


@dataclass(frozen=True)
class Design:
    """A network for a budget, with the reasons for the choice."""

    spec: NetworkSpec
    budget: Budget
    reasons: tuple[str, ...]

    @property
    def num_params(self) -> int:
        """Weights and biases."""
        return num_params(self.spec)

    @property
    def num_macs(self) -> int:
        """Multiply-adds for one image."""
        return num_macs(self.spec)

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights in fp32."""
        return FP32_BYTES * self.num_params


def cost(spec: NetworkSpec, what: str) -> int:
    """The network's cost of a kind that `Budget.limits` names."""
    return num_params(spec) if what == "parameters" else num_macs(spec)


def design(
    budget: Budget,
    *,
    epochs: int,
    num_classes: int = 10,
    image_size: int = 32,
    fixed: Mapping[str, Any] | None = None,
) -> Design:
    """A network of the most accurate shape for this number of epochs that fills the budget.

    `fixed` fields of the spec keep their values. If multiply-adds bind, the shape is the pooled one, which needs fewer.
    The budget must limit parameters or bytes. From 50,000 to 30,000,000 parameters, at least 97% of them are used, and
    95% from 5,000; if multiply-adds bind, 94% of those. No limit is ever exceeded.
    Raises UsageError if no network fits.
    """
    if "parameters" not in budget.limits():
        raise UsageError("neither parameters nor bytes are limited", where="budget", hint="give a budget, such as 5M")
    shape, reason = _shape(epochs)
    fixed = {"num_classes": num_classes, "image_size": image_size, **(fixed or {})}
    spec = _filled(_fixed(shape, fixed), replace(budget, num_macs=None), fixed)
    if not budget.fits(spec):
        if shape is not POOLED:
            what = "the multiply-add limit rules out the shape for this number of epochs"
            reason = f"{what}; this one needs fewer per parameter"
        spec = _filled(_fixed(POOLED, fixed), budget, fixed)
    return Design(spec, budget, (reason, *_binding(spec, budget)))


def _binding(spec: NetworkSpec, budget: Budget) -> list[str]:
    """A line that names the limit that stops the network from growing, if there are several."""
    given, counts = budget.given(), {"parameters": num_params(spec), "multiply-adds": num_macs(spec)}
    counts["bytes"] = FP32_BYTES * counts["parameters"]
    nearest = max(given, key=lambda what: counts[what] / given[what])
    return [f"the limit on {nearest} stops the network from growing"] if len(given) > 1 else []


def _fixed(shape: NetworkSpec, fixed: Mapping[str, Any]) -> NetworkSpec:
    """The shape with these fields; with identity shortcuts, its own widths grow to at least the stem's."""
    if "widths" in fixed or fixed.get("shortcut", shape.shortcut) == "projection":
        return replace(shape, **fixed)
    free = replace(shape, **{**fixed, "shortcut": "projection"})
    factor = -(-free.stem_channels // free.stage_channels[0])
    widths = tuple(min(width * max(1, factor), MAX_CHANNELS) for width in shape.widths)
    return replace(free, widths=widths, shortcut="identity")


def _filled(shape: NetworkSpec, budget: Budget, fixed: Mapping[str, Any]) -> NetworkSpec:
    """The shape scaled to the budget, without a fixed stem; fixed widths must fit the budget as they are."""
    if "widths" not in fixed:
        filled = fill_budget(shape, budget, fixed_stem="stem_width" in fixed)
        return _with_fast_widths(filled, shape, budget, fixed_stem="stem_width" in fixed)
    for what, most in budget.limits().items():
        if (count := cost(shape, what)) > most:
            flag, least = budget.flag_for(what, count)
            error = f"a network of widths {shape.widths} has {count:,} {what}, over the budget of {most:,}"
            raise UsageError(error, where=flag, hint=f"give at least {least}, or narrower widths")
    return shape


def _shape(epochs: int) -> tuple[NetworkSpec, str]:
    """The most accurate shape for this number of epochs, and why (docs/report.md has the measurements)."""
    if epochs <= SHORT_RUN:
        shape, lengths = POOLED, f"up to {SHORT_RUN}"
        why = "the most accurate of 18 that we trained for 3 epochs (CIFAR-10, 100,000 parameters)"
    elif epochs <= LONG_RUN:
        shape, lengths = SHALLOW, f"{SHORT_RUN + 1} to {LONG_RUN}"
        why = "the most accurate of three that we trained for 6 and for 10 epochs (CIFAR-10, 100,000 parameters)"
    else:
        shape, lengths = DEEP, f"more than {LONG_RUN}"
        why = "published networks like ResNet-20 have three blocks per stage; we compared no shapes in such long runs"
    return shape, f"`best` uses this shape for {lengths} epochs: {why}"


def fill_budget(spec: NetworkSpec, budget: Budget, *, fixed_stem: bool = False) -> NetworkSpec:
    """The largest network of the same shape within the budget, with all widths scaled by one factor.

    A conv stem is scaled too, unless `fixed_stem`. Raises UsageError for a budget that no network of the shape
    can fill, stating the smallest or the largest possible count.
    """
    smallest, largest = _scaled(spec, 0.0, fixed_stem), _scaled(spec, float(MAX_CHANNELS), fixed_stem)
    for what, most in budget.limits().items():
        if cost(smallest, what) > most:
            fewest = cost(smallest, what)
            error = f"no network of this shape has as few as {most:,} {what}; the smallest has {fewest:,}"
            flag, least = budget.flag_for(what, fewest)
            raise UsageError(error, where=flag, hint=f"give at least {least}")
    if budget.fits(largest):
        what, most = next(iter(budget.limits().items()))
        if (count := cost(largest, what)) == most:
            return largest
        error = f"no network of this shape has as many as {most:,} {what}; the largest has {count:,}"
        flag, largest_count = budget.flag_for(what, count)
        raise UsageError(error, where=flag, hint=f"give at most {largest_count}")
    low, high = 0.0, float(MAX_CHANNELS)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if budget.fits(_scaled(spec, middle, fixed_stem)) else (low, middle)
    return _widen_one_by_one(_scaled(spec, low, fixed_stem), budget)


def _with_fast_widths(filled: NetworkSpec, shape: NetworkSpec, budget: Budget, *, fixed_stem: bool) -> NetworkSpec:
    """The filled network with widths that processors and GPUs compute fast, in nearly the shape's proportions.

    Of all such widths near the filled ones that fill the budget too, chooses those whose ratios are nearest to the
    shape's. If there are none, or if groups or identity shortcuts bind the widths, returns the network unchanged.
    """
    if shape.groups > 1 or shape.shortcut == "identity":
        return filled
    target_ratios = [math.log(wide / narrow) for narrow, wide in itertools.pairwise(shape.widths)]

    def rank(spec: NetworkSpec) -> tuple[float, int]:
        ratios = [math.log(wide / narrow) for narrow, wide in itertools.pairwise(spec.widths)]
        distance = sum(abs(ratio - own) for ratio, own in zip(ratios, target_ratios, strict=True))
        return -round(distance, 6), num_params(spec)

    near = [_with_widths(filled, widths, fixed_stem) for widths in _fast_widths_near(filled, budget, fixed_stem)]
    return max(filter(budget.is_filled_by, near), key=rank, default=filled)


def _fast_widths_near(filled: NetworkSpec, budget: Budget, fixed_stem: bool) -> Iterator[tuple[int, ...]]:
    """Fast widths of all stages: near the filled ones, and the last as wide as budget and ratio allow."""
    choices = [_fast_near(width) for width in filled.widths]
    for first in itertools.product(*choices[:-1]):
        fitting = [(*first, last) for last in choices[-1] if _ratios_are_allowed((*first, last))]
        count = bisect.bisect_left(
            fitting, True, key=lambda widths: not budget.fits(_with_widths(filled, widths, fixed_stem))
        )
        if count:
            yield fitting[count - 1]


def _fast_near(width: int) -> list[int]:
    """Up to NUM_NEAR numbers of channels, ascending, that fill matrix units, which process 16 at a time.

    Narrow layers are bound by memory, so multiples of 8 or 2 are enough for them.
    """
    near = range(math.ceil(width / NEAR), min(int(width * NEAR), MAX_CHANNELS) + 1)
    fast = [other for other in near if other % (16 if other >= 128 else 8 if other >= 48 else 2) == 0]
    return sorted(sorted(fast, key=lambda other: abs(other - width))[:NUM_NEAR])


def _ratios_are_allowed(widths: tuple[int, ...]) -> bool:
    return all(MIN_RATIO <= wide / narrow <= MAX_RATIO for narrow, wide in itertools.pairwise(widths))


def _with_widths(spec: NetworkSpec, widths: tuple[int, ...], fixed_stem: bool) -> NetworkSpec:
    """The network with these widths; a conv stem gets the width of the first stage, unless it is fixed."""
    keeps_stem = fixed_stem or spec.stem != "conv"
    return replace(spec, widths=widths, stem_width=spec.stem_width if keeps_stem else widths[0])


def _scaled(spec: NetworkSpec, factor: float, fixed_stem: bool) -> NetworkSpec:
    """The network with all widths times the factor, rounded down to multiples of the groups, as far as possible."""
    unit = least = spec.groups
    keeps_stem = fixed_stem or spec.stem != "conv"
    if keeps_stem and spec.shortcut == "identity" and spec.downsample == "stride":  # no stage is narrower than the stem
        expansion = spec.stage_channels[0] // spec.widths[0]
        least = -(-spec.stem_channels // (expansion * unit)) * unit
    widths = tuple(max(least, int(min(width * factor, MAX_CHANNELS)) // unit * unit) for width in spec.widths)
    stem_width = spec.stem_width
    if spec.stem == "conv" and not fixed_stem:
        unit = 1 if spec.block == "bottleneck" else unit  # a bottleneck's first convolution has no groups
        stem_width = max(unit, int(min(stem_width * factor, MAX_CHANNELS)) // unit * unit)
        if spec.shortcut == "identity":  # an identity shortcut cannot reduce the stem's channels
            stem_width = min(stem_width, widths[0] * spec.stage_channels[0] // spec.widths[0])
    return replace(spec, widths=widths, stem_width=stem_width)


def _widen_one_by_one(spec: NetworkSpec, budget: Budget) -> NetworkSpec:
    """Widen stages by single steps as far as the budget allows, the last stages first."""
    for stage in reversed(range(len(spec.widths))):
        while wider := _widened(spec, stage, budget):
            spec = wider
    return spec


def _widened(spec: NetworkSpec, stage: int, budget: Budget) -> NetworkSpec | None:
    """The network with one more channel per group in that stage; None if it cannot be built or is over budget."""
    widths = list(spec.widths)
    widths[stage] += spec.groups
    try:
        wider = replace(spec, widths=tuple(widths))
    except UsageError:  # wider than an identity shortcut or the maximum allows
        return None
    return wider if budget.fits(wider) else None
