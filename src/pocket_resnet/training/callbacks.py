"""Callbacks of a training run: metrics.jsonl, the progress bar, and your own (docs/callbacks.md).

With several processes, only rank 0 runs callbacks.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pocket_resnet.data.source import Split
from pocket_resnet.device import machine
from pocket_resnet.errors import UsageError, counted
from pocket_resnet.inference.evaluation import Evaluation
from pocket_resnet.io.files import append_line, write_text
from pocket_resnet.io.progress import Bar, print_line
from pocket_resnet.model.counts import num_macs, num_params
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training.metrics import Plan, Record, duration
from pocket_resnet.training.result import Result
from pocket_resnet.training.trainer import Trainer

BAR_EVERY_S = 0.2
PLAIN_LINE_EVERY_S = 30.0
MIN_VAL_IMAGES = 30  # with fewer, the 95% interval of an accuracy of 90% spans more than 20 points


@dataclass
class RunState:
    """The run as callbacks see it. Callbacks only read it; `stop` is the only way to change the run."""

    path: Path
    """The run's folder."""
    recipe: Recipe
    """The resolved recipe, including what flags, data and dial filled in."""
    trainer: Trainer
    """The network, its optimizer and its batches."""
    val: Split
    """The validation images."""
    plan: Plan
    """The steps that end an epoch, run a validation, or end the run."""
    records: list[Record] = field(default_factory=list)
    """The lines of metrics.jsonl so far, including those of earlier processes."""
    unchanged_step: int = 0
    """The last step whose records earlier processes wrote."""
    evaluation: Evaluation | None = None
    """This process's latest validation."""
    result: Result | None = None
    """The result, once the run is finished."""
    stops: bool = False
    """Whether a callback has requested the end of the run."""

    @property
    def step(self) -> int:
        """Number of optimizer steps done."""
        return self.trainer.step

    def stop(self) -> None:
        """End the run normally after the current epoch: it writes checkpoint, model and result."""
        self.stops = True

    def recorded(self) -> Record | None:
        """The record of the current step, if there is one."""
        return self.records[-1] if self.records and self.records[-1]["step"] == self.step else None

    def keep(self, record: Record) -> None:
        """Add a record, replacing one of the same step."""
        if self.recorded() is not None:
            del self.records[-1]
        self.records.append(record)


class Callback:
    """Base class of callbacks. Override what you need. An exception ends the run like any other failure."""

    def on_start(self, run: RunState) -> None:
        """Runs before the first step. A resumed run already has its records."""

    def on_step(self, run: RunState, num_images: int) -> None:
        """Runs after each optimizer step; `num_images` is the size of its batch."""

    def on_teacher(self, run: RunState, progress: str) -> None:
        """Runs periodically while a teacher predicts; `progress` is a line of text for the user."""

    def on_epoch(self, run: RunState, record: Record) -> None:
        """Runs after `record` is added to `run.records`. `run.stop()` ends the run here.

        Runs twice for one step if the run ends at an epoch that had no validation.
        """

    def on_checkpoint(self, run: RunState, path: Path) -> None:
        """Runs after a checkpoint is written to the folder `path`."""

    def on_end(self, run: RunState) -> None:
        """Runs last, however the run ends. `run.result` is None if a signal or an error ended it."""


def as_list(callbacks: Iterable[Callback]) -> list[Callback]:
    """The callbacks as a list, also from a generator. Raises UsageError unless all are instances of Callback."""
    if isinstance(callbacks, Callback):
        name = type(callbacks).__name__
        raise UsageError(f"{name} is one callback instead of a list", where="callbacks", hint=f"write [{name}()]")
    callbacks = list(callbacks)
    for each in callbacks:
        if not isinstance(each, Callback):
            name = getattr(each, "__name__", type(each).__name__)
            hint = f"write {name}()" if isinstance(each, type) else "derive its class from pocket_resnet.Callback"
            raise UsageError(f"{name} is not an instance of pocket_resnet.Callback", where="callbacks", hint=hint)
    return callbacks


class LastEvaluation(Callback):
    """Keeps the run's last evaluation: of a finished run, that of the saved model in fp32."""

    def __init__(self) -> None:
        self.evaluation: Evaluation | None = None

    def on_end(self, run: RunState) -> None:
        self.evaluation = run.evaluation


class MetricsFile(Callback):
    """metrics.jsonl: one JSON object per line, appended and synced, so that no checkpoint outlives its records.

    A resumed run first drops the records after its checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.last_step = path, -1

    def on_start(self, run: RunState) -> None:
        self._write(run.records)

    def on_epoch(self, run: RunState, record: Record) -> None:
        if record["step"] == self.last_step:
            self._write(run.records)
        else:
            append_line(self.path, _line(record))
            self.last_step = record["step"]

    def _write(self, records: list[Record]) -> None:
        write_text(self.path, "".join(f"{_line(record)}\n" for record in records))
        self.last_step = records[-1]["step"] if records else -1


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False)


class ProgressBar(Callback):
    """Epoch, images per second, loss, accuracy and time left: a bar in a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self.bar = Bar("starting")
        self.started_s = self.shown_s = time.monotonic()
        self.first_step = self.num_images = 0

    def on_start(self, run: RunState) -> None:
        self.started_s = self.shown_s = time.monotonic()
        self.first_step, num_steps = run.step, run.plan.last_step
        self.bar.update(self.first_step, num_steps)
        self.bar.start()
        recipe, trainer = run.recipe, run.trainer
        print_line(
            f"{recipe.name} on {recipe.data.name}: {num_params(recipe.model):,} parameters, "
            f"{num_macs(recipe.model):,} multiply-adds per image, {trainer.steps.num_samples:,} training images, "
            f"{counted(num_steps, 'step')} on {machine(trainer.hardware)}"
        )
        if sizes := [size for size in dict.fromkeys(recipe.train_image_sizes) if size < recipe.model.image_size]:
            small = " and ".join(filter(None, (", ".join(map(str, sizes[:-1])), str(sizes[-1]))))
            print_line(
                f"images grow from {small} to {recipe.model.image_size} px: validation at full size is low until then"
            )
        if 0 < len(run.val) < MIN_VAL_IMAGES:
            print_line(f"{counted(len(run.val), 'validation image')} can only give a rough estimate of the accuracy")

    def on_step(self, run: RunState, num_images: int) -> None:
        """Count a step's images and periodically show the current epoch's progress."""
        self.num_images += num_images
        if self._is_due():
            self._show(run, self.shown_s - self.started_s)

    def on_teacher(self, run: RunState, progress: str) -> None:  # noqa: ARG002
        """Periodically show how far the teacher's predictions for an epoch are."""
        if not self._is_due():
            return
        if self.bar.is_drawn:
            self.bar.update(text=progress)
        else:
            print_line(progress)

    def _is_due(self) -> bool:
        """Whether it is time to show progress again; if so, the next interval begins now."""
        if time.monotonic() - self.shown_s <= (BAR_EVERY_S if self.bar.is_drawn else PLAIN_LINE_EVERY_S):
            return False
        self.shown_s = time.monotonic()
        return True

    def _show(self, run: RunState, elapsed_s: float) -> None:
        step, num_steps, totals = run.step, run.plan.last_step, run.trainer.epoch_totals()
        rate = self.num_images / max(elapsed_s, 1e-9)
        text = (
            f"epoch {run.plan.epoch(step)}/{run.recipe.epochs}  {rate:,.0f} images/s  "
            f"loss {totals.loss:.3f}  training accuracy {totals.accuracy:.1%}"
        )
        if self.bar.is_drawn:
            self.bar.update(step, text=text)
        else:
            left_s = elapsed_s / max(1, step - self.first_step) * (num_steps - step)
            print_line(f"step {step}/{num_steps}  {text}  {duration(left_s)} left")

    def on_epoch(self, run: RunState, record: Record) -> None:
        if "val_accuracy" in record:
            print_line(
                f"epoch {record['epoch']}/{run.recipe.epochs}  {run.trainer.steps.image_size(run.step - 1)} px  "
                f"loss {record['train_loss']:.4f}  accuracy {record['train_accuracy']:.2%} in training, "
                f"{record['val_accuracy']:.2%} in validation  {duration(record['seconds'])}"
            )

    def on_end(self, run: RunState) -> None:  # noqa: ARG002
        self.bar.stop()
