"""`make quickstart`, again and again and after an interruption."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = (
    "fast --data digits --min-steps 0 --epochs 2 --batch-size 256 --model.widths 8 16 16 --model.stem-width 8"
    " --norm-images 256 --no-report"
)


def quickstart(folder: Path) -> str:
    """Everything but setting up, with a small training."""
    variables = [f"BIN={Path(sys.executable).parent}", f"TRAIN={TRAIN}"]
    command = ["make", "--file", str(ROOT / "Makefile"), "--old-file", "setup", "quickstart", *variables]
    done = subprocess.run(command, cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.threat(41)
def test_twice_and_after_interruptions(tmp_path: Path) -> None:
    evaluation = tmp_path / "runs" / "quickstart" / "latest" / "evaluation.json"
    output = quickstart(tmp_path)
    assert "epoch 2/2" in output
    accuracy = json.loads(evaluation.read_bytes())["accuracy"]
    assert "epoch 2/2" not in quickstart(tmp_path)
    run = evaluation.parent.resolve()
    (run / "result.json").unlink()  # killed before the end of the training
    evaluation.unlink()
    (run.parent / "another").mkdir()
    evaluation.parent.unlink()
    evaluation.parent.symlink_to("another")  # which was trained meanwhile
    assert "resumed at step 10" in quickstart(tmp_path)
    assert json.loads(evaluation.read_bytes())["accuracy"] == accuracy
    evaluation.parent.unlink()
    evaluation.parent.symlink_to("another")
    assert "this run is already finished" in quickstart(tmp_path)
    assert evaluation.parent.resolve() == run
