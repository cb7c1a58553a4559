"""Fixtures for all tests: one thread, isolated folders, child processes, and a run that takes a tenth of a second."""

import shutil
import signal
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

import hub_server
from children import start_child, start_ranks  # noqa: F401 - fixtures
from hostile import CLASS_NAMES
from painted import paint
from pocket_resnet.cli.main import main
from pocket_resnet.data.source import Source, Split, Verification
from pocket_resnet.io.download import Patience, fetch_bytes
from pocket_resnet.model.resnet import ResNet, initialise
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import to_toml
from pocket_resnet.training.run import Result, train

SPEC = NetworkSpec(
    num_classes=3,
    image_size=8,
    stem_width=4,
    num_blocks=(1, 1),
    widths=(4, 8),
    kernel_sizes=(3, 3),
    shortcut_kernel_sizes=(1, 1),
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NUM_TRAIN, NUM_VAL, NUM_TEST = 14, 6, 5


def pytest_configure() -> None:
    """Restore signals that nohup and background jobs ignore, so that the tests' children receive them."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _isolated(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from or written to the user's folders, and figures do not depend on the machine's cores."""
    torch.set_num_threads(1)
    if not any("POCKET_RESNET_DATA" in str(mark.args) for mark in request.node.iter_markers("skipif")):
        monkeypatch.setenv("POCKET_RESNET_DATA", str(tmp_path / "data"))  # others are there for the real images
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a forked child hangs where its parent has computed with more
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


class Synthetic(Source):
    """Three classes of noise, each brighter in its own channel."""

    name = "synthetic"
    class_names = ("red", "green", "blue")
    image_size = SPEC.image_size
    fingerprint = "synthetic-1"
    where = "memory"
    num_train = NUM_TRAIN
    num_val = NUM_VAL
    num_test = NUM_TEST

    def __init__(self) -> None:
        self._openings: list[str] = []  # which copies share

    @property
    def num_test_opened(self) -> int:
        return len(self._openings)

    def trainval(self) -> Split:
        return self._draw(self.num_train + self.num_val, seed=1)

    def test(self) -> Split:
        self._openings.append("test")
        return self._draw(NUM_TEST, seed=2)

    def verify(self) -> Verification:
        return Verification(0)

    def _draw(self, count: int, seed: int) -> Split:
        draws = torch.Generator().manual_seed(seed)
        images_NCHW = torch.randint(0, 156, (count, 3, 8, 8), generator=draws).to(torch.uint8)
        labels_N = torch.arange(count) % 3
        images_NCHW[torch.arange(count), labels_N] += 100
        return Split(images_NCHW, labels_N)


@pytest.fixture
def synthetic(monkeypatch: pytest.MonkeyPatch) -> Synthetic:
    """Training and evaluation open a copy of this data set, whatever name they request; tests may change its fields."""
    synthetic = Synthetic()
    for module in ("training.run", "inference.evaluate", "training.saved_run", "tuning.trials"):
        monkeypatch.setattr(f"pocket_resnet.{module}.open_source", lambda *_, **__: copy(synthetic))
    return synthetic


@pytest.fixture
def source() -> Source:
    return Synthetic()


@pytest.fixture
def tiny_spec() -> NetworkSpec:
    return SPEC


@pytest.fixture
def tiny_model() -> ResNet:
    model = ResNet(SPEC)
    initialise(model, "default", torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    """make_recipe(batch_size=4, optim={"lr": 1.0}): two epochs of two steps, with every kind of state switched on."""

    def make(**changes: Any) -> Recipe:
        values: dict[str, Any] = {
            "name": "tiny",
            "epochs": 2,
            "batch_size": 8,
            "train_image_sizes": (6, 8),
            "label_smoothing": 0.1,
            "norm_images": 5,
            "model": replace(SPEC, dropout=0.1, drop_path=0.1),
            "augment": {"crop_px": 1, "flip": "alternating", "mixup": 0.5, "cutout_px": 2},
            "optim": {"name": "muon", "lr": 0.05, "muon_lr": 0.05, "lookahead_steps": 3, "nesterov": True},
            "ema": {"decay": 0.9},
            "hardware": {"device": "cpu", "precision": "fp32", "num_threads": 1},
            "checkpoint": {"every_s": 0.0},
        }
        for key, value in changes.items():
            values[key] = values.get(key, {}) | value if isinstance(value, dict) else value
        return Recipe.model_validate(values)

    return make


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """run("summary", "original") gives exit code, standard output, standard error."""

    def run_main(*arguments: object) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_main


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the package logs, from INFO on, as the command shows it."""
    caplog.set_level("INFO", "pocket_resnet")
    return caplog


@pytest.fixture
def recipe_path(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(make_recipe()))
    return path


@pytest.fixture
def trained(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> Path:  # noqa: ARG001
    train(make_recipe(max_steps=1), runs_dir=tmp_path / "runs", run="r")
    return tmp_path / "runs" / "r"


@pytest.fixture
def train_hostile(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> Callable[..., Path]:
    """train_hostile("r", seed=1) trains a tiny run of hostile class names and gives its folder."""
    synthetic.class_names, synthetic.num_val = CLASS_NAMES, 30

    def make(run: str, **changes: Any) -> Path:
        train(make_recipe(**changes), runs_dir=tmp_path / "runs", run=run)
        return tmp_path / "runs" / run

    return make


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[hub_server.Hub]:
    """An empty hub on this machine that huggingface_hub talks to, with the user's token, and without retries."""
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patience = Patience(connect_s=2, stall_s=0.5, deadline_s=5, num_rounds=2, backoff_s=0.01)
    monkeypatch.setattr("pocket_resnet.io.hub.fetch_bytes", partial(fetch_bytes, patience=patience))
    with hub_server.serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return paint(tmp_path / "pictures")


@pytest.fixture
def train_on(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Result]:
    """train_on("pictures", max_steps=2) trains run `r`, or resumes it; resume and fork are those of `train`."""

    def make(data: str | Path, *, resume: bool = False, fork: bool = False, run: str = "r", **changes: Any) -> Result:
        recipe = make_recipe(**{"max_steps": 1} | changes | {"data": {"name": str(data)}})
        return train(recipe, runs_dir=tmp_path / "runs", run=run, resume=resume, fork=fork)

    return make


@pytest.fixture
def run_folder(train_on: Callable[..., Result], pictures: Path, tmp_path: Path) -> Path:
    train_on(pictures)
    return tmp_path / "runs" / "r"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by playwright; the test is skipped without it."""
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()
