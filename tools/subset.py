"""Writes the first training images of each class to a folder of PNG files, for studies with few images.

    python -m tools.subset cifar10 5000 subset

The folder gets all validation images as val/, and no test images.
"""

import sys
from pathlib import Path

from PIL import Image

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.source import Source


def write_subset(source: Source, num_images: int, folder: Path) -> int:
    """Write train/ with `num_images` images, equally many per class, and val/; returns the number in train/."""
    num_per_class = num_images // len(source.class_names)
    train, val = source.split("train"), source.split("val")
    chosen = [(train.labels_N == label).nonzero().flatten()[:num_per_class] for label in range(len(source.class_names))]
    for label, name in enumerate(source.class_names):
        of_class = (val.labels_N == label).nonzero().flatten()
        for split, indices_M, which in ((train, chosen[label], "train"), (val, of_class, "val")):
            target = folder / which / name
            target.mkdir(parents=True, exist_ok=True)
            for index in indices_M.tolist():
                pixels_HWC = split.images_NCHW[index].permute(1, 2, 0).numpy()
                Image.fromarray(pixels_HWC).save(target / f"{index:05d}.png")
    return sum(map(len, chosen))


def main(name: str, num_images: str, folder: str, data_dir: str | None = None) -> None:
    """Write the folder."""
    source = open_source(name, data_dir=None if data_dir is None else Path(data_dir))
    print(f"{folder}: {write_subset(source, int(num_images), Path(folder)):,} training images")


if __name__ == "__main__":
    main(*sys.argv[1:])
