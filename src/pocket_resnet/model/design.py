"""The dial: a budget and a number of epochs -> the network that makes most of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pocket_resnet.errors import UsageError
from pocket_resnet.model.catalog import CATALOG
from pocket_resnet.model.counts import FP32_BYTES, num_macs, num_params
from pocket_resnet.model.spec import RANGES, NetworkSpec

FLAGS = {"parameters": "budget", "multiply-adds": "max_macs"}
LARGEST_WIDTH = int(RANGES["widths"][1])
# Staged: three stages of basic blocks, widths 1:2:4. Pooled: a convolution and max-pool before each stage; for as many
# parameters it needs 0.60 of the operations at 100,000 parameters, 0.38 at a million, 0.34 at five.
DEEP = replace(CATALOG["resnet20"], shortcut="projection")
SHALLOW = replace(DEEP, num_blocks=(2, 2, 2))
POOLED = replace(CATALOG["fast"], downsample="pool", widths=(32, 64, 128), activation="gelu")
SHORT_RUN = 4  # epochs up to which POOLED is taken: the best of 16 shapes after three, not after six (docs/report.md)
LONG_RUN = 30  # epochs beyond which DEEP is taken, the best published; up to there SHALLOW, better than it after ten


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that a network may cost: parameters, multiply-adds an image, bytes of fp32 weights; None: any."""

    num_params: int | None = None
    num_macs: int | None = None
    num_bytes: int | None = None

    def limits(self) -> dict[str, int]:
        """What is limited, in words, and to how many; bytes count as the parameters they hold."""
        in_bytes = None if self.num_bytes is None else self.num_bytes // FP32_BYTES
        params = [most for most in (self.num_params, in_bytes) if most is not None]
        macs = [] if self.num_macs is None else [self.num_macs]
        return {what: min(most) for what, most in (("parameters", params), ("multiply-adds", macs)) if most}

    def asked(self, what: str, count: int) -> tuple[str, int]:
        """The flag that limits `what`, and what it says for that count: bytes where those bind."""
        in_bytes = None if self.num_bytes is None else self.num_bytes // FP32_BYTES
        if what == "parameters" and in_bytes is not None and in_bytes == self.limits()[what] != self.num_params:
            return "max_bytes", count * FP32_BYTES
        return FLAGS[what], count

    def fits(self, spec: NetworkSpec) -> bool:
        """Whether the network exceeds nothing."""
        return all(cost(spec, what) <= most for what, most in self.limits().items())


@dataclass(frozen=True)
class Design:
    """A network for a budget, and a few lines that say why it is this one."""

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
    """What the network takes of a limit of `Budget.limits`."""
    return num_params(spec) if what == "parameters" else num_macs(spec)


def design(
    budget: Budget,
    *,
    epochs: int,
    num_classes: int = 10,
    image_size: int = 32,
    fixed: Mapping[str, Any] | None = None,
) -> Design:
    """The largest network within the budget, of the shape that is most accurate after so many epochs.

    Other `fixed` fields of the spec stay as they are given. Where multiply-adds bind, it is the pooled shape, which
    needs fewer. The budget must limit parameters or bytes. From
    20,000 to 30,000,000 parameters at least 97% of them are used, or 94% of the multiply-adds where those bind; nothing
    is ever exceeded. Raises UsageError where no network fits.
    """
    if "parameters" not in budget.limits():
        raise UsageError("neither parameters nor bytes are limited", where="budget", mend="give a budget, such as 5M")
    shape, reason = _shape(epochs)
    fixed = {"num_classes": num_classes, "image_size": image_size, **(fixed or {})}
    found = _filled(_fixed(shape, fixed), replace(budget, num_macs=None), fixed)
    if not budget.fits(found):
        shape, reason = POOLED, "multiply-adds bind: a shape that needs fewer for as many parameters"
        found = _filled(_fixed(shape, fixed), budget, fixed)
    return Design(found, budget, (reason,))


def _fixed(shape: NetworkSpec, fixed: Mapping[str, Any]) -> NetworkSpec:
    """The shape with these fields; its own widths grow alike to those that identity shortcuts need after the stem."""
    if "widths" in fixed or fixed.get("shortcut", shape.shortcut) == "projection":
        return replace(shape, **fixed)
    free = replace(shape, **{**fixed, "shortcut": "projection"})
    factor = -(-free.stem_channels // free.stage_channels[0])
    widths = tuple(min(width * max(1, factor), LARGEST_WIDTH) for width in shape.widths)
    return replace(free, widths=widths, shortcut="identity")


def _filled(shape: NetworkSpec, budget: Budget, fixed: Mapping[str, Any]) -> NetworkSpec:
    """The shape scaled to the budget, but for a fixed stem; with fixed widths as it is, where that exceeds nothing."""
    if "widths" not in fixed:
        return fill_budget(shape, budget, fixed_stem="stem_width" in fixed)
    for what, most in budget.limits().items():
        if (count := cost(shape, what)) > most:
            flag, least = budget.asked(what, count)
            error = f"a network of widths {shape.widths} has {count:,} {what}, over the budget of {most:,}"
            raise UsageError(error, where=flag, mend=f"give at least {least}, or narrower widths")
    return shape


def _shape(epochs: int) -> tuple[NetworkSpec, str]:
    """The shape that makes most of parameters in so many epochs, and why (docs/report.md has the measurements)."""
    if epochs <= SHORT_RUN:
        return POOLED, f"up to {SHORT_RUN} epochs: after three the most accurate of the shapes measured"
    if epochs <= LONG_RUN:
        return SHALLOW, f"{SHORT_RUN + 1} to {LONG_RUN} epochs: after ten the most accurate of the shapes measured"
    return DEEP, f"more than {LONG_RUN} epochs: the most accurate hand-made shape published under 5M parameters"


def fill_budget(spec: NetworkSpec, budget: Budget, *, fixed_stem: bool = False) -> NetworkSpec:
    """The network of the same shape, all widths scaled alike, that is the largest within the budget.

    A conv stem is scaled with them, unless `fixed_stem`. Raises UsageError for a budget that no network of the shape
    can fill, stating the smallest or the largest possible count.
    """
    smallest, largest = _scaled(spec, 0.0, fixed_stem), _scaled(spec, float(LARGEST_WIDTH), fixed_stem)
    for what, most in budget.limits().items():
        if cost(smallest, what) > most:
            fewest = cost(smallest, what)
            error = f"no network of this shape has as few as {most:,} {what}; the smallest has {fewest:,}"
            flag, least = budget.asked(what, fewest)
            raise UsageError(error, where=flag, mend=f"give at least {least}")
    if budget.fits(largest):
        what, most = next(iter(budget.limits().items()))
        if (count := cost(largest, what)) == most:
            return largest
        error = f"no network of this shape has as many as {most:,} {what}; the largest has {count:,}"
        flag, largest_count = budget.asked(what, count)
        raise UsageError(error, where=flag, mend=f"give at most {largest_count}")
    low, high = 0.0, float(LARGEST_WIDTH)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if budget.fits(_scaled(spec, middle, fixed_stem)) else (low, middle)
    return _widen_one_by_one(_scaled(spec, low, fixed_stem), budget)


def _scaled(spec: NetworkSpec, factor: float, fixed_stem: bool) -> NetworkSpec:
    """All widths times the factor, rounded down to what the groups divide, within what the shape allows."""
    unit = least = spec.groups
    keeps_stem = fixed_stem or spec.stem != "conv"
    if keeps_stem and spec.shortcut == "identity" and spec.downsample == "stride":  # no stage is narrower than the stem
        expansion = spec.stage_channels[0] // spec.widths[0]
        least = -(-spec.stem_channels // (expansion * unit)) * unit
    widths = tuple(max(least, int(min(width * factor, LARGEST_WIDTH)) // unit * unit) for width in spec.widths)
    stem_width = spec.stem_width
    if spec.stem == "conv" and not fixed_stem:
        unit = 1 if spec.block == "bottleneck" else unit  # whose first convolution has no groups
        stem_width = max(unit, int(min(stem_width * factor, LARGEST_WIDTH)) // unit * unit)
        if spec.shortcut == "identity":  # which cannot make fewer channels than the stem has
            stem_width = min(stem_width, widths[0] * spec.stage_channels[0] // spec.widths[0])
    return replace(spec, widths=widths, stem_width=stem_width)


def _widen_one_by_one(spec: NetworkSpec, budget: Budget) -> NetworkSpec:
    """Spend what rounding left over, on the last stages first."""
    for stage in reversed(range(len(spec.widths))):
        while wider := _widened(spec, stage, budget):
            spec = wider
    return spec


def _widened(spec: NetworkSpec, stage: int, budget: Budget) -> NetworkSpec | None:
    """The network with one more channel a group in that stage; None where it cannot be built or is over budget."""
    widths = list(spec.widths)
    widths[stage] += spec.groups
    try:
        wider = replace(spec, widths=tuple(widths))
    except UsageError:  # wider than the next stage where shortcuts have no weights, or than any layer may be
        return None
    return wider if budget.fits(wider) else None
