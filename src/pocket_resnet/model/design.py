"""A parameter budget -> a network that uses it."""

from dataclasses import replace

from pocket_resnet.errors import UsageError
from pocket_resnet.model.spec import RANGES, NetworkSpec, num_params

LARGEST_WIDTH = int(RANGES["widths"][1])


def fill_budget(spec: NetworkSpec, budget: int) -> NetworkSpec:
    """The network of the same shape, all widths scaled alike, that is the largest within `budget` parameters.

    A conv stem is scaled with them. Raises UsageError, stating the smallest or the largest possible count, for a budget
    that no network of the shape can fill.
    """
    smallest, largest = _scaled(spec, 0.0), _scaled(spec, float(LARGEST_WIDTH))
    if num_params(smallest) > budget:
        what = (
            f"no network of this shape has as few as {budget:,} parameters; the smallest has {num_params(smallest):,}"
        )
        raise UsageError(what, where="budget", mend=f"give at least {num_params(smallest)}")
    if num_params(largest) < budget:
        what = f"no network of this shape has as many as {budget:,} parameters; the largest has {num_params(largest):,}"
        raise UsageError(what, where="budget", mend=f"give at most {num_params(largest)}")
    low, high = 0.0, float(LARGEST_WIDTH)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if num_params(_scaled(spec, middle)) <= budget else (low, middle)
    return _widen_one_by_one(_scaled(spec, low), budget)


def _scaled(spec: NetworkSpec, factor: float) -> NetworkSpec:
    """All widths times the factor, rounded down to what the groups divide, within what the shape allows."""
    unit = spec.groups
    widths = tuple(max(unit, int(min(width * factor, LARGEST_WIDTH)) // unit * unit) for width in spec.widths)
    stem_width = spec.stem_width
    if spec.stem == "conv":
        stem_width = max(1, int(min(stem_width * factor, LARGEST_WIDTH)))
        if spec.shortcut == "identity":  # which cannot make fewer channels than the stem has
            stem_width = min(stem_width, widths[0] * spec.stage_channels[0] // spec.widths[0])
    return replace(spec, widths=widths, stem_width=stem_width)


def _widen_one_by_one(spec: NetworkSpec, budget: int) -> NetworkSpec:
    """Spend what rounding left over, on the last stages first."""
    for stage in reversed(range(len(spec.widths))):
        while wider := _widened(spec, stage, budget):
            spec = wider
    return spec


def _widened(spec: NetworkSpec, stage: int, budget: int) -> NetworkSpec | None:
    """The network with one more channel a group in that stage; None where it cannot be built or is over budget."""
    widths = list(spec.widths)
    widths[stage] += spec.groups
    try:
        wider = replace(spec, widths=tuple(widths))
    except UsageError:  # wider than the next stage where shortcuts have no weights, or than any layer may be
        return None
    return wider if num_params(wider) <= budget else None
