"""A signal while a teacher's predictions are computed, and the progress shown meanwhile."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pocket_resnet.errors import Stopped
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training import callbacks, checkpoint
from pocket_resnet.training.run import train
from pocket_resnet.training.teacher import Teacher

NUM_IMAGES, BATCH = 14, 5  # three batches an epoch


@pytest.fixture
def predicted_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that the teacher has predicted."""
    sizes: list[int] = []
    answer = Teacher._forward

    def note(self: Teacher, view_BCHW: Tensor) -> Tensor:
        sizes.append(len(view_BCHW))
        return answer(self, view_BCHW)

    monkeypatch.setattr("pocket_resnet.data.loader.TEACHER_BATCH", BATCH)
    monkeypatch.setattr(Teacher, "_forward", note)
    return sizes


@pytest.fixture
def train_tiny(make_recipe: Callable[..., Recipe], trained: Path, synthetic: Any, tmp_path: Path) -> Callable[..., Any]:  # noqa: ARG001
    """train_tiny("r") trains a student of the run `r`: two epochs of two steps."""
    recipe = make_recipe(teacher={"model": str(trained)}, checkpoint={"every_s": 1e9})
    return lambda name, resume=False: train(recipe, runs_dir=tmp_path, run=name, resume=resume)


@pytest.mark.threat(4)
@pytest.mark.parametrize(("batch", "step", "num_cached"), [(1, 0, 0), (3, 0, 0), (5, 2, 1)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_before_the_next_batch(
    batch: int,
    step: int,
    num_cached: int,
    number: signal.Signals,
    train_tiny: Callable[..., Any],
    predicted_batches: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It saves and reports what is kept; the resumed run ends with the weights of an uninterrupted one."""
    with monkeypatch.context() as patch:
        patch.setattr(
            callbacks.ProgressBar,
            "on_teacher",
            lambda *_: len(predicted_batches) == batch and os.kill(os.getpid(), number),
        )
        with pytest.raises(Stopped) as raised:
            train_tiny("cut")
    kept = f"saving step {step}; the teacher's predictions for {num_cached} epoch(s) are cached\n  resume with: pocket"
    assert f"stopped by {number.name} after {kept}" in str(raised.value)
    assert raised.value.exit_code == 128 + number
    assert len(predicted_batches) == batch
    assert len(list(tmp_path.glob("data/teachers/*/epoch-*"))) == num_cached
    train_tiny("cut", resume=True)
    assert len(predicted_batches) == batch + 6 - 3 * num_cached
    train_tiny("whole")
    states = [checkpoint.load_newest(tmp_path / name / "checkpoints") for name in ("whole", "cut")]
    (state, tensors), (_, resumed) = [saved or pytest.fail("nothing saved") for saved in states]
    assert state.step == 4
    assert all(torch.equal(value, resumed[name]) for name, value in tensors.items())


def test_progress(
    train_tiny: Callable[..., Any],
    predicted_batches: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(callbacks, "PLAIN_LINE_EVERY_S", 0.0)
    train_tiny("r")
    lines = [line for line in capsys.readouterr().err.splitlines() if "teacher" in line and "images" in line]
    what = "the teacher's predictions for epoch {} of 2: {} of 14 images"
    assert lines == [what.format(epoch, done) for epoch in (1, 2) for done in (5, 10, 14)]
    assert sum(predicted_batches) == 2 * NUM_IMAGES
