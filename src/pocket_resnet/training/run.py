"""One training run: its folder, lock, resumption, signals, validation, model and result."""

import contextlib
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.loader import Steps
from pocket_resnet.data.source import Split
from pocket_resnet.device import Hardware, choose, explained_memory
from pocket_resnet.errors import EnvironmentFault, NonFiniteError, Stopped
from pocket_resnet.inference.evaluate import class_probabilities
from pocket_resnet.inference.evaluation import Evaluation
from pocket_resnet.inference.training_data import overlap
from pocket_resnet.model.artifact import resume_command
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.torch_settings import own_settings
from pocket_resnet.training.callbacks import Callback, MetricsFile, ProgressBar, RunState, refuse_classes
from pocket_resnet.training.checkpoint import CheckpointState
from pocket_resnet.training.distributed import LostProcess, explained_loss, joined, only_rank_0_logs
from pocket_resnet.training.metrics import Plan
from pocket_resnet.training.precise_bn import remeasured
from pocket_resnet.training.prepare import computed_on, fit_to_data, new_trainer, sample
from pocket_resnet.training.pretrained import with_pretrained
from pocket_resnet.training.restore import have_unknown_images, restore
from pocket_resnet.training.result import Result, card_of, result_of
from pocket_resnet.training.run_folder import RunFolder, choose_folder, marks
from pocket_resnet.training.signals import catch_signals
from pocket_resnet.training.teacher import Teacher
from pocket_resnet.version import __version__

_log = logging.getLogger(__name__)


@own_settings(benchmark=True)
@only_rank_0_logs()
def train(
    recipe: Recipe,
    *,
    data_dir: Path | None = None,
    runs_dir: Path = Path("runs"),
    run: str | None = None,
    resume: bool = False,
    fork: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Result:
    """Train the recipe's network, or resume an interrupted run, and write everything to `runs_dir`/NAME.

    `run` names the folder (default: built from recipe, data and seed); the other arguments are those of
    `pocket_resnet.train`. Raises PocketError if anything fails, Stopped if a signal ended the run after saving.
    """
    started_s = time.monotonic()
    refuse_classes(callbacks)
    if recipe.track:
        from pocket_resnet.training.tensorboard import require_tensorboard

        require_tensorboard()
    hardware = choose(**recipe.hardware.model_dump(exclude={"compile"}))
    hardware.use_threads()
    recipe = with_pretrained(recipe)
    image_size, num_workers = recipe.model.image_size, recipe.data.num_workers
    source = open_source(recipe.data.name, data_dir=data_dir, image_size=image_size, num_workers=num_workers)
    train_split = source.split(recipe.data.train_on)
    recipe = fit_to_data(recipe, source, len(train_split))
    steps = Steps(len(train_split), recipe)
    with joined(hardware.device) as processes:
        processes.check(recipe, steps, source.fingerprint)
        path = processes.on_writer(lambda: choose_folder(runs_dir, recipe, source, run, resume or fork))
        processes.announce_writer(path)
        folder = RunFolder(path, recipe, source, processes, marks(recipe, steps.total))
        callbacks = _with_built_in(callbacks, folder, progress=progress) if processes.is_writer else []
        with folder.locked(expected=resume or fork):
            if finished := folder.finished(steps.last, fork=fork):
                return finished
            return _Run(folder, hardware, train_split, steps.last, started_s, data_dir, callbacks, fork=fork).train()


class _Run:
    """A run whose folder is locked."""

    def __init__(
        self,
        folder: RunFolder,
        hardware: Hardware,
        train_split: Split,
        last_step: int,
        started_s: float,
        data_dir: Path | None,
        callbacks: Sequence[Callback],
        *,
        fork: bool,
    ) -> None:
        self.folder, self.hardware, self.started_s, self.callbacks = folder, hardware, started_s, callbacks
        self.recipe, self.source, self.processes = folder.recipe, folder.source, folder.processes
        self.resume_command = resume_command(folder.path, data_dir)
        self.computed_on = computed_on(hardware, self.recipe, self.processes)
        self.norm_indices_M = sample(len(train_split), self.recipe.norm_images, self.recipe.data_seed)
        self.trainer = new_trainer(
            self.recipe, self.source, train_split, hardware, self.processes, data_dir, self._watch_teacher
        )
        restored = restore(folder, self.trainer, self.computed_on, last_step, fork=fork)
        self.seconds = restored.seconds  # spent in training steps
        self.earlier_s = restored.seconds_total  # total time of earlier processes
        self.is_another_runs = restored.is_another_runs
        # Whether this run, its teacher or its pretrained model was trained on images whose digests are lost:
        self.unknown_images = have_unknown_images(self.recipe.models) or restored.unknown_images
        if (step := self.trainer.step) > last_step:
            _log.warning(f"already at step {step}, past --max-steps {last_step}: nothing to train")
        val = self.source.split("val")
        plan = Plan(self.trainer.steps.per_epoch, max(step, last_step), self.recipe.validate_every)
        history = folder.begin(step, plan, train_split.images_NCHW, resumed=step > 0)
        self.state = RunState(
            folder.path, self.recipe, self.trainer, val, plan, history.records, history.unchanged_step
        )

    def train(self) -> Result:
        """Train to the end, and write model and result."""
        with contextlib.ExitStack() as ends:
            for callback in self.callbacks:
                ends.callback(callback.on_end, self.state)
                callback.on_start(self.state)
            if self.is_another_runs:
                self._save()  # from here on the other run is not needed
            self._complete()
            with catch_signals() as self.trainer.signals:
                self._train_steps()
            return self._finish()

    def _train_steps(self) -> None:
        """Train until the end, a callback's stop or a signal; validate after each epoch; save periodically."""
        trainer, state, saved_s = self.trainer, self.state, time.monotonic()
        while trainer.step < state.plan.last_step:
            ends_epoch = self._train_step()
            if ends_epoch:
                self._end_epoch()
                if self.processes.on_writer(lambda: state.stops):
                    self._stop_early()
            stopping = trainer.stopping  # read once: a signal during saving takes effect after the next step
            due = time.monotonic() - saved_s >= self.recipe.checkpoint.every_s or trainer.step in self.folder.marks
            if due or stopping or trainer.step == state.plan.last_step:
                self._save()
                saved_s = time.monotonic()
            if stopping:
                raise self._stopped()

    def _watch_teacher(self, teacher: Teacher, done: str) -> None:
        """Report to callbacks how far the teacher's predictions for an epoch are; on a signal, save and stop."""
        for callback in self.callbacks:
            callback.on_teacher(self.state, done)
        if self.trainer.signals:
            self._save()
            raise self._stopped(f"; the teacher's predictions for {teacher.num_cached} epoch(s) are cached")

    def _stopped(self, also_kept: str = "") -> Stopped:
        """The error that ends the run after a signal, once the current step is saved."""
        number = next(iter(self.trainer.signals), signal.SIGTERM)  # another process may have caught it
        what = f"stopped by {signal.Signals(number).name} after saving step {self.trainer.step}{also_kept}"
        return Stopped(number, what, hint=f"resume with: {self.resume_command}")

    def _train_step(self) -> bool:
        """Train one step; whether it ends an epoch or the run."""
        trainer, started_s = self.trainer, time.monotonic()
        try:
            with explained_loss(), explained_memory(), self.processes.undoing(trainer.model):
                num_images = trainer.train_step()
        except NonFiniteError as error:
            raise self._with_last_good(error) from error
        except EnvironmentFault as error:
            if isinstance(error, LostProcess):  # the weights are unchanged
                self._save()
            hint = f"{error.hint}; {self.folder.last_good()}; resume with: {self.resume_command}"
            raise EnvironmentFault(error.what, hint=hint) from error
        for callback in self.callbacks:
            callback.on_step(self.state, num_images)
        ends_epoch = self.state.plan.records(trainer.step)
        if ends_epoch:
            self.hardware.synchronize()
        self.seconds += time.monotonic() - started_s
        return ends_epoch

    def _stop_early(self) -> None:
        """Make this step the last, like `max_steps`."""
        _log.info(f"stopped early, at step {self.trainer.step} of {self.state.plan.last_step}")
        self.state.plan = replace(self.state.plan, last_step=self.trainer.step)
        self._complete()

    def _with_last_good(self, error: NonFiniteError) -> NonFiniteError:
        return NonFiniteError(
            f"not finite, {error.what}",
            where=error.where,
            hint=f"{self.folder.last_good()}; try a lower learning rate or --optim.clip-norm 1",
        )

    def _complete(self) -> None:
        """If no step is left to train, complete the last record, as far as it can still be computed."""
        recorded = self.state.recorded()
        can_be = recorded is not None or self.trainer.epoch_totals().num_images > 0
        if self.trainer.step == self.state.plan.last_step and can_be and "val_nll" not in (recorded or {}):
            self._end_epoch()

    def _end_epoch(self) -> None:
        """Record the epoch's metrics or complete its record; validate if the plan says so."""
        trainer, state = self.trainer, self.state
        self._refuse_non_finite_state()
        record = state.recorded() or trainer.epoch_record() | {"seconds": round(self.seconds, 3)}
        if state.plan.validates(trainer.step):
            evaluation = self._validate()
            record = record | {"val_nll": evaluation.nll, "val_accuracy": evaluation.accuracy}
        state.keep(record)
        for callback in self.callbacks:
            callback.on_epoch(state, record)
        if trainer.step % trainer.steps.per_epoch == 0:  # after --max-steps, a resumed run ends the epoch
            trainer.end_epoch()

    @contextlib.contextmanager
    def _as_released(self) -> Iterator[None]:
        """Inside the block, the network is as saved now: averaged weights, recomputed batch-norm statistics."""
        trainer = self.trainer
        last = max(0, trainer.step - 1)
        batches = () if trainer.steps.is_frozen(last) else trainer.loader.norm_batches(self.norm_indices_M, last)
        with trainer.average.applied(), remeasured(trainer.model, batches, self.processes.gather):
            yield

    def _validate(self) -> Evaluation:
        """Validate in the precision of training, which may be several times faster; in fp32 after the last step."""
        precision = self.hardware.precision if self.trainer.step < self.state.plan.last_step else "fp32"
        val, rows = self.state.val, self.processes.rows
        with self._as_released():
            own_nK = class_probabilities(self.trainer.model, val.images_NCHW[rows], self.hardware, precision=precision)
        probabilities_NK = self.processes.gather_rows(own_nK)
        names, files = self.source.class_names, val.files
        self.state.evaluation = Evaluation(probabilities_NK, val.labels_N, names, "val", 1, precision, files=files)
        return self.state.evaluation

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
        if (path := self.folder.save(state, self.trainer.tensors())) is not None:
            for callback in self.callbacks:
                callback.on_checkpoint(self.state, path)

    def _seconds_total(self) -> float:
        """Total time so far of this process and those it continues, including reading, validating and saving."""
        return self.earlier_s + time.monotonic() - self.started_s

    def _finish(self) -> Result:
        """Evaluate the last state, and write model and result."""
        trainer, full_size = self.trainer, self.recipe.model.image_size
        if (size := trainer.steps.image_size(trainer.step - 1)) < full_size:
            _log.warning(
                f"the last steps trained at {size} pixels, but evaluation uses {full_size}: expect lower accuracy"
            )
        evaluation, val = self.state.evaluation, self.state.val
        if evaluation is None or evaluation.precision != "fp32":
            evaluation = self._validate()
        num_trained_on = self.folder.trained_on(val.images_NCHW)  # before a fork, or by the run in `init_from`
        result = result_of(
            trainer,
            evaluation,
            seconds=self.seconds,
            seconds_total=self._seconds_total(),
            model=self.folder.model,
            caveat=overlap(len(val), num_trained_on, unknown_images=self.unknown_images),
        )
        card = card_of(result, self.recipe, self.source, evaluation, unknown_images=self.unknown_images)
        with self._as_released():
            self.folder.write_final(trainer.model, card, result)
        self.state.result = result
        return result


def _with_built_in(own: Sequence[Callback], folder: RunFolder, *, progress: bool) -> list[Callback]:
    """The callbacks of every run, then a program's own."""
    callbacks: list[Callback] = [MetricsFile(folder.metrics), *([ProgressBar()] if progress else [])]
    if folder.recipe.track:
        from pocket_resnet.training.tensorboard import TensorBoard  # imports matplotlib, which takes half a second

        callbacks.append(TensorBoard(folder.path / "tensorboard"))
    return [*callbacks, *own]
