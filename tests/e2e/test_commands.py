"""The commands as a user runs them: in their own processes, offline, with an empty home and folder."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pocket_resnet.data.datasets import open_source
from pocket_resnet.version import __version__

TRAIN = ("train", "fast", "--data", "digits", "--min-steps", "0", "--epochs", "2", "--batch-size", "256")
TRAIN_TINY = (*TRAIN, "--model.widths", "8", "16", "16", "--model.stem-width", "8", "--norm-images", "256")
RUN = "runs/fast-digits-seed0"


class User:
    """Runs commands in a folder, without this machine's proxy, mirrors or caches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1"}
        self.environment["POCKET_RESNET_MIRROR"] = "http://127.0.0.1:9"

    def __call__(self, *arguments: str, program: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [*(program or (str(Path(sys.executable).with_name("pocket-resnet")),)), *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def json(self, *arguments: str) -> Any:
        done = self(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user who has trained a run."""
    user = User(tmp_path_factory.mktemp("home"))
    done = user(*TRAIN_TINY)
    assert done.returncode == 0, done.stderr
    assert f"model       {RUN}/model" in done.stdout
    assert f"report      {RUN}/report.html" in done.stdout
    return user


def test_train_leaves_a_finished_run(user: User) -> None:
    result = json.loads((user.folder / RUN / "result.json").read_text(encoding="utf-8"))
    assert (result["epochs"], result["steps"]) == (2, 10)
    assert len((user.folder / RUN / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert [path.name for path in user.folder.iterdir() if not path.name.startswith(".")] == ["runs"]


def test_evaluate_gives_the_accuracy_of_the_run(user: User) -> None:
    evaluation = user.json("evaluate", RUN, "--json")
    result = json.loads((user.folder / RUN / "result.json").read_text(encoding="utf-8"))
    assert (evaluation["split"], evaluation["num_images"]) == ("val", 300)
    assert evaluation["accuracy"] == result["accuracy"]
    assert evaluation["interval"][0] < evaluation["accuracy"] < evaluation["interval"][1]


def test_predict_a_picture_of_a_digit(user: User) -> None:
    image_CHW = open_source("digits").split("val").images_NCHW[0]
    Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).save(user.folder / "digit.png")
    [row] = user.json("predict", RUN, "digit.png", "--top", "10", "--json")["predictions"]
    assert row["image"] == "digit.png"
    assert sorted(entry["label"] for entry in row["top"]) == sorted("0123456789")
    assert sum(entry["probability"] for entry in row["top"]) == pytest.approx(1, abs=1e-3)


def test_summary_of_the_model(user: User) -> None:
    summary = user.json("summary", RUN, "--json")
    result = json.loads((user.folder / RUN / "result.json").read_text(encoding="utf-8"))
    assert (summary["num_params"], summary["num_macs"]) == (result["num_params"], result["num_macs"])


def test_resuming_a_finished_run_changes_nothing(user: User) -> None:
    weights = (user.folder / RUN / "model" / "model.safetensors").read_bytes()
    result = user.json(*TRAIN_TINY, "--resume", "--json", "--no-report")
    assert result["steps"] == 10
    assert (user.folder / RUN / "model" / "model.safetensors").read_bytes() == weights


def test_python_m_is_the_command(user: User) -> None:
    program = (sys.executable, "-m", "pocket_resnet")
    assert user("--version", program=program).stdout == f"pocket-resnet {__version__}\n"
    refused = user("evaluate", "no-such-model", program=program)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("pocket-resnet: no-such-model: no model here")
    assert "Traceback" not in refused.stderr
