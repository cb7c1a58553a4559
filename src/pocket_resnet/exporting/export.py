"""Writes a trained model as one file, after comparing it with the model.

Shapes: N images, C channels, S x S pixels.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocket_resnet.data.augment import resize, to_float
from pocket_resnet.data.datasets import data_name, open_source
from pocket_resnet.data.source import Source
from pocket_resnet.errors import UsageError
from pocket_resnet.exporting.graph import network_graph, with_half_weights, with_preprocessing
from pocket_resnet.exporting.parity import Comparison, Precision, check, check_preprocessing, compare, model_logits
from pocket_resnet.exporting.quantization import quantized
from pocket_resnet.exporting.session import Session
from pocket_resnet.inference.evaluate import renumber
from pocket_resnet.inference.training_data import caveat, reopen
from pocket_resnet.io.files import expanded, write_bytes
from pocket_resnet.model.artifact import find_model, load_model, model_name, released
from pocket_resnet.model.card import Card, facts
from pocket_resnet.recipe.schema import parse_count
from pocket_resnet.seeds import generator
from pocket_resnet.torch_settings import own_settings

Target = Literal["any", "vnni"]
Wrap = Callable[[bytes, Precision], bytes]

NUM_CALIBRATION_IMAGES = 500
NUM_CHOICE_IMAGES = 500

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


@own_settings()
def export_onnx(
    path: str | Path,
    *,
    precision: Precision | None = None,
    target: Target = "any",
    max_bytes: str | None = None,
    out: str | Path = "exports",
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> Exported:
    """Write `out`/NAME-PRECISION.onnx, compared with the model on validation images of its training data, or of `data`.

    The default precision is fp32, or with `max_bytes` the most exact one that fits. `target` is the processor for int8;
    sums in a `vnni` file may saturate on other processors. Raises ParityError if file and model differ too much, and
    UsageError if no precision fits. Nothing is written then.
    """
    if target == "vnni" and precision in ("fp32", "fp16"):
        raise UsageError(f"{precision} has no target", hint="omit --target, or export with --precision int8")
    exporter = Exporter(path, out=out, max_bytes=max_bytes, target=target, data=data, data_dir=data_dir)
    return exporter.write(precision, default="fp32")


class Exporter:
    """Builds the files of one model in memory, all from the same fp32 graph, and writes one of them."""

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
        """Load model and data, build the graph and check its preprocessing. Raises UsageError and ParityError."""
        self.path, self.out, self.target = expanded(path), expanded(out), target
        self.limit = parse_count(max_bytes, "max_bytes") if max_bytes else None
        if self.out.exists() and not self.out.is_dir():
            raise UsageError("not a folder", where=self.out, hint="give a folder with --out")
        self.num_threads = torch.get_num_threads()
        self.model, self.card = load_model(self.path)
        self.source = _open(self.path, self.card, data, data_dir)
        self.val = renumber(self.source.split("val"), self.source.class_names, self.card.class_names)
        _log.info("building the graph")
        self.network = network_graph(self.model)
        session = Session(self._complete(self.network, "fp32"), self.num_threads)
        check_preprocessing(session, self.model, self.val.images_NCHW)

    @property
    def name(self) -> str:
        """The name of the run or of the released model."""
        return model_name(self.path)

    def write(
        self, precision: Precision | None, default: Precision, wrap: Wrap | None = None, extension: str = "onnx"
    ) -> Exported:
        """Write NAME-PRECISION.EXTENSION in the given precision, the most exact one within the limit, or the default.

        `wrap` makes the file's content from the ONNX file that is compared with the model.
        """
        wanted = (precision,) if precision else get_args(Precision) if self.limit else (default,)
        chosen, network, content = self._first_that_fits(wanted, wrap or (lambda network, _: network))
        comparison = self._compare(network, chosen)
        target = self._target_of(chosen)
        file = self.out / f"{self.name}-{chosen}{'-vnni' if target == 'vnni' else ''}.{extension}"
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

    def _first_that_fits(self, wanted: tuple[Precision, ...], wrap: Wrap) -> tuple[Precision, bytes, bytes]:
        """The first precision whose file fits in the limit, its ONNX file and the file. Raises UsageError."""
        sizes: dict[str, int] = {}
        for precision in wanted:
            network = self._build(precision)
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
        """The ONNX file and the model on all validation images. Raises ParityError if they differ too much."""
        _log.info("comparing the file with the model on %s validation images", f"{len(self.val):,}")
        session = Session(network, self.num_threads, exact_int8=self._target_of(precision) == "vnni")
        comparison = compare(session, model_logits(self.model, self.val.images_NCHW), self.val)
        check(comparison, precision)
        return comparison

    def _target_of(self, precision: Precision) -> Target:
        """The processors for a file of this precision; only int8 depends on them."""
        return self.target if precision == "int8" else "any"

    def _build(self, precision: Precision) -> bytes:
        """The content of the file."""
        network = self.network
        if precision == "fp16":
            network = with_half_weights(network)
        elif precision == "int8":
            _log.info("calibrating on training images")
            calibration_NCSS, choice_NCSS = self._training_images()
            network = quantized(
                network,
                calibration_NCSS,
                choice_NCSS,
                reduce_range=self.target == "any",
                num_threads=self.num_threads,
            )
        content: bytes = self._complete(network, precision).SerializeToString(deterministic=True)
        return content

    def _complete(self, network: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
        return with_preprocessing(network, self.card.spec.image_size, self._metadata(precision))

    def _training_images(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Two disjoint samples, float [N, C, S, S] from 0 to 1: one to calibrate on, one to choose the percentile."""
        images_NCHW = self.source.split("train").images_NCHW
        order_N = torch.randperm(len(images_NCHW), generator=generator(0, "calibration"))
        order_N = order_N[: NUM_CALIBRATION_IMAGES + NUM_CHOICE_IMAGES]
        middle = min(NUM_CALIBRATION_IMAGES, (len(order_N) + 1) // 2)
        calibration_NCSS, choice_NCSS = (
            _network_input(images_NCHW[part_N], self.card.spec.image_size)
            for part_N in (order_N[:middle], order_N[middle:])
        )
        return calibration_NCSS, choice_NCSS

    def _metadata(self, precision: Precision) -> dict[str, str]:
        card = self.card
        return {
            "class_names": json.dumps(card.class_names, ensure_ascii=False),
            "input": "images: uint8 [batch, height, width, 3], RGB, upright, any size; the centre square is resized",
            "outputs": "logits and probabilities: float [batch, class]",
            "precision": precision + (f", target {self.target}" if precision == "int8" else ""),
            "license": licence(self.path),
            **facts(card),
        }


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
