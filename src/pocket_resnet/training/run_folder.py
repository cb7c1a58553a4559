"""A run's folder: its lock, its recipe, its checkpoints, and the final model and result.

Of several processes, only rank 0 calls these methods (`Processes.on_writer`).
"""

import contextlib
import logging
import math
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pocket_resnet.data.digests import count_among, digests, packed, unpacked
from pocket_resnet.data.source import Source
from pocket_resnet.errors import ArtifactError, UsageError
from pocket_resnet.inference.training_data import changes_text, is_renamed
from pocket_resnet.io.files import json_bytes, point_to, remove_temporaries, write_bytes, write_text
from pocket_resnet.io.locks import lock_folder
from pocket_resnet.model.artifact import CONFIG_NAME, DIGESTS_NAME, load_digests, save_model
from pocket_resnet.model.card import Card
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.step_folders import newest_first, recorded_fingerprint
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import differences, load_recipe, override, to_toml
from pocket_resnet.training import checkpoint
from pocket_resnet.training.checkpoint import CheckpointState
from pocket_resnet.training.metrics import History, Plan, history
from pocket_resnet.training.result import Result, read_result

LATEST = "latest"  # the name of the link to the newest run

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """The files of a run. `recipe` and `source` are always those of the run that is to train here."""

    path: Path
    resumes: bool = False
    """Whether the user asked to resume a run."""

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The final model directory."""
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        """The file with the records."""
        return self.path / "metrics.jsonl"

    @property
    def is_new(self) -> bool:
        """Whether no run has begun here."""
        return not (self.path / "recipe.toml").exists()

    @property
    def can_be_resumed(self) -> bool:
        """Whether a run has left a checkpoint or a result here."""
        return bool(newest_first(self.checkpoints)) or (self.path / "result.json").exists()

    @property
    def is_used(self) -> bool:
        """Whether a run has left its recipe or more here; a start that failed at once leaves at most its lock."""
        return not self.is_new or self.can_be_resumed

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder inside the block, after removing stale temporary files."""
        with lock_folder(self.path) as notice:
            if notice:
                _log.warning(notice)
            remove_temporaries(self.path)
            remove_temporaries(self.checkpoints)
            yield

    def finished(self, recipe: Recipe, source: Source, last_step: int, *, fork: bool) -> Result | None:
        """The result if this run has done at least `last_step` steps, else None. Points `latest` to a finished run.

        Raises UsageError if the folder has another recipe, unless this is a fork with steps left to train.
        """
        result = self._result_after(last_step)
        if changed := self._changes(recipe, source):
            what = "the recipe has changed since this run began: " + "; ".join(changed)
            hint = "undo the changes, choose another --run name"
            if not fork:
                raise UsageError(what, where=self.path, hint=f"{hint}, or resume anyway with --fork")
            if result:
                raise UsageError(
                    f"no steps are left to train, and {what}", where=self.path, hint=f"{hint}, or train more steps"
                )
        if result and not fork and (fingerprint := recorded_fingerprint(self.checkpoints)):
            self._refuse_other_data(source, fingerprint)
        if result:
            point_to(self.path.parent / LATEST, self.path.name)
            _log.info("this run is already finished")
        return result

    def _changes(self, recipe: Recipe, source: Source) -> list[str]:
        """Differences from the folder's recipe, ignoring a new name of the same data."""
        if self.is_new:
            return []
        started_with = load_recipe(str(self.path / "recipe.toml"))
        old, new = started_with.data.name, recipe.data.name
        has_same_data = source.has_fingerprint(recorded_fingerprint(self.checkpoints))
        if old == new or has_same_data or is_renamed(old, source):
            started_with = override(started_with, {"data.name": new})
        return differences(started_with, recipe)

    def _refuse_other_data(self, source: Source, fingerprint: str) -> None:
        """Raise UsageError if the data have another fingerprint."""
        if (changed := changes_text(source, fingerprint)) is None:
            return
        raise UsageError(
            f"{source.name} differs from the data this run began with{changed}",
            where=self.path,
            hint="restore the old data or locate them with --data, choose another --run name, or resume with --fork",
        )

    def _result_after(self, last_step: int) -> Result | None:
        path = self.path / "result.json"
        result = read_result(path) if path.exists() else None
        done = result and result.steps >= last_step and (self.model / CONFIG_NAME).exists()
        return replace(result, model=str(self.model)) if result and done else None

    def newest(self, recipe: Recipe, source: Source, *, fork: bool) -> tuple[CheckpointState, dict[str, Tensor]] | None:
        """The newest undamaged checkpoint; newer ones are removed. Warns if there is none but one was to be resumed.

        Raises UsageError if the run began from another checkpoint or, unless this is a fork, on other data.
        """
        if (newest := checkpoint.load_newest(self.checkpoints)) is None:
            if self.resumes:
                _log.warning(f"nothing to resume in {self.path}: starting a new run")
            return None
        self._refuse_another_start(recipe)
        if not fork:
            self._refuse_other_data(source, newest[0].data_fingerprint)
        checkpoint.remove_after(self.checkpoints, newest[0].step)
        return newest

    def _refuse_another_start(self, recipe: Recipe) -> None:
        """Raise UsageError if `init_from` has changed, since the run now continues from its own checkpoints."""
        begun = recipe if self.is_new else load_recipe(str(self.path / "recipe.toml"))
        if (old := begun.init_from) != (new := recipe.init_from):
            what = f"init_from: {old} -> {new}, but this run has checkpoints of its own and continues from the newest"
            hint = "choose another --run name, or leave init_from as it was"
            raise UsageError(what, where=self.path, hint=hint)

    def begin(
        self, recipe: Recipe, step: int, plan: Plan, images_NCHW: Tensor, kept_steps: Collection[int] = ()
    ) -> History:
        """Write the resolved recipe; returns the records of a run with that plan at that step.

        Deletes result.json, which no longer matches the number of steps, and checkpoints that a process could not prune
        before it was killed. Also writes the digests of the training images; after step 0, it keeps the earlier ones,
        since a fork may train on other images.
        """
        checkpoint.prune(self.checkpoints, recipe.checkpoint.keep, kept_steps)
        trained_on = packed(digests(images_NCHW), *self._earlier_digests(recipe, resumed=step > 0))
        write_text(self.path / "recipe.toml", to_toml(recipe))
        write_bytes(self._digests, trained_on)
        (self.path / "result.json").unlink(missing_ok=True)
        return history(self.metrics, step, plan)

    def save(self, state: CheckpointState, tensors: dict[str, Tensor], keep: int, kept_steps: Collection[int]) -> Path:
        """Write a checkpoint, prune older ones except at the `kept_steps`, and return its folder."""
        path = checkpoint.save(self.checkpoints, state, tensors)
        checkpoint.prune(self.checkpoints, keep, kept_steps)
        return path

    def last_good(self) -> str:
        """The newest checkpoint, in words for an error."""
        saved = newest_first(self.checkpoints)
        return f"the last good checkpoint is {saved[0]}" if saved else "there is no checkpoint yet"

    def write_final(self, model: ResNet, card: Card, result: Result) -> None:
        """Write the model directory and result.json, and point `latest` here."""
        save_model(self.model, model, card, self._digests.read_bytes())
        write_bytes(self.path / "result.json", json_bytes(asdict(result)))
        point_to(self.path.parent / LATEST, self.path.name)

    @property
    def _digests(self) -> Path:
        return self.path / DIGESTS_NAME

    def missing_digests(
        self, recipe: Recipe, source: Source, state: CheckpointState, *, is_another_runs: bool
    ) -> Path | None:
        """The missing file with the digests of the images this checkpoint was trained on; None if they are known.

        A resumed run's own file includes those of the other run. Without it, unchanged data are enough.
        """
        other = _other_runs_digests(recipe)
        if is_another_runs or (other and not self._digests.exists()):
            return None if other is None or other.exists() else other
        is_known = self._digests.exists() or source.has_fingerprint(state.data_fingerprint)
        return None if is_known else self._digests

    def _earlier_digests(self, recipe: Recipe, *, resumed: bool) -> list[NDArray[np.uint64]]:
        """Digests of images that were trained on earlier: in this run, in those it starts from, or by its teacher."""
        files = [self._digests if resumed else None, _other_runs_digests(recipe)]
        earlier = [read_digests(file) for file in files if file is not None and file.exists()]
        models = [load_digests(model) for model in recipe.models.values()]
        return [*earlier, *(unpacked(packed_digests) for packed_digests in models if packed_digests)]

    def trained_on(self, images_NCHW: Tensor) -> int:
        """The number of these images that the weights were trained on, in this run or earlier, by known digests."""
        return count_among(images_NCHW, read_digests(self._digests))


def _other_runs_digests(recipe: Recipe) -> Path | None:
    """The digests of the run whose checkpoint this one starts from."""
    return None if recipe.init_from is None else Path(recipe.init_from).parent.parent / DIGESTS_NAME


def read_digests(path: Path) -> NDArray[np.uint64]:
    """The digests in a run's file. Raises ArtifactError if it is truncated."""
    try:
        return unpacked(path.read_bytes())
    except ValueError as error:
        what = "truncated: its size is not a multiple of 8 bytes"
        raise ArtifactError(what, where=path, hint="delete it and resume") from error


def kept_steps(recipe: Recipe, num_steps: int) -> tuple[int, ...]:
    """The steps of `checkpoint.keep_at` in a run of `num_steps` steps."""
    return tuple(math.ceil(round(share * num_steps, 6)) for share in recipe.checkpoint.keep_at)
