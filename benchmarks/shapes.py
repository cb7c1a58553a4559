"""Which shape of network makes most of a parameter budget: short trainings of many shapes, one row each.

    python benchmarks/shapes.py --budget 100k --epochs 6 --seeds 1
    python benchmarks/shapes.py --budget 1M --epochs 3 --only 3-3-3 "pooled 1:2:4"

Every shape is filled to the budget and trained with the recipe of `fast`, the image side growing from 16 to 32. Rows
are added to results/shapes.csv; what stands there already is not trained again, so an interrupted study goes on.
The shapes are judged by validation accuracy; likelihood is beside it because it is less noisy.
"""

import argparse
import csv
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from pocket_resnet.device import choose, machine
from pocket_resnet.evaluate import evaluate_model
from pocket_resnet.model.catalog import named
from pocket_resnet.model.design import Budget, fill_budget
from pocket_resnet.model.spec import NetworkSpec, num_macs, num_params
from pocket_resnet.recipe import parse_count
from pocket_resnet.recipe_toml import load_recipe, override
from pocket_resnet.training.run import train

TARGET = Path(__file__).parents[1] / "results" / "shapes.csv"
COLUMNS = (
    "budget",
    "shape",
    "epochs",
    "seed",
    "num_params",
    "num_macs",
    "accuracy",
    "nll",
    "pflop",
    "seconds",
    "machine",
)
PLAIN = NetworkSpec(num_blocks=(3, 3, 3), stem_width=16, widths=(16, 32, 64))
POOLED = named("fast")


def staged(num_blocks: tuple[int, ...], ratio: tuple[int, ...], **changes: Any) -> NetworkSpec:
    """Stages of basic blocks with widths in that ratio; the stem is as wide as the first."""
    ones, threes = (1,) * len(ratio), (3,) * len(ratio)
    widths = tuple(16 * part for part in ratio)
    shape = {"num_blocks": num_blocks, "widths": widths, "kernel_sizes": threes, "shortcut_kernel_sizes": ones}
    return replace(PLAIN, **shape, **changes)


SHAPES: dict[str, NetworkSpec] = {
    "3-3-3": PLAIN,
    # depth against width
    "1-1-1": staged((1, 1, 1), (1, 2, 4)),
    "2-2-2": staged((2, 2, 2), (1, 2, 4)),
    "5-5-5": staged((5, 5, 5), (1, 2, 4)),
    # where the blocks stand
    "4-3-2": staged((4, 3, 2), (1, 2, 4)),
    "2-3-4": staged((2, 3, 4), (1, 2, 4)),
    "2-2-2-2": staged((2, 2, 2, 2), (1, 2, 4, 8)),
    # how fast they widen
    "3-3-3 1:1:1": staged((3, 3, 3), (1, 1, 1)),
    "3-3-3 1:2:2": staged((3, 3, 3), (1, 2, 2)),
    "3-3-3 1:3:6": staged((3, 3, 3), (1, 3, 6)),
    # what a block is
    "3-3-3 pre-activation": replace(PLAIN, preactivation=True),
    "3-3-3 squeeze-excite": replace(PLAIN, squeeze_excite="block"),
    "3-3-3 bottleneck": replace(PLAIN, block="bottleneck"),
    "3-3-3 single": replace(PLAIN, block="single"),
    "3-3-3 whitening": replace(PLAIN, stem="whitening", stem_kernel_size=2),
    # fast's: a whitening stem, and a convolution and max-pool before every stage
    "pooled 1:2:4": POOLED,
    "pooled 1:4:4": replace(POOLED, widths=(32, 128, 128)),
    "pooled 1:2:4 twice": replace(POOLED, num_blocks=(2, 2, 2)),
    "pooled 1:2:4 basic": replace(POOLED, block="basic"),
}


def measure(shape: str, budget: str, epochs: int, seed: int, data: str, data_dir: Path | None) -> dict[str, Any]:
    """One row: the shape, filled to the budget, after a short training."""
    spec = fill_budget(SHAPES[shape], Budget(num_params=parse_count(budget)))
    sides = [16 + round(16 * epoch / max(1, epochs - 1) / 4) * 4 for epoch in range(epochs)]
    changes = {"epochs": epochs, "min_steps": 0, "validate_every": epochs, "seed": seed, "data.name": data}
    recipe = override(load_recipe("fast"), {**changes, "resolutions": sides, "model": asdict(spec)})
    threads = torch.get_num_threads()
    recipe = override(recipe, {"hardware.num_threads": threads})
    with tempfile.TemporaryDirectory() as runs_dir:
        result = train(recipe, data_dir=data_dir, runs_dir=Path(runs_dir))
        nll = evaluate_model(Path(result.model), data=data, split="val", data_dir=data_dir).nll
    return {
        "budget": budget,
        "shape": shape,
        "epochs": epochs,
        "seed": seed,
        "num_params": num_params(spec),
        "num_macs": num_macs(spec),
        "accuracy": round(result.accuracy, 4),
        "nll": round(nll, 4),
        "pflop": round(result.train_flops / 1e15, 5),
        "seconds": round(result.seconds, 1),
        "machine": machine(choose(num_threads=threads)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="100k")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="SHAPE")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=TARGET)
    arguments = parser.parse_args()
    rows = list(csv.DictReader(arguments.out.open(encoding="utf-8"))) if arguments.out.exists() else []
    done = {(row["budget"], row["shape"], row["epochs"], row["seed"]) for row in rows}
    with arguments.out.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not rows:
            writer.writeheader()
        for seed in range(arguments.seeds):
            for shape in arguments.only:
                if (arguments.budget, shape, str(arguments.epochs), str(seed)) in done:
                    continue
                row = measure(shape, arguments.budget, arguments.epochs, seed, arguments.data, arguments.data_dir)
                writer.writerow(row)
                file.flush()
                print(row, file=sys.stderr)


if __name__ == "__main__":
    main()
