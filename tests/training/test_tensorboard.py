"""TensorBoard's files equal metrics.jsonl and the last validation, however often a run was interrupted."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

from pocket_resnet.cli.main import main
from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training.callbacks import Callback, RunState
from pocket_resnet.training.metrics import Record, read_metrics
from pocket_resnet.training.run import Result, train
from pocket_resnet.training.run_folder import RunFolder
from pocket_resnet.training.tensorboard import NUM_PICTURES, SCALARS, TensorBoard

PICTURES = ["training/batch", "validation/confusion", "validation/mistakes"]


@pytest.fixture
def train_tiny(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> Callable[..., Result]:
    """train_tiny(max_steps=1, resume=True): a run of two epochs of two steps, tracked by default."""
    synthetic.num_val = 30  # of which a network of four steps takes some for others
    return lambda *own, resume=False, **changes: train(
        make_recipe(**{"track": True} | changes), runs_dir=tmp_path, run="r", resume=resume, callbacks=own
    )


def events(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run / "tensorboard"), size_guidance={IMAGES: 0}).Reload()


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    accumulated = events(run)
    return {
        name: [(event.step, event.value) for event in accumulated.Scalars(name)]
        for name in accumulated.Tags()["scalars"]
    }


def recorded(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The same, of metrics.jsonl; TensorBoard keeps fp32."""
    records = read_metrics(run / "metrics.jsonl")
    return {
        name: [(record["step"], pytest.approx(record[key], rel=1e-6)) for record in records if key in record]
        for key, name in SCALARS.items()
    }


def test_scalars_are_the_metrics(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    train_tiny()
    assert scalars(tmp_path / "r") == recorded(tmp_path / "r")
    assert len(scalars(tmp_path / "r")["lr"]) == 2


def test_pictures(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    train_tiny()
    accumulated = events(tmp_path / "r")
    assert sorted(accumulated.Tags()["images"]) == PICTURES
    for name in PICTURES:
        assert [event.step for event in accumulated.Images(name)] == [2, 4]
        picture = Image.open(io.BytesIO(accumulated.Images(name)[-1].encoded_image_string))
        assert picture.width == 800
        assert len(picture.convert("L").getcolors(1000) or ()) > 10


def test_tracking_changes_nothing_else(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    train_tiny()
    weights = (tmp_path / "r/model/model.safetensors").read_bytes()
    (tmp_path / "r").rename(tmp_path / "tracked")
    train_tiny(track=False)
    assert not (tmp_path / "r/tensorboard").exists()
    assert (tmp_path / "r/model/model.safetensors").read_bytes() == weights


@pytest.mark.threat(1)
def test_resumed_run_records_each_epoch_once(
    train_tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second epoch is lost after it was recorded, and trained again."""

    def crash(*_: Any) -> None:
        raise RuntimeError("pulled the plug")

    with monkeypatch.context() as patch:
        save = RunFolder.save
        patch.setattr(
            RunFolder, "save", lambda self, state, *rest: (save if state.step < 4 else crash)(self, state, *rest)
        )
        with pytest.raises(RuntimeError, match="pulled the plug"):
            train_tiny()
    assert [step for step, _ in scalars(tmp_path / "r")["lr"]] == [2, 4]
    train_tiny(resume=True)
    assert scalars(tmp_path / "r") == recorded(tmp_path / "r")
    assert [event.step for event in events(tmp_path / "r").Images("training/batch")] == [2, 4]
    assert len(list((tmp_path / "r/tensorboard").iterdir())) == 2


def test_each_epoch_is_on_disk_at_once(
    train_tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process loses no recorded epoch; checked at each save, after each step."""
    num_epochs: list[int] = []
    monkeypatch.setattr(TensorBoard, "is_due", lambda *_: False)
    monkeypatch.setattr(RunFolder, "save", lambda *_: num_epochs.append(len(scalars(tmp_path / "r").get("lr", ()))))
    train_tiny()
    assert num_epochs == [0, 1, 1, 2]


def test_tracking_may_begin_later(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    """Earlier epochs are written too."""
    train_tiny(track=False, max_steps=2)
    train_tiny(resume=True)
    assert scalars(tmp_path / "r") == recorded(tmp_path / "r")


@pytest.mark.threat(1)
@pytest.mark.parametrize("max_steps", [2, 3])
def test_resume_after_max_steps(
    max_steps: int, train_tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last record stays if only the result was lost; if the run resumes, it or its validation goes."""

    def crash(*_: Any) -> None:
        raise RuntimeError("pulled the plug")

    changes: Any = {"epochs": 3, "validate_every": 3}
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_final", crash)
        with pytest.raises(RuntimeError, match="pulled the plug"):
            train_tiny(max_steps=max_steps, **changes)
    train_tiny(resume=True, max_steps=max_steps, **changes)
    assert scalars(tmp_path / "r") == recorded(tmp_path / "r")
    assert scalars(tmp_path / "r")["accuracy/validation"][-1][0] == max_steps
    train_tiny(resume=True, **changes)
    assert scalars(tmp_path / "r") == recorded(tmp_path / "r")
    assert [step for step, _ in scalars(tmp_path / "r")["lr"]] == [2, 4, 6]
    assert [step for step, _ in scalars(tmp_path / "r")["accuracy/validation"]] == [6]


class StopAtOnce(Callback):
    def on_epoch(self, run: RunState, record: Record) -> None:  # noqa: ARG002
        run.stop()


def test_resume_after_a_callback_stopped_the_run(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    """The validation that follows the last record is written once, and removed when the run resumes."""
    changes: Any = {"epochs": 3, "validate_every": 3}
    train_tiny(StopAtOnce(), **changes)
    assert scalars(tmp_path / "r") == recorded(tmp_path / "r")
    assert [step for step, _ in scalars(tmp_path / "r")["accuracy/validation"]] == [2]
    train_tiny(resume=True, **changes)
    assert scalars(tmp_path / "r") == recorded(tmp_path / "r")
    assert [step for step, _ in scalars(tmp_path / "r")["accuracy/validation"]] == [6]


def test_picture_interval(tmp_path: Path) -> None:
    board, drawn = TensorBoard(tmp_path), []
    for step in range(0, 998):
        if step and board.is_due(step, 997):
            drawn.append(step)
            board.pictured_step = step
    assert len(drawn) == NUM_PICTURES
    assert drawn[-1] == 997


def test_without_tensorboard(
    train_tiny: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An error before any work, and only if tracking is on."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'pocket-resnet\[track\]'"):
        train_tiny()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit) as ending:
        main(["train", "fast", "--data", "digits", "--track", "--runs-dir", str(tmp_path)])
    assert ending.value.code == EnvironmentFault.exit_code
    assert capsys.readouterr().err == (
        "pocket-resnet: --track needs TensorBoard, which is not installed\n"
        "  pip install 'pocket-resnet[track]', or omit --track\n"
    )
    train_tiny(track=False)


def test_where_it_cannot_be_written(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r/tensorboard").touch()
    with pytest.raises(EnvironmentFault, match="cannot write"):
        train_tiny()
