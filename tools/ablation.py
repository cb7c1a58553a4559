"""Measures the effect of each part of the original recipe: short trainings, each with one part switched off.

    python -m tools.ablation
    python -m tools.ablation --budget 300k --epochs 2 --seeds 3 --only nothing crop flip

The recipe is `original`, with its network scaled down to the budget and its schedule to the epochs, so that a CPU is
enough. Rows are added to results/ablation.csv. A short training says little about a long one: regularisation, for
example, costs accuracy at first.
"""

from dataclasses import asdict
from typing import Any

from pocket_resnet.model.design import Budget, fill_budget
from pocket_resnet.recipe.schema import Recipe, parse_count
from pocket_resnet.recipe.toml import load_recipe, override
from tools import study

SWITCHES: dict[str, dict[str, Any]] = {  # part -> the keys that switch it off
    "nothing": {},
    "squeeze-and-excitation": {"model.squeeze_excite": "none"},
    "batch norm": {"model.batch_norm": False},
    "input normalisation": {"augment.normalize": False},
    "crop": {"augment.crop_px": 0},
    "flip": {"augment.flip": "none"},
    "Lookahead": {"optim.lookahead_steps": 0},
    "cosine schedule": {"schedule.shape": "constant"},
    "weight decay": {"optim.weight_decay": 0.0},
    "gradient clipping": {"optim.clip_value": 0.0},
}


def recipe_without(switch: str, budget: str, epochs: int) -> Recipe:
    """The shortened original recipe with one part off; the widths of its network are unchanged."""
    original = load_recipe("original")
    small = fill_budget(original.model, Budget(num_params=parse_count(budget)))
    recipe = override(original, {"model": asdict(small), "epochs": epochs})
    return override(recipe, SWITCHES[switch])


if __name__ == "__main__":
    options = study.parser(__doc__, "ablation.csv", budget="100k", epochs=1).parse_args()
    study.run(options, "switched_off", SWITCHES, recipe_without)
