"""Valid states of a checkpoint; damage is in faults/test_checkpoints.py."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pocket_resnet.errors import ArtifactError
from pocket_resnet.io.files import write_folder
from pocket_resnet.model.step_folders import STATE_NAME
from pocket_resnet.training import checkpoint
from pocket_resnet.training.checkpoint import TENSORS_NAME, CheckpointState

STATE: dict[str, Any] = {
    "step": 3,
    "seconds": 0.0,
    "hardware": "x",
    "data_fingerprint": "y",
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path, CheckpointState(**STATE), {"a": torch.zeros(2)})


def test_saving_again_replaces(saved: Path) -> None:
    """A step reached again after a fallback is written again."""
    again = checkpoint.save(saved.parent, CheckpointState(**STATE), {"a": torch.ones(2)})
    assert again == saved
    assert checkpoint.load(saved)[1]["a"].tolist() == [1, 1]


@pytest.mark.threat(30)
@pytest.mark.parametrize(
    "change",
    [{"step": "3"}, {"step": None}, {"seconds": "x"}, {"unknown": 1}, {"format": "1"}, {"hardware": 5}, {"step": 1.5}],
)
def test_wrong_state(change: dict[str, Any], saved: Path) -> None:
    """Refused in spite of matching sums."""
    tensors = (saved / TENSORS_NAME).read_bytes()
    state = json.loads((saved / STATE_NAME).read_text()) | change
    write_folder(saved, {TENSORS_NAME: tensors, STATE_NAME: json.dumps(state).encode()})
    with pytest.raises(ArtifactError, match="not a checkpoint") as raised:
        checkpoint.load(saved)
    assert raised.value.where == saved
    assert str(raised.value).count("\n") == 1  # and how to fix it


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_state_that_is_no_object(content: bytes, saved: Path) -> None:
    write_folder(saved, {TENSORS_NAME: (saved / TENSORS_NAME).read_bytes(), STATE_NAME: content})
    with pytest.raises(ArtifactError, match="not a checkpoint"):
        checkpoint.load(saved)
