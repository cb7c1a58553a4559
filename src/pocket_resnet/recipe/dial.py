"""The dial: derives the network and the settings that a recipe leaves open from its budget and number of epochs.

A network needs no regularisation in a short run, and a small network needs less of it than a large one. Both are
combined in one number, `strength`: the epochs scaled by the size of the network. The thresholds are a first guess
from published recipes. Measured is only that ten epochs are too short for cutout, and that small networks gain from
an undistorted end (docs/log.md).
"""

import math
from dataclasses import asdict, fields, replace
from typing import Any

from pocket_resnet.errors import UsageError
from pocket_resnet.model.counts import FP32_BYTES, num_macs, num_params
from pocket_resnet.model.design import Budget, cost, design, fill_budget
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.base import dotted
from pocket_resnet.recipe.schema import Recipe, parse_count

FULL_SIZE_PARAMS = 2_000_000  # smaller networks need less regularisation
POOLED_SCALE = 8.0  # learning-rate factor for networks that pool before each stage; too high for others (docs/log.md)
DISTORT_FROM = 24  # strength from which TrivialAugment and random erasing are used
DISTORT_UNTIL = 0.9  # share of such a run that distorts; an undistorted end helps small networks (docs/log.md)
MIX_FROM = 100  # strength from which mixup, CutMix, EMA and warm-up are used
EMA_WINDOW = 0.04  # share of such a run that the averaged weights cover; published recipes use 3 to 4%
FINE_TUNING_LR, FINE_TUNING_MUON_LR = 0.05, 0.02  # a quarter of those of `best` (docs/log.md)
INSTEAD = {"ema.window": "ema.decay"}  # keys that replace a dialled one


def network(recipe: Recipe, num_classes: int) -> NetworkSpec:
    """The network for a recipe.

    With "model" in `recipe.dial`, the dial chooses it and keeps the keys that the user has set. Otherwise it is the
    recipe's own, scaled to the budget if there is one and the network does not fill it already.
    The dial uses the requested number of epochs: a run that `min_steps` lengthens is still short in optimizer steps.
    A pretrained network is never scaled. Raises UsageError if it costs more than the recipe allows.
    """
    spec, budget = replace(recipe.model, num_classes=num_classes), budget_of(recipe)
    if recipe.pretrained.model is not None:
        _refuse_too_costly(spec, budget)
        return spec
    explicit = {name: value for name, value in asdict(spec).items() if f"model.{name}" in recipe.explicit}
    if "model" in recipe.dial and len(explicit) < len(fields(spec)):
        sizes = {"num_classes": num_classes, "image_size": spec.image_size}
        return design(budget, epochs=recipe.epochs, **sizes, fixed=explicit).spec
    return fill_budget(spec, budget) if budget.limits() and not budget.is_filled_by(spec) else spec


def limits_reached(recipe: Recipe, spec: NetworkSpec) -> dict[str, str]:
    """The recipe's limits, lowered to the costs of a network that cannot use nearly all of them; else nothing.

    Keys of `[model]` that are set, or a tiny budget, leave some unused. With the lowered limits, the recipe that a run
    writes describes this network too, instead of one that is scaled up again.
    """
    budget = budget_of(recipe)
    if recipe.pretrained.model is not None or not budget.fits(spec) or budget.is_filled_by(spec):
        return {}
    params = num_params(spec)
    costs = {"budget": params, "max_macs": num_macs(spec), "max_bytes": FP32_BYTES * params}
    return {key: str(count) for key, count in costs.items() if getattr(recipe, key) is not None}


def _refuse_too_costly(spec: NetworkSpec, budget: Budget) -> None:
    for what, most in budget.limits().items():
        if (count := cost(spec, what)) > most:
            flag, needed = budget.flag_for(what, count)
            hint = f"choose a smaller model, or set {flag} to {needed} or more"
            raise UsageError(f"the pretrained network has {count:,} {what}, over {most:,}", where=flag, hint=hint)


def budget_of(recipe: Recipe) -> Budget:
    """The recipe's limits on a network."""

    def limit(key: str) -> int | None:
        text = getattr(recipe, key)
        return None if text is None else parse_count(text, key)

    return Budget(num_params=limit("budget"), num_macs=limit("max_macs"), num_bytes=limit("max_bytes"))


def strength(spec: NetworkSpec, epochs: int) -> float:
    """Epochs, times the square root of the network's share of 2 million parameters if it has fewer."""
    return epochs * math.sqrt(min(1.0, num_params(spec) / FULL_SIZE_PARAMS))


def follow(recipe: Recipe) -> dict[str, Any]:
    """The dial's values for the sections in `recipe.dial`, by dotted key, without keys that the user has set."""
    return {key: value for key, value in _dialled(recipe).items() if not _is_explicit(recipe, key)}


def changed(recipe: Recipe) -> list[str]:
    """`key value` for every key that the dial changes, a switch that it turns on without its value.

    The image sizes are left out: a run that begins with small images says so.
    """
    own = dotted(recipe.model_dump(exclude={"model"}))
    values = {key: value for key, value in follow(recipe).items() if value != own[key] and key != "train_image_sizes"}
    return [key if value is True else f"{key} {value}" for key, value in values.items()]


def kept(recipe: Recipe) -> list[str]:
    """`key value (dial: value)` for every key that the recipe, a flag or a program has set to a different value.

    A key that replaces a dialled key is named instead of it: `ema.decay 0.99 (dial: ema.window 0.04)`.
    """
    own, lines = dotted(recipe.model_dump(exclude={"model"})), []
    for key, value in _dialled(recipe).items():
        if own[key] == value or not _is_explicit(recipe, key):
            continue
        if key in recipe.explicit:
            lines.append(f"{key} {own[key]} (dial: {value})")
        else:
            lines.append(f"{INSTEAD[key]} {own[INSTEAD[key]]} (dial: {key} {value})")
    return lines


def _is_explicit(recipe: Recipe, key: str) -> bool:
    return bool(recipe.explicit & {key, INSTEAD.get(key, key)})


def _dialled(recipe: Recipe) -> dict[str, Any]:
    """All keys that the dial decides in the dialled sections, with their values."""
    spec = recipe.model
    long, very_long = (strength(spec, recipe.epochs) >= threshold for threshold in (DISTORT_FROM, MIX_FROM))
    scale = 1.0 if spec.downsample == "stride" else POOLED_SCALE
    values = {
        "optim.norm_bias_lr_scale": scale,
        "optim.head_lr_scale": scale,
        "augment.trivial_augment": long,
        "augment.random_erasing": 0.1 if long else 0.0,
        "augment.mixup": 0.2 if very_long else 0.0,
        "augment.cutmix": 1.0 if very_long else 0.0,
        "augment.distort_until": DISTORT_UNTIL if long else 1.0,
        "ema.window": EMA_WINDOW if very_long else 0.0,
        "schedule.warmup_epochs": 5.0 if very_long else 0.0,
        "train_image_sizes": growing_image_sizes(spec.image_size, recipe.epochs),
    }
    if recipe.pretrained.model is not None:
        values |= {"optim.lr": FINE_TUNING_LR, "optim.muon_lr": FINE_TUNING_MUON_LR}
    return {key: value for key, value in values.items() if key.partition(".")[0] in recipe.dial}


def growing_image_sizes(image_size: int, epochs: int) -> tuple[int, ...]:
    """Image sizes for equal parts of the run: half, three quarters and full size, or finer steps from ten epochs on.

    Images smaller than 32 pixels are never reduced.
    """
    eighths = (5, 6, 6, 6, 7, 7, 7, 8, 8, 8) if epochs >= 10 else (4, 6, 8)
    return tuple(image_size * part // 8 for part in eighths) if image_size >= 32 else ()
