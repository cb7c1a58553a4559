"""The command `predict`: its flags, and its output as text, CSV or JSON."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from pocket_resnet.cli import console
from pocket_resnet.cli.command_output import CommandOutput
from pocket_resnet.cli.flags import Csv, CsvOutFile, Device, Json, Model, Views, one_or_more
from pocket_resnet.errors import DataError, UsageError, listed
from pocket_resnet.io.progress import Bar

if TYPE_CHECKING:
    from pocket_resnet.inference.predict import FilePrediction

_log = logging.getLogger(__name__)

DEFAULT_TOP = 3


@dataclass
class Predict:
    """Predict the classes of images: files, folders, patterns such as 'pictures/*.png', or - for standard input.

    pocket-resnet predict runs/fast-cifar10-seed0 cat.jpg holiday-pictures/ --csv
    """

    model: Model
    images: tyro.conf.Positional[
        Annotated[tuple[str, ...], one_or_more("Image files, folders, patterns, or - for one image's bytes.", "IMAGE")]
    ]
    top: int = DEFAULT_TOP
    """Number of classes to list for each image, at most all of the model's."""
    views: Views = 1
    device: Device = "auto"
    csv: Csv = False
    json: Json = False
    out: CsvOutFile = None

    def execute(self) -> None:
        from pocket_resnet.inference.predict import predict_files

        output = CommandOutput(self.json, self.out, csv=self.csv)
        with Bar("images") as bar:
            rows, bad = predict_files(self.model, self.images, self.top, self.views, self.device, bar.update)
        if rows and (num_classes := len(rows[0].prediction.top)) < self.top != DEFAULT_TOP:
            _log.info(f"--top {self.top}: the model has only {num_classes} classes, so all are listed")
        output.write(
            lambda: {"predictions": [row.to_json() for row in rows]},
            lambda: console.print_predictions(rows),
            lambda: _table(rows),
        )
        if bad:
            what = f"{len(bad)} of {len(rows) + len(bad)} files cannot be read:\n  " + listed(bad, "\n  ")
            raise DataError(what, hint="check the paths, save the files again as images, or omit them")
        if not rows:
            raise UsageError("no images", hint="give image files or folders")


def _table(rows: "Sequence[FilePrediction]") -> list[Sequence[object]]:
    """`image,label,probability,label_2,probability_2,...`, a row for each image."""
    more = range(2, 1 + max((len(row.prediction.top) for row in rows), default=1))
    names = ["image", "label", "probability", *(f"{name}_{n}" for n in more for name in ("label", "probability"))]
    return [names, *([image, *(cell for pair in prediction.top for cell in pair)] for image, prediction in rows)]
