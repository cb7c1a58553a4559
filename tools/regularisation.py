"""Measures the effect of regularisation in short runs: one method is added to the same training in turn.

    python -m tools.regularisation --budget 300k --epochs 10
    python -m tools.regularisation --epochs 30 --only nothing "TrivialAugment, erasing"

The network is the dial's cheap shape, filled to the budget; the rates are those of `best`, and the image size grows
as the dial chooses. Rows are added to results/regularisation.csv.
"""

from dataclasses import asdict
from typing import Any

from pocket_resnet.model.design import POOLED, Budget, fill_budget
from pocket_resnet.recipe.dial import POOLED_SCALE, growing_image_sizes
from pocket_resnet.recipe.schema import Recipe, parse_count
from pocket_resnet.recipe.toml import load_recipe, override
from tools import study

ADDED: dict[str, dict[str, Any]] = {  # to crops of 2 pixels and alternating flips
    "nothing": {},
    "crop 4": {"augment.crop_px": 4},
    "cutout 8": {"augment.cutout_px": 8},
    "TrivialAugment, erasing": {"augment.trivial_augment": True, "augment.random_erasing": 0.1},
    "mixup or CutMix": {"augment.mixup": 0.2, "augment.cutmix": 1.0},
    "averaged weights": {"ema.decay": 0.999},
    "hard examples 70%": {"hard_fraction": 0.7},
}


def recipe_with(added: str, budget: str, epochs: int) -> Recipe:
    """A run of the dial's cheap shape with small shifts and flips, and the one addition."""
    spec = fill_budget(POOLED, Budget(num_params=parse_count(budget)))
    rates = {"optim.norm_bias_lr_scale": POOLED_SCALE, "optim.head_lr_scale": POOLED_SCALE}
    run = {"dial": (), "budget": None, "epochs": epochs, "train_image_sizes": growing_image_sizes(32, epochs)}
    return override(load_recipe("best"), rates | run | {"model": asdict(spec)} | ADDED[added])


if __name__ == "__main__":
    options = study.parser(__doc__, "regularisation.csv", budget="300k", epochs=10).parse_args()
    study.run(options, "added", ADDED, recipe_with)
