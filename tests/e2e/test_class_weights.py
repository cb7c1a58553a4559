"""What `--class-weights balanced` does on a folder in which one class has few images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from pocket_resnet.data.datasets import open_source

NUM_TRAIN = {"3": 90, "5": 90, "8": 4}


def imbalanced(folder: Path) -> Path:
    """Digits that look alike: few eights to train on, all of the validation images to measure on."""
    source = open_source("digits")
    for which in ("train", "val"):
        split = source.split("train" if which == "train" else "val")
        for name, count in NUM_TRAIN.items():
            (folder / which / name).mkdir(parents=True)
            indices = (split.labels_N == source.class_names.index(name)).nonzero().flatten().tolist()
            for index in indices[: count if which == "train" else None]:
                image_HWC = split.images_NCHW[index].permute(1, 2, 0).numpy()
                Image.fromarray(image_HWC).save(folder / which / name / f"{index}.png")
    return folder


def test_balanced_weights_find_more_of_a_rare_class(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """Measured with seeds 0, 1 and 2: 0% of the eights without weights, 45%, 59% and 66% with balanced ones."""
    pictures = imbalanced(tmp_path / "pictures")

    def per_class(weights: str) -> dict[str, Any]:
        recipe = ("--budget", "20k", "--batch-size", 32, "--epochs", 8, "--validate-every", 8)
        words = ("train", "fast", "--data", pictures, *recipe, "--class-weights", weights)
        code, _, error = run(*words, "--run", weights, "--runs-dir", tmp_path, "--no-report")
        assert code == 0, error
        results: dict[str, Any] = json.loads(run("evaluate", tmp_path / weights, "--json")[1])["per_class"]
        return results

    plain, balanced = per_class("none"), per_class("balanced")
    assert plain["8"]["num_images"] == balanced["8"]["num_images"] > 20
    assert balanced["8"]["accuracy"] >= plain["8"]["accuracy"] + 0.2
