"""What of a recipe follows from the budget and the number of epochs: the network, and what it leaves to the dial.

A network sees too little to need regularisation in a short run, and a small network cannot fit what a large one can.
Both are one number here: `strength`, the epochs scaled by the size of the network. The thresholds are a first guess
from published recipes; only that ten epochs are too short for cutout is measured (docs/log.md).
"""

import math
from dataclasses import asdict, fields, replace
from typing import Any

from pocket_resnet.errors import UsageError
from pocket_resnet.model.counts import num_params
from pocket_resnet.model.design import Budget, cost, design, fill_budget
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.base import dotted
from pocket_resnet.recipe.schema import Recipe, parse_count

FULL_SIZE_PARAMS = 2_000_000  # from here on a network's size asks for no less regularisation
POOLED_SCALE = 8.0  # of rates: what networks that pool before their stages learn with, others cannot bear (docs/log.md)
DISTORTED = 24  # strength from which pictures are distorted
BLENDED = 100  # strength from which pictures are blended
AVERAGED = 0.04  # share of such a run that its averaged weights look back on: published recipes take 3 to 4%
FINE_TUNING_LR, FINE_TUNING_MUON_LR = 0.05, 0.02  # a quarter of those of `best` (docs/log.md)
INSTEAD = {"ema.window": "ema.decay"}  # keys that take the place of a dialled one


def network(recipe: Recipe, num_classes: int) -> NetworkSpec:
    """The dial's network, or the recipe's own: scaled to its budget, or as it is where it fills the budget or has none.

    What the recipe says of the network itself stays; where it spells one out, nothing is left for the dial. The dial
    counts the epochs that were asked for: a run that `min_steps` lengthens is no longer in optimizer steps.
    A pretrained network is never scaled. Raises UsageError where it costs more than the recipe allows.
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


def _refuse_too_costly(spec: NetworkSpec, budget: Budget) -> None:
    for what, most in budget.limits().items():
        if (count := cost(spec, what)) > most:
            flag, needed = budget.asked(what, count)
            hint = f"choose a smaller model, or set {flag} to {needed} or more"
            raise UsageError(f"the pretrained network has {count:,} {what}, over {most:,}", where=flag, hint=hint)


def budget_of(recipe: Recipe) -> Budget:
    """What the recipe lets a network cost."""

    def limit(key: str) -> int | None:
        text = getattr(recipe, key)
        return None if text is None else parse_count(text, key)

    return Budget(num_params=limit("budget"), num_macs=limit("max_macs"), num_bytes=limit("max_bytes"))


def strength(spec: NetworkSpec, epochs: int) -> float:
    """Epochs, fewer for networks of fewer than 2 million parameters, by the square root of their share."""
    return epochs * math.sqrt(min(1.0, num_params(spec) / FULL_SIZE_PARAMS))


def follow(recipe: Recipe) -> dict[str, Any]:
    """What the sections in `recipe.dial` become for its network and epochs, by dotted key, but for `kept` keys."""
    return {key: value for key, value in _dialled(recipe).items() if not _is_explicit(recipe, key)}


def kept(recipe: Recipe) -> list[str]:
    """`key value (dial: value)` for every key that the recipe, a flag or a program has set to another value.

    One that takes the place of a dialled key is named in its place: `ema.decay 0.99 (dial: ema.window 0.04)`.
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
    """Every key of the dialled sections that the dial decides, with what it makes of it."""
    spec = recipe.model
    long, very_long = (strength(spec, recipe.epochs) >= threshold for threshold in (DISTORTED, BLENDED))
    scale = 1.0 if spec.downsample == "stride" else POOLED_SCALE
    values = {
        "optim.norm_bias_lr_scale": scale,
        "optim.head_lr_scale": scale,
        "augment.trivial_augment": long,
        "augment.random_erasing": 0.1 if long else 0.0,
        "augment.mixup": 0.2 if very_long else 0.0,
        "augment.cutmix": 1.0 if very_long else 0.0,
        "ema.window": AVERAGED if very_long else 0.0,
        "schedule.warmup_epochs": 5.0 if very_long else 0.0,
        "train_image_sizes": growing_image_sizes(spec.image_size, recipe.epochs),
    }
    if recipe.pretrained.model is not None:
        values |= {"optim.lr": FINE_TUNING_LR, "optim.muon_lr": FINE_TUNING_MUON_LR}
    return {key: value for key, value in values.items() if key.partition(".")[0] in recipe.dial}


def growing_image_sizes(image_size: int, epochs: int) -> tuple[int, ...]:
    """Image sides of equal parts of the run: half, three quarters and the whole of it, or finer in ten epochs or more.

    Images of fewer than 32 pixels are never made smaller.
    """
    eighths = (5, 6, 6, 6, 7, 7, 7, 8, 8, 8) if epochs >= 10 else (4, 6, 8)
    return tuple(image_size * part // 8 for part in eighths) if image_size >= 32 else ()
