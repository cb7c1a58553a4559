"""Builds the files of one model and writes one of them, after comparing it with the model.

`export.py` (ONNX) and `pte/export.py` (ExecuTorch) build and run the files of their format.

Shapes: N images, C channels, S x S pixels.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocket_resnet.data.augment import resize, to_float
from pocket_resnet.data.datasets import data_name, open_source
from pocket_resnet.data.source import Source
from pocket_resnet.errors import UsageError
from pocket_resnet.exporting.parity import Comparison, Precision, Runnable, check, compare, model_logits
from pocket_resnet.inference.evaluate import renumber
from pocket_resnet.inference.training_data import caveat, reopen
from pocket_resnet.io.files import expanded, write_bytes
from pocket_resnet.model.artifact import find_model, load_model, model_name, released
from pocket_resnet.model.card import Card, facts
from pocket_resnet.recipe.schema import parse_count
from pocket_resnet.seeds import generator

Target = Literal["any", "vnni"]
Wrap = Callable[[bytes, Precision], bytes]

NUM_CALIBRATION_IMAGES = 500
NUM_CHOICE_IMAGES = 500
MAX_FP32_HEAD = 0.01  # a head with at most this share of all weights stays in fp32 in int8 files

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """The file that was written, and its comparison with the model on validation images."""

    file: str
    precision: Precision
    target: Target
    num_bytes: int
    num_params: int
    bytes_per_param: float
    comparison: Comparison
    caveat: str | None
    """Why the accuracies are not measured on unseen images; None if they are."""

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints: one flat level, with the comparison's figures."""
        values = vars(self) | asdict(self.comparison)
        return {key: value for key, value in values.items() if key != "comparison"}


class Exporter(ABC):
    """Builds the files of one model in one format in memory, and writes one of them.

    A format is a subclass that sets these attributes and implements the two abstract methods.
    """

    extension: ClassVar[str]
    precisions: ClassVar[tuple[Precision, ...]]
    """The format's precisions, most exact first."""
    batch_sizes: ClassVar[tuple[int, ...]]
    """Batch sizes of the comparison, largest last."""

    def __init__(
        self,
        path: str | Path,
        *,
        out: str | Path,
        max_bytes: str | None,
        target: Target,
        data: str | Path | None,
        data_dir: str | Path | None,
    ) -> None:
        """Load the model and open its data. Raises UsageError."""
        self.path, self.out, self.target = expanded(path), expanded(out), target
        self.limit = parse_count(max_bytes, "max_bytes") if max_bytes else None
        if self.out.exists() and not self.out.is_dir():
            raise UsageError("not a folder", where=self.out, hint="give a folder with --out")
        self.model, self.card = load_model(self.path)
        self.source = _open(self.path, self.card, data, data_dir)
        self.val = renumber(self.source.split("val"), self.source.class_names, self.card.class_names)

    @abstractmethod
    def build(self, precision: Precision) -> bytes:
        """The content of the file."""

    @abstractmethod
    def runnable(self, content: bytes) -> Runnable:
        """The file, ready to run."""

    @property
    def name(self) -> str:
        """The name of the run or of the released model."""
        return model_name(self.path)

    def write(
        self,
        precision: Precision | None,
        default: Precision,
        wrap: Wrap | None = None,
        extension: str | None = None,
    ) -> Exported:
        """Write NAME-PRECISION.EXTENSION in the given precision, the most exact one within the limit, or the default.

        `wrap` makes the file's content from the file that is compared with the model; its name ends in `extension`.
        """
        precisions = (precision,) if precision else self.precisions if self.limit else (default,)
        chosen, network, content = self._first_that_fits(precisions, wrap or (lambda network, _: network))
        comparison = self._compare(network, chosen)
        target = self._target_of(chosen)
        suffix = f"{'-vnni' if target == 'vnni' else ''}.{extension or self.extension}"
        file = self.out / f"{self.name}-{chosen}{suffix}"
        write_bytes(file, content)
        return Exported(
            file=str(file),
            precision=chosen,
            target=target,
            num_bytes=len(content),
            num_params=self.card.num_params,
            bytes_per_param=len(content) / self.card.num_params,
            comparison=comparison,
            caveat=caveat(self.path, self.card, self.source, "val", self.val.images_NCHW),
        )

    def _first_that_fits(self, precisions: tuple[Precision, ...], wrap: Wrap) -> tuple[Precision, bytes, bytes]:
        """The first precision whose file fits in the limit, the file, and the wrapped file. Raises UsageError."""
        sizes: dict[str, int] = {}
        for precision in precisions:
            network = self.build(precision)
            content = wrap(network, precision)
            if self.limit is None or len(content) <= self.limit:
                return precision, network, content
            sizes[precision] = len(content)
            left = self.limit - (len(content) - len(network))
        needed = ", ".join(f"{precision} takes {size:,}" for precision, size in sizes.items())
        hint = f"allow --max-bytes {min(sizes.values())}"
        if left > 0:
            hint += f", or train a network of about {int(self.card.num_params * left / len(network)):,} parameters"
        raise UsageError(f"no file fits in {self.limit:,} bytes: {needed}", where=self.path, hint=hint)

    def _compare(self, network: bytes, precision: Precision) -> Comparison:
        """The file and the model on all validation images. Raises ParityError if they differ too much."""
        _log.info("comparing the file with the model on %s validation images", f"{len(self.val):,}")
        logits_NK = model_logits(self.model, self.val.images_NCHW)
        comparison = compare(self.runnable(network), logits_NK, self.val, self.batch_sizes)
        check(comparison, precision)
        return comparison

    def _target_of(self, precision: Precision) -> Target:
        """The processors for a file of this precision; only int8 depends on them."""
        return self.target if precision == "int8" else "any"

    def calibration_images(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Two disjoint samples of training images, float [N, C, S, S] from 0 to 1: to calibrate, and to choose by."""
        _log.info("calibrating on training images")
        images_NCHW = self.source.split("train").images_NCHW
        order_N = torch.randperm(len(images_NCHW), generator=generator(0, "calibration"))
        order_N = order_N[: NUM_CALIBRATION_IMAGES + NUM_CHOICE_IMAGES]
        middle = min(NUM_CALIBRATION_IMAGES, (len(order_N) + 1) // 2)
        calibration_NCSS, choice_NCSS = (
            _network_input(images_NCHW[part_N], self.card.spec.image_size)
            for part_N in (order_N[:middle], order_N[middle:])
        )
        return calibration_NCSS, choice_NCSS

    def metadata(self, precision: Precision) -> dict[str, str]:
        """The description of the model in a file; each format adds class names, input and outputs."""
        return {"precision": precision, "license": licence(self.path), **facts(self.card)}


def licence(path: Path) -> str:
    """The licence of the model at the path: this package's for released models, unknown for all others."""
    is_released = find_model(path).resolve() in [folder.resolve() for folder in released().values()]
    return "MIT" if is_released else "not stated"


def _open(path: Path, card: Card, data: str | Path | None, data_dir: str | Path | None) -> Source:
    def open_data(name: str) -> Source:
        return open_source(name, data_dir=data_dir, image_size=card.spec.image_size)

    return reopen(path, card, open_data) if data is None else open_data(data_name(data))


def _network_input(images_NCHW: Tensor, size: int) -> NDArray[np.float32]:
    pixels_NCSS: NDArray[np.float32] = to_float(resize(images_NCHW, size)).numpy()
    return pixels_NCSS
