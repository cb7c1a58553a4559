"""One training run: its folder, lock, resumption, signals, validation, and what it leaves behind."""

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pocket_resnet.data.loader import Loader, Steps
from pocket_resnet.data.source import Split, open_source
from pocket_resnet.device import Hardware, choose, explained_memory, machine
from pocket_resnet.errors import EnvironmentFault, NonFiniteError, Stopped
from pocket_resnet.inference.evaluate import Evaluation, class_probabilities, summarise
from pocket_resnet.inference.training_data import overlap
from pocket_resnet.model.artifact import resume_command
from pocket_resnet.model.counts import num_macs, num_params
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.torch_settings import own_settings
from pocket_resnet.training.checkpoint import CheckpointState
from pocket_resnet.training.distributed import LostProcess, explained_loss, joined
from pocket_resnet.training.flops import training_flops
from pocket_resnet.training.metrics import Plan, ProgressReport, Record, duration
from pocket_resnet.training.precise_bn import remeasured
from pocket_resnet.training.prepare import fit_to_data, sample, untrained
from pocket_resnet.training.restore import restore
from pocket_resnet.training.result import Result, card_of
from pocket_resnet.training.run_folder import RunFolder, choose_folder, marks
from pocket_resnet.training.signals import catch_signals
from pocket_resnet.training.teacher import open_teacher, teacher_digests
from pocket_resnet.training.torchrun import launch
from pocket_resnet.training.trainer import Trainer
from pocket_resnet.version import __version__


@own_settings(benchmark=True)
def train(
    recipe: Recipe,
    *,
    data_dir: Path | None = None,
    runs_dir: Path = Path("runs"),
    run: str | None = None,
    resume: bool = False,
    fork: bool = False,
) -> Result:
    """Train the recipe's network, or go on with an interrupted run, and leave everything in `runs_dir`/NAME.

    `run` names the folder (default: made of recipe, data and seed); `resume` goes on with it where it exists; `fork`
    does so although recipe or data have changed. Raises PocketError for all that can go wrong, Stopped where a
    signal ended the run after saving.
    """
    started_s = time.monotonic()
    launch()  # refuses odd variables before any work
    if recipe.track:
        from pocket_resnet.training.tensorboard import require_tensorboard

        require_tensorboard()
    hardware = choose(**recipe.hardware.model_dump(exclude={"compile"}))
    hardware.use_threads()
    source = open_source(
        recipe.data.name,
        data_dir=data_dir,
        image_size=recipe.model.image_size,
        num_workers=recipe.data.num_workers,
    )
    train_split = source.split(recipe.data.train_on)
    recipe, remarks = fit_to_data(recipe, source, len(train_split))
    with joined(hardware.device) as processes:
        processes.refuse_empty_parts(Steps(len(train_split), recipe))
        resume = resume or fork
        path = processes.agree(choose_folder(runs_dir, recipe, source, run, resume) if processes.is_writer else None)
        folder = RunFolder(path, recipe, source, processes, marks(recipe, Steps(len(train_split), recipe).total))
        with folder.locked(expected=resume) as more_remarks:
            here = _Run(folder, hardware, started_s, resume_command(path, data_dir), len(train_split), data_dir)
            return here.train(train_split, [*source.remarks, *remarks, *more_remarks], fork)


@dataclass
class _Run:
    """A run whose folder is locked."""

    folder: RunFolder
    hardware: Hardware
    started_s: float
    resume_command: str
    num_images: int
    data_dir: Path | None
    seconds: float = 0.0
    """Spent in training steps."""
    earlier_s: float = 0.0
    """Spent in all, in processes before this one."""
    found: Evaluation | None = None
    """Of the last epoch, where this process trained it."""
    probabilities_NK: Tensor | None = None
    """What `found` was made of."""
    unknown_images: bool = False
    """Whether the weights were also trained on images whose digests are lost."""

    def __post_init__(self) -> None:
        self.recipe, self.source, self.processes = self.folder.recipe, self.folder.source, self.folder.processes
        num_steps = Steps(self.num_images, self.recipe).total
        self.last_step = min(self.recipe.max_steps or num_steps, num_steps)
        layout = "channels last" if self.recipe.hardware.channels_last else "contiguous"
        compiled = ", compiled" if self.recipe.hardware.compile else ""
        several = f", {self.processes.world_size} processes" if self.processes.world_size > 1 else ""
        self.computed_on = f"{machine(self.hardware)}, {layout}{compiled}{several}"

    def train(self, train_split: Split, remarks: list[str], fork: bool) -> Result:
        if finished := self.folder.finished(self.last_step, fork=fork):
            self._progress().say("this run has finished before")
            return finished
        model = self.hardware.place(untrained(self.recipe, self.source, train_split))
        teacher = open_teacher(self.recipe, self.source, self.hardware, self.data_dir)
        answers = teacher.logits if teacher is not None else None
        loader = Loader(train_split, self.recipe, self.hardware, model.normalize.mean, answers)
        self.trainer = Trainer(model, loader, self.processes)
        self.norm_indices_M = sample(len(train_split), self.recipe.norm_images, self.recipe.data_seed)
        begun = restore(self.folder, self.trainer, self.computed_on, self.last_step, fork=fork)
        self.seconds, self.earlier_s, self.unknown_images = begun.seconds, begun.seconds_total, begun.unknown_images
        if teacher is not None and teacher_digests(self.recipe) is None:
            remarks.append("it is not known which images the teacher was trained on: its model kept no record of them")
            self.unknown_images = True
        if (step := self.trainer.step) > self.last_step:
            remarks.append(f"already at step {step}, past --max-steps {self.last_step}: nothing left to train")
            self.last_step = step
        self.val_split = self.source.split("val")
        self.plan = Plan(self.trainer.steps.per_epoch, self.last_step, self.recipe.validate_every)
        recorded = self.folder.begin(step, self.plan, train_split.images_NCHW, resumed=step > 0)
        if begun.is_another_runs:
            self._save()  # from here on the other run may go
        with self._progress(self.trainer.step) as self.progress:
            for remark in (*remarks, *begun.remarks):
                self.progress.say(remark)
            self._announce(train_split)
            self._complete(recorded)
            with catch_signals() as caught:
                self._train_steps(caught)
            return self._finish()

    def _progress(self, first_step: int = 0) -> ProgressReport:
        return ProgressReport(self.last_step, first_step, self.recipe.epochs, speaks=self.processes.is_writer)

    def _announce(self, train_split: Split) -> None:
        spec = self.recipe.model
        self.progress.say(
            f"{self.recipe.name} on {self.source.name}: {num_params(spec):,} parameters, "
            f"{num_macs(spec):,} multiply-adds an image, {len(train_split):,} training images, "
            f"{self.last_step:,} steps on {machine(self.hardware)}"
        )

    def _train_steps(self, caught: list[int]) -> None:
        """Step until the end or a signal; validate after each epoch; save every so often."""
        trainer, saved_s = self.trainer, time.monotonic()
        while trainer.step < self.last_step:
            step_started_s = time.monotonic()
            try:
                with explained_loss(), explained_memory(), self.processes.undoing(trainer.model):
                    num_trained = trainer.train_step()
                if self.progress.stepped(num_trained):
                    trainer.refuse_non_finite()
                    totals = trainer.epoch_totals()
                    self.progress.tell(trainer.step, self.plan.epoch(trainer.step) - 1, totals.loss, totals.accuracy)
            except NonFiniteError as error:
                raise self._with_last_good(error) from error
            except EnvironmentFault as error:
                if isinstance(error, LostProcess):  # nothing has moved
                    self._save()
                mend = f"{error.mend}; {self.folder.last_good()}; go on with: {self.resume_command}"
                raise EnvironmentFault(error.what, mend=mend) from error
            ends_epoch = self.plan.records(trainer.step)
            if ends_epoch:
                self.hardware.synchronize()
            self.seconds += time.monotonic() - step_started_s
            if ends_epoch:
                self._end_epoch()
            # Looked at once: a signal that comes while saving is obeyed after the next step.
            stopping = self.processes.any(bool(caught), self.hardware.device)
            due = time.monotonic() - saved_s >= self.recipe.checkpoint.every_s or trainer.step in self.folder.marks
            if due or stopping or trainer.step == self.last_step:
                self._save()
                saved_s = time.monotonic()
            if stopping:
                number = caught[0] if caught else signal.SIGTERM  # which another process has had
                what = f"stopped by {signal.Signals(number).name} after saving step {trainer.step}"
                raise Stopped(number, what, mend=f"go on with: {self.resume_command}")

    def _with_last_good(self, error: NonFiniteError) -> NonFiniteError:
        return NonFiniteError(
            f"not finite, {error.what}",
            where=error.where,
            mend=f"{self.folder.last_good()}; try a lower learning rate or --optim.clip-norm 1",
        )

    def _complete(self, recorded: Record | None) -> None:
        """Where no step is left to train, record what is not recorded yet (and can still be known)."""
        can_be = recorded is not None or self.trainer.epoch_totals().num_images > 0
        if self.trainer.step == self.last_step and can_be and "val_nll" not in (recorded or {}):
            self._end_epoch(recorded)

    def _end_epoch(self, recorded: Record | None = None) -> None:
        """Write the epoch's metrics, or complete what was recorded; validate and tell of it where it is time."""
        trainer, step = self.trainer, self.trainer.step
        self._refuse_non_finite_state()
        record = recorded or trainer.epoch_record() | {"seconds": round(self.seconds, 3)}
        if self.plan.validates(step):
            self.found = found = self._validate()
            record = record | {"val_nll": found.nll, "val_accuracy": found.accuracy}
            self.progress.say(
                f"epoch {record['epoch']}/{self.recipe.epochs}  {trainer.steps.image_size(step - 1)} px  "
                f"loss {record['train_loss']:.4f}  accuracy {record['train_accuracy']:.2%}  "
                f"validation {found.accuracy:.2%}  {duration(self.seconds)}"
            )
        self.folder.record(record)
        if "val_nll" in record:
            self._show(record["epoch"] - 1)
        if step % trainer.steps.per_epoch == 0:  # --max-steps may stop within an epoch, which a resumed run then ends
            trainer.end_epoch()

    @contextlib.contextmanager
    def _as_released(self) -> Iterator[None]:
        """Inside, the network is as it would be saved now: averaged weights, fresh batch-norm statistics."""
        batches = self.trainer.loader.norm_batches(self.norm_indices_M, max(0, self.trainer.step - 1))
        with self.trainer.average.applied(), remeasured(self.trainer.model, batches):
            yield

    def _validate(self) -> Evaluation:
        with self._as_released():
            probabilities_NK = class_probabilities(self.trainer.model, self.val_split.images_NCHW, self.hardware)
        self.probabilities_NK = probabilities_NK  # for `_show`
        return summarise(probabilities_NK, self.val_split.labels_N, self.source.class_names, "val", views=1)

    def _show(self, epoch: int) -> None:
        """Pictures for TensorBoard, where it is asked for and time for some."""
        board, trainer, found, probabilities_NK = self.folder.board, self.trainer, self.found, self.probabilities_NK
        if board is not None and found is not None and probabilities_NK is not None and board.is_due(trainer.step):
            batch = trainer.loader.batch(epoch * trainer.steps.per_epoch)
            board.show(trainer.step, found, self.val_split, probabilities_NK, batch)

    def _refuse_non_finite_state(self) -> None:
        try:
            self.trainer.refuse_non_finite_state()
        except NonFiniteError as error:
            raise self._with_last_good(error) from error

    def _save(self) -> None:
        """Write a checkpoint of a finite state and prune older ones."""
        self._refuse_non_finite_state()
        state = CheckpointState(
            version=__version__,
            step=self.trainer.step,
            seconds=self.seconds,
            seconds_total=self._seconds_total(),
            hardware=self.computed_on,
            data_fingerprint=self.source.fingerprint,
            unknown_images=self.unknown_images,
        )
        self.folder.save(state, self.trainer.tensors())

    def _seconds_total(self) -> float:
        """From start to now, reading, validating and saving included, in this process and those it went on from."""
        return self.earlier_s + time.monotonic() - self.started_s

    def _caveat(self) -> str | None:
        """Whether validation tells of unseen images: a fork or another run may have trained on them before."""
        num_trained_on = self.folder.trained_on(self.val_split.images_NCHW)
        return overlap(len(self.val_split), num_trained_on, unknown_images=self.unknown_images)

    def _finish(self) -> Result:
        """Evaluate the last state, write model and result."""
        trainer, spec = self.trainer, self.recipe.model
        if (side := trainer.steps.image_size(trainer.step - 1)) < spec.image_size:
            self.progress.say(f"trained to the end at {side} pixels, and judged at {spec.image_size}: expect less")
        found = self.found or self._validate()
        images_seen, train_flops = training_flops(trainer.model, self.recipe, trainer.steps.num_samples, trainer.step)
        result = Result(
            accuracy=found.accuracy,
            interval=found.interval,
            num_params=num_params(spec),
            num_macs=num_macs(spec),
            epochs=self.recipe.epochs,
            steps=trainer.step,
            images_seen=images_seen,
            train_flops=train_flops,
            seconds=round(self.seconds, 3),
            seconds_total=round(self._seconds_total(), 3),
            images_per_s=round(images_seen / max(self.seconds, 1e-9), 2),
            seed=self.recipe.seed,
            recipe=self.recipe.name,
            data=self.source.name,
            train_on=self.recipe.data.train_on,
            machine=machine(self.hardware),
            model=str(self.folder.model),
            caveat=self._caveat(),
        )
        card = card_of(result, self.recipe, self.source, found, unknown_images=self.unknown_images)
        with self._as_released():
            self.folder.leave(trainer.model, card, result)
        return result
