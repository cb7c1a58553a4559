"""A folder of images, opened as a data set, and the same images with others held out for validation."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.source import Source

NUM_IMAGES = 10


def paint(root: Path, first: int = 0, *, swapped: bool = False) -> Path:
    """Two classes of images, all different; swapped, each has the other's."""
    for name, channel in {"red": 0, "blue": 2}.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(first, first + NUM_IMAGES):
            pixels_HWC = np.random.default_rng([number, channel]).integers(0, 100, (8, 8, 3), np.uint8)
            pixels_HWC[..., channel if not swapped else 2 - channel] += 150
            Image.fromarray(pixels_HWC).save(folder / f"{number}.png")
    return root


def opened(root: Path, **options: Any) -> Source:
    """The folder as a data set of 8 x 8 pixels, with its cache beside it."""
    return open_source(str(root), data_dir=root.parent / "data", **{"image_size": 8, "num_workers": 2, **options})


def other_validation(pictures: Path, target: Path) -> Path:
    """The same images, of which others are held out for validation: two of those that `pictures` trains on."""
    train = [path for path, is_val in held_out(pictures) if not is_val]
    for path in (path for path, _ in held_out(pictures)):
        part = "val" if path in (train[0], train[-1]) else "train"
        (target / part / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / part / path.parent.name / path.name)
    return target


def held_out(pictures: Path) -> list[tuple[Path, bool]]:
    """Each file, and whether it is one of the validation images."""
    validation = {image.tobytes() for image in open_source(pictures, image_size=8).split("val").images_NCHW.numpy()}
    files = sorted(pictures.glob("*/*.png"))
    pixels = [np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes() for file in files]
    return [(file, each in validation) for file, each in zip(files, pixels, strict=True)]
