"""A run in TensorBoard, where `--track` asks for it: scalars, confusion matrix, mistakes, a batch as training saw it.

All of it can be made again from metrics.jsonl and the model; this is for watching.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from pocket_resnet.data.loader import Batch
from pocket_resnet.data.source import Split
from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.inference.evaluate import Evaluation
from pocket_resnet.io.files import explain_os_errors
from pocket_resnet.plots import tiles
from pocket_resnet.plots.figures import MOST_CLASSES_DRAWN, confusion_matrix
from pocket_resnet.plots.image_grids import contact_sheet
from pocket_resnet.plots.style import pixels

NUM_TILES = 16
NUM_PICTURES = 10  # over a run: as many of one name as TensorBoard shows
SCALARS = {
    "train_loss": "loss/train",
    "val_nll": "loss/validation",
    "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/validation",
    "lr": "lr",
}


def require_tensorboard() -> None:
    """Raise EnvironmentFault where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise EnvironmentFault(
            "--track needs TensorBoard, which is not installed", mend="pip install tensorboard, or leave --track out"
        )


class Board:
    """Event files in a folder, one a sitting of the run."""

    def __init__(self, folder: Path, step: int, num_steps: int, records: Iterable[dict[str, Any]]) -> None:
        """Go on after optimizer step `step`: TensorBoard drops what earlier sittings recorded beyond it.

        Of `records`, those of metrics.jsonl so far, what lies beyond it is told again; all, where the run was not
        tracked until now. Epochs trained without tracking between two tracked sittings stay
        missing here; metrics.jsonl has them.
        """
        from torch.utils.tensorboard import SummaryWriter

        is_new = not any(folder.glob("events.*"))
        self.folder, self.num_steps, self.pictured_step = folder, num_steps, step
        with explain_os_errors(folder):
            self.writer: Any = SummaryWriter(str(folder), purge_step=step + 1)
        for record in records:
            if is_new or record["step"] > step:
                self.tell(record)

    def tell(self, record: dict[str, Any]) -> None:
        """Add a record of metrics.jsonl."""
        with explain_os_errors(self.folder):
            for key, name in SCALARS.items():
                if key in record:
                    self.writer.add_scalar(name, record[key], record["step"])
            self.writer.flush()

    def is_due(self, step: int) -> bool:
        """Whether it is time for pictures: about NUM_PICTURES times a run, the last step included."""
        return step >= min(self.num_steps, self.pictured_step + self.num_steps / NUM_PICTURES)

    def show(self, step: int, found: Evaluation, val: Split, probabilities_NK: Tensor, batch: Batch) -> None:
        """Add pictures of the last validation, and of a batch as it is trained, or would be if it came now."""
        names = [result.name for result in found.per_class]
        pixels_BHWC, labels = tiles.as_shown(batch.x_BCHW, batch.targets, names)
        sheets = {
            "validation/mistakes": tiles.mistakes(val, probabilities_NK, names, NUM_TILES),
            "training/batch": tiles.batch(pixels_BHWC[:NUM_TILES], labels[:NUM_TILES]),
        }
        figures = {name: contact_sheet(sheet) for name, sheet in sheets.items() if sheet}
        if len(names) <= MOST_CLASSES_DRAWN:
            figures["validation/confusion"] = confusion_matrix(found)
        with explain_os_errors(self.folder):
            for name, figure in figures.items():
                self.writer.add_image(name, pixels(figure), step, dataformats="HWC")
            self.writer.flush()
        self.pictured_step = step

    def close(self) -> None:
        """Write what is left."""
        with explain_os_errors(self.folder):
            self.writer.close()
