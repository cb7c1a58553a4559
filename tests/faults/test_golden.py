"""Golden files: the same seed gives the same losses, an earlier model the same logits.

After an intended change of the losses, or on a new torch or machine, write them again:

POCKET_RESNET_GOLDEN=write .venv/bin/python -m pytest -n 0 tests/faults/test_golden.py

This also adds the present release's model if it is missing; those of earlier releases are unchanged.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pocket_resnet.device import choose, machine
from pocket_resnet.inference.evaluate import class_probabilities
from pocket_resnet.model.artifact import load_model, save_model
from pocket_resnet.model.card import Card
from pocket_resnet.model.counts import num_macs, num_params
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training.metrics import read_metrics
from pocket_resnet.training.run import train
from pocket_resnet.version import __version__

GOLDEN = Path(__file__).parent / "golden"
LOSSES = GOLDEN / "loss.json"
LOGITS = "logits.json"
NUM_EPOCHS = 6
# On another processor or torch sums are rounded in another order. With this one's vector units switched off
# (ATEN_CPU_CAPABILITY=default, DNNL_MAX_CPU_ISA=SSE41) no loss differs by more than 2e-7 of itself.
TOLERANCE = 1e-4
IS_WRITING = os.environ.get("POCKET_RESNET_GOLDEN") == "write"


def here() -> dict[str, str]:
    """What rounding depends on: processor, threads, precision, torch, and which vector units torch sees and uses."""
    flags = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")][:1]
    return {
        "machine": machine(choose("cpu", "fp32", num_threads=1)),
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "cpu_flags": hashlib.sha256("".join(flags).encode()).hexdigest()[:16],
    }


@pytest.fixture
def losses(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> dict[str, dict[str, list[float]]]:  # noqa: ARG001
    """Both losses of every epoch of a tiny run of twelve steps, with each optimizer."""
    losses = {}
    for kind in ("sgd", "muon"):
        train(make_recipe(epochs=NUM_EPOCHS, optim={"name": kind}), runs_dir=tmp_path, run=kind)
        records = read_metrics(tmp_path / kind / "metrics.jsonl")
        losses[kind] = {name: [record[name] for record in records] for name in ("train_loss", "val_nll")}
    return losses


@pytest.mark.threat(39)
def test_losses_match_the_golden_file(losses: dict[str, dict[str, list[float]]]) -> None:
    """To the last bit on the machine and torch they were made with, else within the tolerance."""
    if IS_WRITING:
        LOSSES.write_text(json.dumps({"made_on": here(), "losses": losses}, indent=2) + "\n")
    golden = json.loads(LOSSES.read_text())
    if golden["made_on"] == here():
        assert losses == golden["losses"]
    for kind, curves in golden["losses"].items():
        for name, values in curves.items():
            assert losses[kind][name] == pytest.approx(values, rel=TOLERANCE), (kind, name)


def example(spec: Any) -> torch.Tensor:
    """Four images that need no random generator, which another torch may change."""
    values = torch.arange(4 * 3 * spec.image_size**2) * 37 % 251
    return values.reshape(4, 3, spec.image_size, spec.image_size).to(torch.uint8)


@pytest.fixture
def make_model(tiny_model: ResNet, tiny_spec: Any) -> Callable[[Path], None]:
    """make_model(folder) leaves a model directory with the logits that it gives."""

    def make(folder: Path) -> None:
        tiny_model(torch.rand(8, 3, 8, 8))  # so that batch norm has statistics
        figures = {"num_params": num_params(tiny_spec), "num_macs": num_macs(tiny_spec), "train_flops": 10**9}
        counts = {"seed": 0, "epochs": 2, "steps": 4, "num_images": 6, "seconds": 1.5}
        texts = {"version": __version__, "data": "digits", "recipe": "tiny", "machine": "x", "split": "val"}
        card = Card(
            spec=tiny_spec,
            class_names=("1", "10", "2"),
            flip_invariant=False,
            train_on="train",
            accuracy=0.5,
            interval=(0.2, 0.8),
            **figures,
            **counts,
            **texts,
        )
        save_model(folder, tiny_model, card)
        (folder / LOGITS).write_text(json.dumps(logits(folder).tolist()) + "\n")

    return make


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    model, card = load_model(folder)
    logits_NK: torch.Tensor = model(example(card.spec).float() / 255)
    return logits_NK


@pytest.mark.threat(10)
def test_models_of_all_releases_give_the_same_logits(make_model: Callable[[Path], None]) -> None:
    """Also the same class names and probabilities."""
    if IS_WRITING and not (GOLDEN / f"model-{__version__}").exists():
        make_model(GOLDEN / f"model-{__version__}")
    folders = sorted(GOLDEN.glob("model-*"))
    assert GOLDEN / "model-0.1.0" in folders
    for folder in folders:
        stored = torch.tensor(json.loads((folder / LOGITS).read_text()))
        assert torch.allclose(logits(folder), stored, atol=1e-5), folder
        model, card = load_model(folder)
        assert card.class_names == ("1", "10", "2")
        probabilities_NK = class_probabilities(model, example(card.spec), choose("cpu"))
        assert torch.allclose(probabilities_NK, stored.softmax(1), atol=1e-5)
