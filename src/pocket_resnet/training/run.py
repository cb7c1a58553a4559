"""One training run: its folder, lock, resumption, signals, validation, model and result."""

import contextlib
import logging
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.loader import Steps
from pocket_resnet.data.source import Source
from pocket_resnet.device import Hardware, choose, memory_errors
from pocket_resnet.errors import EnvironmentFault, NonFiniteError, Stopped
from pocket_resnet.extras import require_extra
from pocket_resnet.inference.evaluate import class_probabilities
from pocket_resnet.inference.evaluation import Evaluation
from pocket_resnet.inference.training_data import overlap
from pocket_resnet.model.artifact import resume_command
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.torch_settings import own_settings
from pocket_resnet.training.callbacks import Callback, MetricsFile, ProgressBar, RunState, as_list
from pocket_resnet.training.checkpoint import CheckpointState
from pocket_resnet.training.distributed import LostProcess, Processes, only_rank_0_logs, process_group
from pocket_resnet.training.metrics import Plan
from pocket_resnet.training.precise_bn import remeasured
from pocket_resnet.training.prepare import computed_on, fit_to_data, new_trainer, sample
from pocket_resnet.training.pretrained import with_pretrained
from pocket_resnet.training.restore import Restored, restore
from pocket_resnet.training.result import Result, card_of, result_of
from pocket_resnet.training.run_folder import RunFolder, kept_steps
from pocket_resnet.training.run_names import choose_folder
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
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> Result:
    """Train the recipe's network, or resume an interrupted run, and write everything to `runs_dir`/NAME.

    `run` names the folder (default: built from recipe, data and seed); the other arguments are those of
    `pocket_resnet.train`. Raises PocketError if anything fails, Stopped if a signal ended the run after saving.
    """
    started_s = time.monotonic()
    callbacks = as_list(callbacks)
    if recipe.track:
        require_extra("track", "--track", alternative="omit --track")
    hardware = choose(**recipe.hardware.choices())
    hardware.use_threads()
    recipe = with_pretrained(recipe)
    image_size, num_workers = recipe.model.image_size, recipe.data.num_workers
    source = open_source(recipe.data.name, data_dir=data_dir, image_size=image_size, num_workers=num_workers)
    num_images = len(source.split(recipe.data.train_on))
    recipe = fit_to_data(recipe, source, num_images)
    steps = Steps(num_images, recipe)
    with process_group(hardware.device) as processes:
        processes.check(recipe, steps, source.fingerprint)
        folder = processes.on_writer(choose_folder, runs_dir, recipe, source, run, resume or fork)
        processes.announce_writer(folder.path)
        callbacks = _with_built_in(callbacks, folder, recipe, progress=progress) if processes.is_writer else []
        with folder.locked() if processes.is_writer else contextlib.nullcontext():
            if finished := processes.on_writer(folder.finished, recipe, source, steps.last, fork=fork):
                return finished
            return _Run(recipe, source, hardware, processes, folder, callbacks, data_dir, started_s).train(fork=fork)


class _Run:
    """A run whose folder is locked; untrained until `train` restores what earlier processes trained."""

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        hardware: Hardware,
        processes: Processes,
        folder: RunFolder,
        callbacks: Sequence[Callback],
        data_dir: Path | None,
        started_s: float,
    ) -> None:
        self.recipe, self.source, self.hardware, self.processes = recipe, source, hardware, processes
        self.folder, self.callbacks, self.started_s = folder, callbacks, started_s
        self.resume_command = resume_command(folder.path, data_dir)
        self.computed_on = computed_on(hardware, recipe, processes)
        train_split = source.split(recipe.data.train_on)
        self.trainer = new_trainer(recipe, source, train_split, hardware, processes, data_dir, self._watch_teacher)
        steps = self.trainer.steps
        self.kept_steps = kept_steps(recipe, steps.total)
        self.norm_indices_M = sample(steps.num_samples, recipe.norm_images, recipe.data_seed)
        plan = Plan(steps.per_epoch, steps.last, recipe.validate_every)
        self.state = RunState(folder.path, recipe, self.trainer, source.split("val"), plan)
        self.restored, self.seconds = Restored(), 0.0  # the seconds are those of training steps
        self.signals: list[int] = []  # caught by this process

    def train(self, *, fork: bool) -> Result:
        """Train from the newest checkpoint to the end, and write model and result."""
        with contextlib.ExitStack() as ends:
            ends.callback(self.trainer.parallel.close)
            self._restore(fork=fork)
            for callback in self.callbacks:
                ends.callback(callback.on_end, self.state)
                callback.on_start(self.state)
            if self.restored.is_another_runs:
                self._save()  # from here on the other run is not needed
            self._complete()
            with catch_signals() as self.signals:
                self._train_steps()
            return self._finish()

    def _restore(self, *, fork: bool) -> None:
        """Continue from the newest checkpoint or the recipe's `init_from`, if any; write the recipe to the folder."""
        trainer, state, last_step = self.trainer, self.state, self.trainer.steps.last
        self.restored = restore(self.folder, self.source, trainer, self.computed_on, fork=fork)
        self.seconds = self.restored.seconds
        if trainer.step > last_step:
            _log.warning(f"already at step {trainer.step}, past --max-steps {last_step}: nothing to train")
            state.plan = replace(state.plan, last_step=trainer.step)
        images_NCHW = self.source.split(self.recipe.data.train_on).images_NCHW
        begun = self.recipe, trainer.step, state.plan, images_NCHW, self.kept_steps
        history = self.processes.on_writer(self.folder.begin, *begun)
        state.records, state.unchanged_step = history.records, history.unchanged_step

    def _train_steps(self) -> None:
        """Train until the end, a callback's stop or a signal; validate after each epoch; save periodically."""
        trainer, state, saved_s = self.trainer, self.state, time.monotonic()
        while trainer.step < state.plan.last_step:
            started_s = time.monotonic()
            with self._explained_failure():
                num_images = trainer.train_step(self.signals)
            for callback in self.callbacks:
                callback.on_step(state, num_images)
            ends_epoch = state.plan.records(trainer.step)
            if ends_epoch:
                self.hardware.synchronize()
            self.seconds += time.monotonic() - started_s
            if ends_epoch:
                self._end_epoch()
                if self.processes.on_writer(lambda: state.stops) and trainer.step < state.plan.last_step:
                    self._stop_early()
            # Read once: a signal during saving takes effect after the next step.
            stopping = bool(trainer.num_signalled if self.processes.world_size > 1 else self.signals)
            due = time.monotonic() - saved_s >= self.recipe.checkpoint.every_s or trainer.step in self.kept_steps
            if due or stopping or trainer.step == state.plan.last_step:
                self._save()
                saved_s = time.monotonic()
            if stopping:
                raise self._stopped()

    @contextlib.contextmanager
    def _explained_failure(self) -> Iterator[None]:
        """Inside the block, errors name the last good checkpoint. If another process is lost, saves the state first."""
        try:
            with memory_errors(), self.processes.restoring_norms(self.trainer.model):
                yield
        except NonFiniteError as error:
            hint = f"{self.folder.last_good()}; try a lower learning rate or --optim.clip-norm 1"
            raise NonFiniteError(f"not finite, {error.what}", where=error.where, hint=hint) from error
        except EnvironmentFault as error:
            if isinstance(error, LostProcess):  # the weights are unchanged
                self._save()
            hint = f"{error.hint}; {self.folder.last_good()}; resume with: {self.resume_command}"
            raise EnvironmentFault(error.what, hint=hint) from error

    def _watch_teacher(self, teacher: Teacher, progress: str) -> None:
        """Report to callbacks how far the teacher's predictions for an epoch are; on a signal, save and stop."""
        for callback in self.callbacks:
            callback.on_teacher(self.state, progress)
        if self.signals:
            self._save()
            raise self._stopped(f"; the teacher's predictions for {teacher.num_cached} epoch(s) are cached")

    def _stopped(self, also_kept: str = "") -> Stopped:
        """The error that ends the run after a signal, once the current step is saved."""
        number = next(iter(self.signals), signal.SIGTERM)  # another process may have caught it
        what = f"stopped by {signal.Signals(number).name} after saving step {self.trainer.step}{also_kept}"
        return Stopped(number, what, hint=f"resume with: {self.resume_command}")

    def _stop_early(self) -> None:
        """Make this step the last, like `max_steps`."""
        _log.info(f"stopped early, at step {self.trainer.step} of {self.state.plan.last_step}")
        self.state.plan = replace(self.state.plan, last_step=self.trainer.step)
        self._complete()

    def _complete(self) -> None:
        """Validate after the last step if that is not done, as after `max_steps`; do nothing if steps are left."""
        recorded = self.state.recorded()
        can_be = recorded is not None or self.trainer.epoch_totals().num_images > 0
        if self.trainer.step == self.state.plan.last_step and can_be and "val_nll" not in (recorded or {}):
            self._end_epoch()

    def _end_epoch(self) -> None:
        """Record the epoch's metrics or complete its record; validate if the plan says so."""
        trainer, state = self.trainer, self.state
        with self._explained_failure():
            self.trainer.refuse_non_finite_state()
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
        """Inside the block, the network has the weights it is saved with: averaged, batch norm re-measured."""
        trainer = self.trainer
        last = max(0, trainer.step - 1)
        batches = () if trainer.steps.is_frozen(last) else trainer.loader.norm_batches(self.norm_indices_M, last)
        with trainer.ema.applied(), remeasured(trainer.model, batches, self.processes.gather):
            yield

    def _validate(self) -> Evaluation:
        """Validate in the precision of training, which may be several times faster; in fp32 after the last step."""
        precision = self.hardware.precision if self.trainer.step < self.state.plan.last_step else "fp32"
        val, rows = self.state.val, self.processes.rows
        with self._as_released():
            own_nK = class_probabilities(self.trainer.model, val.images_NCHW[rows], self.hardware, precision=precision)
        probabilities_NK = self.processes.gather_rows(own_nK)
        names, files = self.source.class_names, val.files
        evaluation = Evaluation(probabilities_NK, val.labels_N, names, "val", 1, precision, files=files)
        with self._explained_failure():
            self.trainer.refuse_non_finite_validation(evaluation.nll)
        self.state.evaluation = evaluation
        return evaluation

    def _save(self) -> None:
        """Write a checkpoint of a finite state and prune older ones."""
        with self._explained_failure():
            self.trainer.refuse_non_finite_state()
        state = CheckpointState(
            version=__version__,
            step=self.trainer.step,
            seconds=self.seconds,
            seconds_total=self._seconds_total(),
            hardware=self.computed_on,
            data_fingerprint=self.source.fingerprint,
            unknown_images=self.restored.unknown_images,
        )
        tensors = self.trainer.tensors()
        if self.processes.is_writer:
            path = self.folder.save(state, tensors, self.recipe.checkpoint.keep, self.kept_steps)
            for callback in self.callbacks:
                callback.on_checkpoint(self.state, path)

    def _seconds_total(self) -> float:
        """Total time so far of this process and those it continues, including reading, validating and saving."""
        return self.restored.seconds_total + time.monotonic() - self.started_s

    def _finish(self) -> Result:
        """Evaluate the last state, and write model and result."""
        trainer, full_size = self.trainer, self.recipe.model.image_size
        if (size := trainer.steps.image_size(trainer.step - 1)) < full_size:
            _log.warning(f"the last steps trained at {size} pixels, evaluation uses {full_size}: expect lower accuracy")
        evaluation, val, model = self.state.evaluation, self.state.val, self.folder.model
        if evaluation is None or evaluation.precision != "fp32":
            evaluation = self._validate()
        # Counts also images of the training before a fork, or of the run in `init_from`.
        num_trained_on = self.processes.on_writer(self.folder.trained_on, val.images_NCHW)
        caveat = overlap(len(val), num_trained_on, unknown_images=self.restored.unknown_images)
        result = result_of(
            trainer, evaluation, seconds=self.seconds, seconds_total=self._seconds_total(), model=model, caveat=caveat
        )
        card = card_of(result, self.recipe, self.source, evaluation, unknown_images=self.restored.unknown_images)
        with self._as_released():
            if self.processes.is_writer:
                self.folder.write_final(trainer.model, card, result)
        self.state.result = result
        return result


def _with_built_in(own: Sequence[Callback], folder: RunFolder, recipe: Recipe, *, progress: bool) -> list[Callback]:
    """The callbacks of every run, then a program's own."""
    callbacks: list[Callback] = [MetricsFile(folder.metrics), *([ProgressBar()] if progress else [])]
    if recipe.track:
        from pocket_resnet.training.tensorboard import TensorBoard  # imports matplotlib, which takes half a second

        callbacks.append(TensorBoard(folder.path / "tensorboard"))
    return [*callbacks, *own]
