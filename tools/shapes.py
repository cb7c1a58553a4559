"""Compares network shapes with the same number of parameters in short trainings, one row per training.

    python -m tools.shapes --budget 100k --epochs 6 --seeds 1
    python -m tools.shapes --budget 1M --epochs 3 --only 3-3-3 "pooled 1:2:4"

Every shape is filled to the budget and trained with the rates of `best`, with image sizes from 16 to 32. Pooled shapes
use the scales of `fast`, which are too high for staged ones (docs/log.md). Rows are added to results/shapes.csv;
existing rows are not measured again, so an interrupted study can be resumed.
Shapes are compared by validation accuracy; the likelihood is recorded too because it is less noisy.
"""

from dataclasses import asdict, replace
from typing import Any

from pocket_resnet.model.catalog import named
from pocket_resnet.model.design import POOLED, Budget, fill_budget
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.dial import POOLED_SCALE
from pocket_resnet.recipe.schema import Recipe, parse_count
from pocket_resnet.recipe.toml import load_recipe, override
from tools import study

PLAIN = NetworkSpec(num_blocks=(3, 3, 3), stem_width=16, widths=(16, 32, 64))


def staged(num_blocks: tuple[int, ...], ratio: tuple[int, ...], **changes: Any) -> NetworkSpec:
    """Stages of basic blocks with widths in that ratio; the stem has the width of the first stage."""
    ones, threes = (1,) * len(ratio), (3,) * len(ratio)
    widths = tuple(16 * part for part in ratio)
    shape: dict[str, Any] = {
        "num_blocks": num_blocks,
        "widths": widths,
        "kernel_sizes": threes,
        "shortcut_kernel_sizes": ones,
    }
    return replace(PLAIN, **shape, **changes)


SHAPES: dict[str, NetworkSpec] = {
    "3-3-3": PLAIN,
    # depth against width
    "1-1-1": staged((1, 1, 1), (1, 2, 4)),
    "2-2-2": staged((2, 2, 2), (1, 2, 4)),
    "5-5-5": staged((5, 5, 5), (1, 2, 4)),
    # distribution of the blocks
    "4-3-2": staged((4, 3, 2), (1, 2, 4)),
    "2-3-4": staged((2, 3, 4), (1, 2, 4)),
    "1-2-3": staged((1, 2, 3), (4, 9, 18)),
    "2-2-2-2": staged((2, 2, 2, 2), (1, 2, 4, 8)),
    # growth of the widths
    "3-3-3 1:1:1": staged((3, 3, 3), (1, 1, 1)),
    "3-3-3 1:2:2": staged((3, 3, 3), (1, 2, 2)),
    "3-3-3 1:3:6": staged((3, 3, 3), (1, 3, 6)),
    # type of block
    "3-3-3 pre-activation": replace(PLAIN, preactivation=True),
    "3-3-3 squeeze-excite": replace(PLAIN, squeeze_excite="block"),
    "3-3-3 bottleneck": replace(PLAIN, block="bottleneck"),
    "3-3-3 single": replace(PLAIN, block="single"),
    "3-3-3 whitening": replace(PLAIN, stem="whitening", stem_kernel_size=2),
    # a whitening stem, and a convolution and max-pool before every stage
    "pooled 1:2:4": POOLED,
    "pooled 1:4:4": replace(POOLED, widths=(32, 128, 128)),
    "pooled 1:2:4 twice": replace(POOLED, num_blocks=(2, 2, 2)),
    "pooled 1:2:4 basic": replace(POOLED, block="basic"),
    "pooled late, 3:4:8": named("fast"),
}


def recipe_of(shape: str, budget: str, epochs: int) -> Recipe:
    """The shape, filled to the budget, with the rates of `best` and the scales for its kind (docs/log.md)."""
    spec = fill_budget(SHAPES[shape], Budget(num_params=parse_count(budget)))
    image_sizes = [16 + round(16 * epoch / max(1, epochs - 1) / 4) * 4 for epoch in range(epochs)]
    scale = 1.0 if spec.downsample == "stride" else POOLED_SCALE
    rates = {"optim.norm_bias_lr_scale": scale, "optim.head_lr_scale": scale}
    changes = {"dial": (), "budget": None, "epochs": epochs, "train_image_sizes": image_sizes, "model": asdict(spec)}
    return override(load_recipe("best"), rates | changes)


if __name__ == "__main__":
    options = study.parser(__doc__, "shapes.csv", budget="100k", epochs=6).parse_args()
    study.run(options, "shape", SHAPES, recipe_of)
