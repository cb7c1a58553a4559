"""A parameter budget -> a network that uses it."""

from dataclasses import replace

from pocket_resnet.errors import UsageError
from pocket_resnet.model.spec import NetworkSpec, num_params


def fill_budget(spec: NetworkSpec, budget: int) -> NetworkSpec:
    """The network of the same shape, all widths scaled alike, that is the largest within `budget` parameters.

    The stem keeps its width. Raises UsageError, stating the smallest possible count, where even that is too large.
    """
    smallest = _scaled(spec, 0.0)
    if num_params(smallest) > budget:
        raise UsageError(
            f"no network of this shape has as few as {budget:,} parameters; the smallest has {num_params(smallest):,}",
            where="budget",
            mend=f"give at least {num_params(smallest)}",
        )
    low, high = 0.0, 1.0
    while high < 1024 and num_params(_scaled(spec, high)) <= budget:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if num_params(_scaled(spec, middle)) <= budget else (low, middle)
    return _widen_one_by_one(_scaled(spec, low), budget)


def _scaled(spec: NetworkSpec, factor: float) -> NetworkSpec:
    """All widths times the factor, rounded down to what the groups divide, at least one per group."""
    unit = spec.groups
    widths = tuple(max(unit, int(width * factor) // unit * unit) for width in spec.widths)
    return replace(spec, widths=widths)


def _widen_one_by_one(spec: NetworkSpec, budget: int) -> NetworkSpec:
    """Spend what rounding left over on the widest stages first."""
    for stage in reversed(range(len(spec.widths))):
        while True:
            widths = list(spec.widths)
            widths[stage] += spec.groups
            wider = replace(spec, widths=tuple(widths))
            if num_params(wider) > budget:
                break
            spec = wider
    return spec
