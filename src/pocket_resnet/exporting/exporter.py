"""Builds the files of one model and writes one of them, after comparing it with the model.

The subclasses in `onnx_exporter.py`, `pte/exporter.py` and `web/exporter.py` build the files of their format.

Shapes: N images, C channels, S x S pixels.
"""

import logging
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocket_resnet.data.augment import resize, to_float
from pocket_resnet.data.datasets import open_source
from pocket_resnet.errors import UsageError
from pocket_resnet.exporting.parity import Comparison, ExportPrecision, Runnable, check, compare, model_logits
from pocket_resnet.inference.evaluate import renumber
from pocket_resnet.inference.training_data import caveat, open_data_of
from pocket_resnet.io.files import expanded, write_bytes
from pocket_resnet.model.artifact import find_model, load_model, model_name, released
from pocket_resnet.model.card import UNKNOWN_LICENCE, facts
from pocket_resnet.recipe.schema import parse_count
from pocket_resnet.seeds import generator

Target = Literal["any", "vnni"]

NUM_CALIBRATION_IMAGES = 500
NUM_CHOICE_IMAGES = 500
MAX_FP32_HEAD = 0.01  # a head with at most this share of all weights stays in fp32 in int8 files

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export; not every format has all of them."""

    precision: ExportPrecision | None = None
    target: Target = "any"
    max_bytes: str | int | None = None
    samples: int = 0
    out: str | Path = "exports"
    data: str | Path | None = None
    data_dir: str | Path | None = None


@dataclass(frozen=True)
class Exported:
    """The file that was written, and its comparison with the model on validation images."""

    file: Path
    precision: ExportPrecision
    target: Target
    num_bytes: int
    num_params: int
    bytes_per_param: float
    comparison: Comparison
    caveat: str | None
    """Why the accuracies are not measured on unseen images; None if they are."""

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints: one flat level, with the comparison's figures."""
        values = vars(self) | {"file": str(self.file)} | asdict(self.comparison)
        return {key: value for key, value in values.items() if key != "comparison"}


class _Built(NamedTuple):
    """The file in one precision, in memory."""

    precision: ExportPrecision
    network: bytes
    """The content that is compared with the model."""
    content: bytes
    """The content that is written."""


class Exporter(ABC):
    """Builds the files of one model in one format in memory, and writes one of them.

    A format is a subclass that sets these attributes and implements the two abstract methods.
    """

    file_kind: ClassVar[str]
    """The kind of file, for error messages."""
    extension: ClassVar[str]
    precisions: ClassVar[tuple[ExportPrecision, ...]]
    """The format's precisions, most exact first."""
    default_precision: ClassVar[ExportPrecision] = "fp32"
    targets: ClassVar[tuple[Target, ...]] = ("any",)
    has_samples: ClassVar[bool] = False
    batch_sizes: ClassVar[tuple[int, ...]]
    """Batch sizes of the comparison, largest last."""

    def __init__(self, path: str | Path, options: ExportOptions) -> None:
        """Load the model and open its data. Raises UsageError for options that the format lacks."""
        self._refuse(options)
        self.options, self.out = options, expanded(options.out)
        self.limit = None if options.max_bytes is None else parse_count(str(options.max_bytes), "max_bytes")
        if self.out.exists() and not self.out.is_dir():
            raise UsageError("not a folder", where=self.out, hint="give a folder with --out")
        self.path = find_model(expanded(path))
        self.model, self.card = load_model(self.path)
        open_at_size = partial(open_source, data_dir=options.data_dir, image_size=self.card.spec.image_size)
        self.source = open_data_of(self.path, self.card, options.data, open_at_size)
        self.val = renumber(self.source.split("val"), self.source.class_names, self.card.class_names)

    def _refuse(self, options: ExportOptions) -> None:
        """Raise UsageError for options that the format does not have."""
        if options.precision not in (None, *self.precisions):
            what = f"{self.file_kind} has no {options.precision}"
            raise UsageError(what, hint=f"export with --precision {' or '.join(self.precisions)}")
        if options.target not in self.targets:
            raise UsageError(f"{self.file_kind} has no target {options.target}", hint="omit --target")
        if options.target != "any" and options.precision not in (None, "int8"):
            what = f"{options.precision} has no target"
            raise UsageError(what, hint="omit --target, or export with --precision int8")
        if options.samples and not self.has_samples:
            raise UsageError("only a page has samples", hint="omit --samples, or add --format web")
        if options.samples < 0:
            raise UsageError(f"{options.samples} samples are not possible", hint="give 0 or more")

    @abstractmethod
    def build(self, precision: ExportPrecision) -> bytes:
        """The content of the file."""

    @abstractmethod
    def runnable(self, content: bytes) -> Runnable:
        """The file, ready to run."""

    def wrap(self, network: bytes, precision: ExportPrecision) -> bytes:  # noqa: ARG002
        """The content to write, made from the file that is compared with the model: the same unless overridden."""
        return network

    @property
    def name(self) -> str:
        """The name of the run or of the released model."""
        return model_name(self.path)

    def write(self) -> Exported:
        """Write the file in the precision of the options, the most exact one within the limit, or the default."""
        if self.options.precision:
            return self._write_first_that_fits(self.options.precision)
        return self._write_first_that_fits(*(self.precisions if self.limit else (self.default_precision,)))

    def _write_first_that_fits(self, *precisions: ExportPrecision) -> Exported:
        """Write NAME-PRECISION.EXTENSION in the first precision whose file fits in the limit. Raises UsageError."""
        too_large: list[_Built] = []
        for precision in precisions:
            network = self.build(precision)
            built = _Built(precision, network, self.wrap(network, precision))
            if self.limit is None or len(built.content) <= self.limit:
                return self._write(built)
            too_large.append(built)
        raise self._no_fit(too_large)

    def _write(self, built: _Built) -> Exported:
        comparison = self._compare(built.network, built.precision)
        target = self._target_of(built.precision)
        suffix = "-vnni" if target == "vnni" else ""
        file = self.out / f"{self.name}-{built.precision}{suffix}.{self.extension}"
        write_bytes(file, built.content)
        return Exported(
            file=file,
            precision=built.precision,
            target=target,
            num_bytes=len(built.content),
            num_params=self.card.num_params,
            bytes_per_param=len(built.content) / self.card.num_params,
            comparison=comparison,
            caveat=caveat(self.path, self.card, self.source, "val", self.val.images_NCHW),
        )

    def _no_fit(self, too_large: list[_Built]) -> UsageError:
        """The error for a limit that all files exceed; its hint scales the smallest network to the limit."""
        assert self.limit is not None
        sizes = ", ".join(f"{built.precision} takes {len(built.content):,}" for built in too_large)
        smallest = min(too_large, key=lambda built: len(built.content))
        hint = f"allow --max-bytes {len(smallest.content)}"
        left = self.limit - (len(smallest.content) - len(smallest.network))
        if left > 0:
            num_params = int(self.card.num_params * left / len(smallest.network))
            hint += f", or train a network of about {num_params:,} parameters"
        return UsageError(f"no file fits in {self.limit:,} bytes: {sizes}", where=self.path, hint=hint)

    def _compare(self, network: bytes, precision: ExportPrecision) -> Comparison:
        """The file and the model on all validation images. Raises ParityError if they differ too much."""
        _log.info("comparing the file with the model on %s validation images", f"{len(self.val):,}")
        logits_NK = model_logits(self.model, self.val.images_NCHW)
        comparison = compare(self.runnable(network), logits_NK, self.val, self.batch_sizes)
        check(comparison, precision)
        return comparison

    def _target_of(self, precision: ExportPrecision) -> Target:
        """The processors for a file of this precision; only int8 depends on them."""
        return self.options.target if precision == "int8" else "any"

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

    def metadata(self, precision: ExportPrecision) -> dict[str, str]:
        """The description of the model in a file; each format adds class names, input and outputs."""
        return {"precision": precision, "license": licence(self.path), **facts(self.card)}


def licence(path: Path) -> str:
    """The licence of the model at the path: this package's for released models, unknown for all others."""
    is_released = find_model(path).resolve() in [folder.resolve() for folder in released().values()]
    return "MIT" if is_released else UNKNOWN_LICENCE


def _network_input(images_NCHW: Tensor, size: int) -> NDArray[np.float32]:
    pixels_NCSS: NDArray[np.float32] = to_float(resize(images_NCHW, size)).numpy()
    return pixels_NCSS
