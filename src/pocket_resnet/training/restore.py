"""Restore a run's state: from its own newest checkpoint, or from another run's (`init_from`)."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pocket_resnet.data.source import Source
from pocket_resnet.errors import ArtifactError, UsageError
from pocket_resnet.model.artifact import first_fault, load_card, load_digests
from pocket_resnet.model.step_folders import STATE_NAME, newest_first
from pocket_resnet.training import checkpoint
from pocket_resnet.training.checkpoint import CheckpointState
from pocket_resnet.training.run_folder import RunFolder
from pocket_resnet.training.trainer import Trainer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """Values from a checkpoint apart from the trainer's state."""

    seconds: float = 0.0
    """Time spent in earlier training steps."""
    seconds_total: float = 0.0
    """Total time spent before."""
    is_another_runs: bool = False
    """Whether the state is another run's, and this run has no checkpoint yet."""
    unknown_images: bool = False
    """Whether it, its teacher or its pretrained model was trained on images whose digests are lost."""


def restore(folder: RunFolder, source: Source, trainer: Trainer, computed_on: str, *, fork: bool) -> Restored:
    """Load the folder's newest undamaged checkpoint into the trainer, or else the recipe's `init_from`, if any.

    Raises ArtifactError or UsageError if the checkpoint does not fit the network or the length of the run.
    """
    recipe, on_writer = trainer.recipe, trainer.processes.on_writer
    if newest := on_writer(folder.newest, recipe, source, fork=fork):
        state, tensors = newest
        _resume(folder, trainer, computed_on, state, tensors)
    elif recipe.init_from is not None:
        state, tensors = on_writer(_read, Path(recipe.init_from))
        _begin_from(Path(recipe.init_from), source, trainer, computed_on, state, tensors)
    else:
        return Restored(unknown_images=_have_unknown_images(recipe.models))
    is_another_runs = newest is None
    missing = on_writer(folder.missing_digests, recipe, source, state, is_another_runs=is_another_runs)
    unknown = state.unknown_images or missing is not None
    if unknown:
        why = f"{missing} does not exist" if missing else "an earlier part of the training did not record them"
        _log.warning(f"the images that the checkpoint was trained on are unknown: {why}")
    unknown |= _have_unknown_images(recipe.models)
    return Restored(state.seconds, state.seconds_total, is_another_runs, unknown)


def _resume(
    folder: RunFolder, trainer: Trainer, computed_on: str, state: CheckpointState, tensors: dict[str, Tensor]
) -> None:
    if state.step > trainer.steps.total:
        what = f"the newest checkpoint is at step {state.step}, but the run has only {trainer.steps.total}"
        raise ArtifactError(what, where=folder.checkpoints, hint="train more epochs, or choose another --run name")
    if state.hardware != computed_on:
        _log.warning(f"not bit-exact: the run began on {state.hardware}")
    elif trainer.processes.world_size > 1:
        _log.warning("not bit-exact: several processes may add up their gradients in another order")
    try:
        trainer.load_tensors(tensors, state.step)
    except (KeyError, RuntimeError) as error:
        raise ArtifactError(f"does not fit this network: {first_fault(error)}", where=folder.checkpoints) from error
    if trainer.loader.selection is not None and "selection.loss" in tensors and "selection.visits" not in tensors:
        _log.warning("not bit-exact: the checkpoint is from a version that did not count how often images were trained")
    if not trainer.totals_fit_step():
        trainer.end_epoch()  # of a fork with another batch size
    _log.info(f"resumed at step {state.step}")


def _begin_from(
    path: Path,
    source: Source,
    trainer: Trainer,
    computed_on: str,
    state: CheckpointState,
    tensors: dict[str, Tensor],
) -> None:
    if state.step >= trainer.steps.last:
        what = f"is at step {state.step:,}, but this run ends at step {trainer.steps.last:,}"
        raise UsageError(what, where=path, hint="train more epochs, or choose an earlier checkpoint")
    _log.info(f"starts from step {state.step} of {path}")
    if state.hardware != computed_on:
        _log.info(f"the checkpoint was trained on {state.hardware}")
    has_same_data = source.has_fingerprint(state.data_fingerprint)
    if not has_same_data:
        _log.warning("the checkpoint was trained on other data")
    try:
        trainer.load_tensors(tensors, state.step)
    except (KeyError, RuntimeError) as error:
        what = f"is from another network: {first_fault(error)}"
        hint = "use the network of its run: [model] in its recipe.toml"
        raise UsageError(what, where=path, hint=hint) from error
    if not has_same_data or not trainer.totals_fit_step():
        trainer.end_epoch()  # the totals belong to another epoch than this run's


def _have_unknown_images(models: Mapping[str, Path]) -> bool:
    """Whether any of these models, by role in the run, was trained on images whose digests are lost; warns of each."""
    unknown = [role for role, model in models.items() if load_digests(model) is None or load_card(model).unknown_images]
    for role in unknown:
        _log.warning(f"the images that the {role} was trained on are unknown: it has no record of them all")
    return bool(unknown)


def _read(path: Path) -> tuple[CheckpointState, dict[str, Tensor]]:
    """The checkpoint. If there is none, raises UsageError, which names those of a run's folder."""
    if (path / STATE_NAME).is_file():
        return checkpoint.load(path)
    saved = newest_first(path / "checkpoints") or newest_first(path)
    hint = f"choose one of its checkpoints, for example {saved[0]}" if saved else "use the folder step-NNNNNN of a run"
    is_empty_run = (path / "recipe.toml").is_file() and not saved
    raise UsageError("this run has no checkpoint yet" if is_empty_run else "not a checkpoint", where=path, hint=hint)
