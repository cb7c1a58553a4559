"""Compares networks fine-tuned from other classes with networks trained from scratch, one row per training.

    python -m tools.transfer --data-dir DIR --seeds 3
    python -m tools.transfer --data-dir DIR --only pictures pretrained       # only the data and the pretrained network
    python -m tools.transfer --data-dir DIR --seeds 1 --only "50 a class"

The classes of a data set are divided into two halves: a network of the budget learns the first half, and is fine-tuned
on few images per class of the second half, and on all 1,197 digits. Each seed draws different images; validation uses
all validation images of those classes. Rows are added to results/transfer.csv; existing rows are not measured again,
and an interrupted pretraining is resumed. Each training is also a plain command on the folders in `--work`:

    pocket-resnet train best --budget 1M --epochs 32 --data runs/transfer/pictures/first --run pretrained
    pocket-resnet train --from runs/pretrained --epochs 40 --data runs/transfer/pictures/50-seed0
"""

import argparse
import itertools
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.source import Source, Split
from pocket_resnet.errors import Stopped
from pocket_resnet.model.artifact import load_card
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import load_recipe, override
from pocket_resnet.seeds import generator
from pocket_resnet.training.run import train
from tools import study

STARTS: dict[str, dict[str, Any]] = {  # start of a training -> its length as a factor, and the share of frozen epochs
    "from scratch": {"length": 1},
    "from scratch, 4 times as long": {"length": 4},
    "fine-tuned": {"length": 1},
    "fine-tuned, head first": {"length": 1, "frozen": 0.2},
}
DIGITS = "digits"


def lengths(options: argparse.Namespace) -> dict[str, int]:
    """The number of fine-tuning epochs by name of the data: few images get more."""
    few, many = options.counts
    return {f"{few} a class": 4 * options.epochs, f"{many} a class": options.epochs, DIGITS: options.epochs}


def write_pictures(source: Source, folder: Path, counts: list[int], num_seeds: int) -> None:
    """Folders of PNG files with train/ and val/: `first`, and `COUNT-seedN` of the second half of the classes."""
    half = len(source.class_names) // 2
    _write(source, folder / "first", range(half), None, 0)
    for count, seed in itertools.product(counts, range(num_seeds)):
        _write(source, folder / f"{count}-seed{seed}", range(half, len(source.class_names)), count, seed)


def _write(source: Source, folder: Path, classes: range, count: int | None, seed: int) -> None:
    """Write up to `count` training images per class, drawn by the seed, and all validation images.

    An existing folder is kept. Exits if it has other classes.
    """
    names = {source.class_names[label] for label in classes}
    if folder.is_dir():
        if {path.name for path in (folder / "val").iterdir()} != names:
            sys.exit(f"{folder}: pictures of another data set: give another --work")
        return
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for which in ("train", "val"):
        split = source.split("train" if which == "train" else "val")
        for label in classes:
            indices_M = _drawn(split, label, count if which == "train" else None, seed)
            target = unfinished / which / source.class_names[label]
            target.mkdir(parents=True)
            for index in indices_M:
                image_HWC = split.images_NCHW[index].permute(1, 2, 0).numpy()
                Image.fromarray(image_HWC).save(target / f"{index:05d}.png")
    unfinished.rename(folder)


def _drawn(split: Split, label: int, count: int | None, seed: int) -> list[int]:
    of_class_M = (split.labels_N == label).nonzero().flatten()
    order_M = torch.randperm(len(of_class_M), generator=generator(seed, "transfer", label))
    return sorted(of_class_M[order_M[:count]].tolist())


def pretrained(options: argparse.Namespace, pictures: Path) -> Path:
    """The model that has learned the first half of the classes; trained or resumed if it is not finished."""
    changes = {"budget": options.budget, "epochs": options.pretrain_epochs, "min_steps": 0}
    changes |= {"validate_every": options.pretrain_epochs, "data.name": str(pictures / "first")}
    changes |= {"hardware.num_threads": torch.get_num_threads()}
    recipe = override(load_recipe("best"), changes)
    try:
        result = train(recipe, data_dir=options.data_dir, runs_dir=options.work, run="pretrained", resume=True)
    except Stopped:
        sys.exit("stopped; the same command continues")
    return Path(result.model)


def recipe_of(row: dict[str, Any], model: Path, pictures: Path) -> Recipe:
    """The recipe of that row: `finetune`, or `best` with the pretrained network's shape and batch size."""
    count, seed = str(row["data"]).partition(" ")[0], row["seed"]
    start, epochs = STARTS[row["start"]], row["epochs"]
    name = DIGITS if row["data"] == DIGITS else str(pictures / f"{count}-seed{seed}")
    changes: dict[str, Any] = {"data.name": name, "seed": seed, "epochs": epochs, "min_steps": 0}
    changes["validate_every"] = epochs
    finetune = load_recipe("finetune")
    if str(row["start"]).startswith("from scratch"):
        spec: NetworkSpec = load_card(model).spec
        shape = {"model": asdict(spec), "budget": None, "batch_size": finetune.batch_size}
        return override(load_recipe("best"), changes | shape)
    frozen = {"pretrained.freeze_epochs": round(start.get("frozen", 0) * epochs)}
    return override(finetune, changes | {"pretrained.model": str(model)} | frozen)


def parser() -> argparse.ArgumentParser:
    """The options of every study, and those of the pretraining and the images."""
    options = study.parser(__doc__, "transfer.csv", budget="1M", epochs=10)
    options.add_argument("--pretrain-epochs", type=int, default=32, help="epochs on the first half of the classes")
    options.add_argument("--counts", type=int, nargs=2, default=[50, 500], help="images per class: few, and many")
    options.add_argument("--work", type=Path, default=Path("runs/transfer"), help="folder for pictures and the run")
    return options


def main(options: argparse.Namespace) -> None:
    """Write the pictures, pretrain, and measure every training that has no row yet, seed by seed."""
    known = lengths(options)
    if unknown := set(options.only or ()) - {"pictures", "pretrained", *known}:
        sys.exit(f"no such case: {', '.join(sorted(unknown))}; known: {', '.join(known)}, pictures, pretrained")
    pictures = options.work / "pictures"
    write_pictures(open_source(options.data, data_dir=options.data_dir), pictures, options.counts, options.seeds)
    if options.only == ["pictures"]:
        return
    model = pretrained(options, pictures)
    names = [name for name in options.only or known if name in known]
    rows = [
        {"budget": options.budget, "pretrain_epochs": options.pretrain_epochs, "data": data, "start": start}
        | {"epochs": known[data] * STARTS[start]["length"], "seed": seed}
        for seed, data, start in itertools.product(range(options.seeds), names, STARTS)
    ]
    if rows:
        study.add_rows(options.out, rows, lambda row: recipe_of(row, model, pictures), options.data_dir)


if __name__ == "__main__":
    main(parser().parse_args())
