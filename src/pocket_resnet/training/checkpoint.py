"""Checkpoints: saved in one step, verified on loading, pruned by number.

A checkpoint is a folder `step-000123` with `tensors.safetensors`, `state.json` and `SHA256SUMS`; docs/formats.md
describes them. Nothing is unpickled.
"""

import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from pocket_resnet.errors import ArtifactError
from pocket_resnet.io.files import json_bytes, read_folder, remove_folder, write_folder
from pocket_resnet.io.renamed import TENSORS, current_name
from pocket_resnet.model.artifact import NewerFormatError, first_fault, parse_tensors, refuse_newer_format
from pocket_resnet.model.step_folders import STATE_NAME, newest_first, step_of

FORMAT = 2
MAX_CHECKPOINT_BYTES = 4 * 1024**3
MAX_STATE_BYTES = 128 * 1024
TENSORS_NAME = "tensors.safetensors"
_log = logging.getLogger(__name__)
Seconds = Annotated[float, Field(ge=0)]


class CheckpointState(BaseModel):
    """The content of a checkpoint apart from tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    format: int = FORMAT
    """Version of this layout."""
    version: str = ""
    """Version of the program that wrote it; empty if unknown."""
    step: Annotated[int, Field(ge=0)]
    """Optimizer steps done."""
    seconds: Seconds
    """Time spent in training so far, without evaluation and saving."""
    seconds_total: Seconds = 0.0
    """Total time so far, summed over all processes that continued the run."""
    hardware: str
    """Device, threads, precision, torch, layout, algorithm; on other hardware the run resumes, but not bit-exactly."""
    data_fingerprint: str
    """Identifies the content of the data set."""
    unknown_images: bool = False
    """Whether it was also trained on images whose digests are lost."""


def save(folder: Path, state: CheckpointState, tensors: dict[str, Tensor]) -> Path:
    """Write `folder`/step-NNNNNN in one step and return it. Raises EnvironmentFault if it cannot be written."""
    path = folder / f"step-{state.step:06d}"
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_folder(path, {TENSORS_NAME: tensors_to_bytes(on_cpu), STATE_NAME: json_bytes(state.model_dump())})
    return path


def load(path: Path) -> tuple[CheckpointState, dict[str, Tensor]]:
    """A checkpoint's state and tensors, on the CPU. Raises ArtifactError naming the damaged file."""
    state = read_folder(path, (STATE_NAME,), MAX_STATE_BYTES)[STATE_NAME]
    tensors = read_folder(path, (TENSORS_NAME,), MAX_CHECKPOINT_BYTES)[TENSORS_NAME]
    try:
        values = json.loads(state)
        refuse_newer_format(values, "checkpoint", FORMAT, path)
        parsed = CheckpointState.model_validate(values)
        if parsed.step != step_of(path):
            raise ValueError(f"its state is of step {parsed.step}")
        named = {current_name(name, TENSORS): value for name, value in parse_tensors(tensors).items()}
        return parsed.model_copy(update={"format": FORMAT}), named
    except (ValidationError, ValueError, RecursionError) as error:
        raise ArtifactError(f"not a checkpoint: {first_fault(error)}", where=path) from error


def load_newest(folder: Path) -> tuple[CheckpointState, dict[str, Tensor]] | None:
    """The newest undamaged checkpoint; warns of each newer, damaged one. None if there are no checkpoints.

    Raises ArtifactError if all checkpoints are damaged, or if one has a newer format.
    """
    damaged: list[str] = []
    for path in newest_first(folder):
        try:
            loaded = load(path)
        except NewerFormatError:
            raise
        except ArtifactError as error:
            damaged.append(f"{error.where}: {error.what}")
            continue
        for line in damaged:
            _log.warning(line)
        return loaded
    if damaged:
        raise ArtifactError(
            "every checkpoint is damaged: " + "; ".join(damaged),
            where=folder,
            hint="start again under another --run name",
        )
    return None


def remove_after(folder: Path, step: int) -> None:
    """Remove the checkpoints after `step`, which are damaged."""
    for path in newest_first(folder):
        if step_of(path) > step:
            remove_folder(path)


def prune(folder: Path, keep: int, kept_steps: Collection[int] = ()) -> None:
    """Remove all but the `keep` newest checkpoints and the first one at or after each of `kept_steps`."""
    paths = newest_first(folder)
    oldest_first = paths[::-1]
    first_after = {next((path for path in oldest_first if step_of(path) >= step), None) for step in kept_steps}
    for path in paths[keep:]:
        if path not in first_after:
            remove_folder(path)
