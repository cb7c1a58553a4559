"""The GPU run's rehearsal: on the CPU, at tiny size, from the timings to the released model."""

import os
import signal
import sys
import tarfile
import time
from pathlib import Path

import pytest

from pocket_resnet.errors import Stopped
from pocket_resnet.inference.evaluate import evaluate_model
from pocket_resnet.model.artifact import load_card, parse_tensors
from pocket_resnet.recipe.toml import load_recipe, override, to_toml
from tools import gpu_run
from tools.gpu_run import Timings, epochs_that_fit

TINY = {
    "model.num_blocks": [1, 1, 1],
    "model.widths": [8, 8, 16],
    "model.stem_width": 8,
    "batch_size": 100,
    "norm_images": 100,
    "validate_every": 1,
    "train_image_sizes": [8, 16],
    "model.image_size": 32,
}


@pytest.fixture
def rehearse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command's words for a tiny network on the digits; what is timed and reserved is tiny too."""
    tiny = {"NUM_IMAGES": 1200, "WARM_UP_STEPS": 1, "TIMED_STEPS": 2, "START_S": 0.0, "PARTIAL_EVERY_S": 0.2}
    for name, value in (tiny | {"END_S": 0.0, "MATRIX": 512}).items():
        monkeypatch.setattr(gpu_run, name, value)
    (tmp_path / "tiny.toml").write_text(to_toml(override(load_recipe("pocket-5m"), TINY)))
    monkeypatch.setattr(gpu_run, "epochs_that_fit", lambda *_: 2)
    words = ["gpu_run", str(tmp_path / "tiny.toml"), "--data", "digits", "--no-compile"]
    return [*words, "--out", str(tmp_path / "out"), "--runs-dir", str(tmp_path / "runs")]


def test_rehearsal_releases_a_model(
    rehearse: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timings = tmp_path / "timings.json"
    monkeypatch.setattr(sys, "argv", [*rehearse, "--timings", str(timings), "--only-time"])
    gpu_run.main()
    assert not (tmp_path / "out").exists()
    assert "8 px:" in capsys.readouterr().out

    monkeypatch.setattr(sys, "argv", [*rehearse, "--timings", str(timings)])
    gpu_run.main()
    assert "8 px:" not in capsys.readouterr().out  # timed once
    card = load_card(tmp_path / "out" / "model")
    assert (card.weights, card.epochs) == ("fp16", 2)
    assert evaluate_model(tmp_path / "out" / "model").accuracy == card.accuracy
    with tarfile.open(tmp_path / "out" / "run.tar") as archive:
        assert sorted(archive.getnames()) == ["metrics.jsonl", "recipe.toml", "result.json"]
    assert not (tmp_path / "out" / "partial.safetensors").exists()


def test_a_run_past_its_deadline_leaves_its_weights(
    rehearse: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_run, "epochs_that_fit", lambda *_: 100_000)
    monkeypatch.setattr(sys, "argv", [*rehearse, "--minutes", "0.05"])
    with pytest.raises(Stopped):
        gpu_run.main()
    weights = parse_tensors((tmp_path / "out" / "partial.safetensors").read_bytes())
    assert weights["head.weight"].shape == (10, 16)
    assert all(value.dtype.itemsize == 2 for value in weights.values() if value.is_floating_point())


@pytest.mark.parametrize("where", ["open_source", "result_of"])
def test_deadline_outside_of_steps_leaves_the_files_so_far(
    where: str, rehearse: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While data are read, or while the last state is evaluated and saved."""

    def stuck(*_: object, **__: object) -> None:
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s:
            time.sleep(0.05)
        pytest.fail("nothing stopped it")

    mine: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: mine.append(number))
    try:
        monkeypatch.setattr(f"pocket_resnet.training.run.{where}", stuck)
        monkeypatch.setattr(sys, "argv", [*rehearse, "--minutes", "0.05"])
        with pytest.raises(Stopped) as raised:
            gpu_run.main()
        assert (raised.value.exit_code, mine) == (143, [])
        os.kill(os.getpid(), signal.SIGTERM)  # the caller's handler is back
        assert mine == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, previous)
    is_trained = where != "open_source"
    with tarfile.open(tmp_path / "out" / "run.tar") as archive:
        assert ("metrics.jsonl" in archive.getnames()) == is_trained
    assert (tmp_path / "out" / "partial.safetensors").exists() == is_trained


def test_epochs_fill_the_time_that_is_left() -> None:
    """90 steps an epoch, 8 ms each at 24 pixels for two fifths of the run, 12 ms at 32: 0.936 s an epoch."""
    recipe = load_recipe("pocket-5m")
    timings = Timings("a GPU", {"24": 0.008, "32": 0.012}, 48_000, 2e14, 8e14)
    seconds = 0.936 * 500 / gpu_run.SAFETY + gpu_run.START_S + gpu_run.END_S
    assert epochs_that_fit(recipe, timings, seconds + 0.01) == 500
    assert epochs_that_fit(recipe, timings, 1.0) == 1
    assert timings.share == 0.25
