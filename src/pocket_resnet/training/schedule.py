"""The learning-rate schedule: a pure function of the step."""

import math

from pocket_resnet.recipe.sections import ScheduleRecipe


def lr_factor(schedule: ScheduleRecipe, step: int, num_steps: int, steps_per_epoch: int) -> float:
    """The share of the peak learning rate, 0 to 1, for optimizer step `step` of `num_steps`.

    A linear rise over `warmup_epochs`, then a cosine (Loshchilov & Hutter 2016, arXiv:1608.03983), a straight line
    to zero, or no change.
    """
    warmup = min(num_steps, round(schedule.warmup_epochs * steps_per_epoch))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    if schedule.shape == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return 1 - done if schedule.shape == "linear" else 1.0
