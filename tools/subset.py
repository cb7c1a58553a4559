"""Writes the first training images of each class to a folder of PNG files, for studies with few images.

    python -m tools.subset cifar10 5000 subset

The folder gets all validation images as val/, and no test images.
"""

import sys
from pathlib import Path

from PIL import Image

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.source import Source
from tools import parser


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


def main() -> None:
    options = parser(__doc__, "data_dir")
    options.add_argument("data", help="data set or folder of images")
    options.add_argument("num_images", type=int, help="number of training images, over all classes")
    options.add_argument("folder", type=Path, help="new or empty folder")
    arguments = options.parse_args()
    if arguments.folder.exists() and any(arguments.folder.iterdir()):
        sys.exit(f"{arguments.folder}: not empty, so its images would be mixed with the new ones")
    source = open_source(arguments.data, data_dir=arguments.data_dir)
    if arguments.num_images < len(source.class_names):
        sys.exit(f"{arguments.num_images} images are fewer than the {len(source.class_names)} classes")
    print(f"{arguments.folder}: {write_subset(source, arguments.num_images, arguments.folder):,} training images")


if __name__ == "__main__":
    main()
