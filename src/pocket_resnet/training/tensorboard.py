"""Logs a run for TensorBoard if `--track` is set: scalars, confusion matrix, mistakes, an augmented batch.

All of it can be recomputed from metrics.jsonl and the model.
"""

from pathlib import Path
from typing import Any

from pocket_resnet.io.files import explain_os_errors
from pocket_resnet.plots import image_grids
from pocket_resnet.plots.figures import MAX_CLASSES_DRAWN, confusion_matrix
from pocket_resnet.plots.image_grids import contact_sheet
from pocket_resnet.plots.style import pixels
from pocket_resnet.training.callbacks import Callback, RunState
from pocket_resnet.training.metrics import Record

NUM_IMAGES = 16
NUM_PICTURES = 10  # per run: the number that TensorBoard shows of one name
SCALARS = {
    "train_loss": "loss/train",
    "val_nll": "loss/validation",
    "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/validation",
    "lr": "lr",
}


class TensorBoard(Callback):
    """Event files in a folder, one for each process of the run.

    TensorBoard drops records after the step from which a run resumes. Epochs that were trained without tracking
    between two tracked processes are missing here; metrics.jsonl has them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None
        self.pictured_step = 0
        self.last: Record = {}

    def on_start(self, run: RunState) -> None:
        """Add the records that earlier processes did not log: all, if the run was not tracked until now."""
        from torch.utils.tensorboard import SummaryWriter

        is_new = not any(self.folder.glob("events.*"))
        self.pictured_step = run.unchanged_step
        with explain_os_errors(self.folder):
            self.writer = SummaryWriter(str(self.folder), purge_step=run.unchanged_step + 1)
        for record in run.records:
            if is_new or record["step"] > run.unchanged_step:
                self._add(record)
            self.last = record

    def on_epoch(self, run: RunState, record: Record) -> None:
        known = self.last if self.last.get("step") == record["step"] else {}
        self._add({key: value for key, value in record.items() if key == "step" or key not in known})
        self.last = record
        if "val_nll" in record and self.is_due(run.step, run.plan.last_step):
            self._show(run, run.trainer.steps.per_epoch * (record["epoch"] - 1))

    def on_end(self, run: RunState) -> None:  # noqa: ARG002
        if self.writer is not None:
            with explain_os_errors(self.folder):
                self.writer.close()

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether to add pictures: about NUM_PICTURES times per run, including the last step."""
        return step >= min(last_step, self.pictured_step + last_step / NUM_PICTURES)

    def _add(self, record: Record) -> None:
        with explain_os_errors(self.folder):
            for key, name in SCALARS.items():
                if key in record:
                    self.writer.add_scalar(name, record[key], record["step"])
            self.writer.flush()

    def _show(self, run: RunState, batch_step: int) -> None:
        """Add pictures of the last validation, and of that step's batch with the current losses."""
        assert run.evaluation is not None
        names = run.evaluation.class_names
        batch = run.trainer.loader.batch(batch_step)
        pixels_BHWC, labels = image_grids.as_shown(batch.x_BCHW, batch.targets, names)
        sheets = {
            "validation/mistakes": image_grids.mistakes(run.evaluation, run.val.images_NCHW, NUM_IMAGES),
            "training/batch": image_grids.batch(pixels_BHWC[:NUM_IMAGES], labels[:NUM_IMAGES]),
        }
        figures = {name: contact_sheet(sheet) for name, sheet in sheets.items() if sheet}
        if len(names) <= MAX_CLASSES_DRAWN:
            figures["validation/confusion"] = confusion_matrix(run.evaluation)
        with explain_os_errors(self.folder):
            for name, figure in figures.items():
                self.writer.add_image(name, pixels(figure), run.step, dataformats="HWC")
            self.writer.flush()
        self.pictured_step = run.step
