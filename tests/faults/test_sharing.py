"""Two or three processes train as one does, each working on its share of the images, with one exchange a step."""

import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pocket_resnet.data.augment import Augmenter
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training import run as run_module
from pocket_resnet.training.metrics import read_metrics
from pocket_resnet.training.result import result_of
from pocket_resnet.training.run import train
from pocket_resnet.training.trainer import Trainer

# Several processes add up in another order than one. After eight steps of SGD no weight differs by more than this.
TOLERANCE = 1e-4

EVERYTHING: dict[str, Any] = {
    "augment": {
        **{"crop_px": 1, "flip": "alternating", "trivial_augment": True, "cutout_px": 2},
        **{"random_erasing": 0.5, "mixup": 0.5, "cutmix": 0.5},
    },
    "optim": {"name": "sgd", "lr": 0.05, "nesterov": False, "momentum": 0.9, "lookahead_steps": 3},
    "norm_images": 15,
    "epochs": 4,
}
HARD = EVERYTHING | {"hard_fraction": 0.7, "augment": EVERYTHING["augment"] | {"mixup": 0.0, "cutmix": 0.0}}
TAUGHT = EVERYTHING | {"teacher": {"weight": 0.6, "temperature": 2.0, "epochs": 2}}


@pytest.fixture(autouse=True)
def _odd(synthetic: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """15 images: batches of 8 and 7, which neither two nor three processes share evenly; norms in 4 batches."""
    synthetic.num_train = 15
    monkeypatch.setattr("pocket_resnet.data.loader.NORM_BATCH", 4)


@pytest.fixture
def train_apart(make_recipe: Callable[..., Recipe], start_ranks: Any, tmp_path: Path) -> Callable[..., Path]:
    """train_apart(3, **recipe) trains with three processes; returns the run's folder."""

    def train_tiny(world_size: int, **changes: Any) -> Path:
        recipe = make_recipe(**changes)

        def work(_rank: int) -> None:
            train(recipe, runs_dir=tmp_path / "runs", run=str(world_size), data_dir=tmp_path / "data")

        assert [rank.wait() for rank in start_ranks(work, world_size)] == [0] * world_size
        return tmp_path / "runs" / str(world_size)

    return train_tiny


def state(run: Path) -> dict[str, Tensor]:
    [saved] = sorted((run / "checkpoints").iterdir())[-1:]
    return load_file(saved / "tensors.safetensors")


@pytest.mark.threat(65)
@pytest.mark.parametrize("case", ["everything", "hard examples", "a teacher"])
def test_sharing_gives_the_same_training(case: str, train_apart: Any, train_on: Any) -> None:
    """Losses, weights, averages, statistics, and which images are hard; drops, mixing and every augmentation are on."""
    changes = {"everything": EVERYTHING, "hard examples": HARD, "a teacher": TAUGHT}[case]
    if case == "a teacher":
        teacher = train_on("synthetic", run="teacher").model
        changes = changes | {"teacher": changes["teacher"] | {"model": teacher}}
    one, *others = (train_apart(world_size, **changes) for world_size in (1, 2, 3))
    alone, result = state(one), json.loads((one / "result.json").read_text())
    assert result["steps"] == 8
    for several in others:
        together = state(several)
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, atol=TOLERANCE, rtol=TOLERANCE, msg=f"{several} {name}")
        for record, expected in zip(*(read_metrics(run / "metrics.jsonl") for run in (several, one)), strict=True):
            assert record | {"seconds": 0} == pytest.approx(expected | {"seconds": 0}, rel=TOLERANCE)
        for key in ("accuracy", "images_seen", "train_flops"):
            assert json.loads((several / "result.json").read_text())[key] == result[key]


@pytest.mark.threat(66)
def test_each_works_on_its_share(train_apart: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each process gets 4 of a batch of 8 and 4 or 3 of a batch of 7, also for norms, and 3 of 6 validation images."""
    augmented: list[int] = []
    validated: list[int] = []
    augment, validate = Augmenter.__call__, run_module.class_probabilities

    def note_augmented(self: Augmenter, images_BCHW: Tensor, *rest: Any) -> Tensor:
        augmented.append(len(images_BCHW))
        return augment(self, images_BCHW, *rest)

    def note_validated(model: Any, images_NCHW: Tensor, hardware: Any, **choices: Any) -> Tensor:
        validated.append(len(images_NCHW))
        return validate(model, images_NCHW, hardware, **choices)

    def write(trainer: Trainer, *rest: Any, **also: Any) -> Any:
        numbers = {"augmented": torch.tensor(augmented), "validated": torch.tensor(validated)}
        save_file(numbers, tmp_path / f"rank-{trainer.processes.rank}")
        return result_of(trainer, *rest, **also)

    monkeypatch.setattr(Augmenter, "__call__", note_augmented)
    monkeypatch.setattr(run_module, "class_probabilities", note_validated)
    monkeypatch.setattr(run_module, "result_of", write)
    train_apart(2, epochs=1, norm_images=15, augment={"mixup": 0.0})
    sizes = [{name: x.tolist() for name, x in load_file(tmp_path / f"rank-{rank}").items()} for rank in (0, 1)]
    assert [each["validated"] for each in sizes] == [[3], [3]]
    assert [each["augmented"] for each in sizes] == [[4, 4, 4, 4], [4, 3, 4, 3]]


@pytest.mark.threat(66)
def test_a_step_exchanges_gradients_and_norms_alone(
    train_apart: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every norm gathers once and sums once, and all gradients, losses and signals are one more sum."""
    step = Trainer.train_step

    def profiled(self: Trainer, *signals: Any) -> int:
        if self.step < 4:  # in the second step torch orders the gradients by when they came in the first
            return step(self, *signals)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            count = step(self, *signals)
        events = [event.name for event in profile.events() if event.name.startswith(("gloo:", "nccl:", "c10d::"))]
        num_norms = sum(isinstance(module, nn.BatchNorm2d) for module in self.model.modules())
        (tmp_path / f"rank-{self.processes.rank}.json").write_text(json.dumps([events, num_norms]))
        return count

    monkeypatch.setattr(Trainer, "train_step", profiled)
    train_apart(2, **HARD)
    for rank in (0, 1):
        events, num_norms = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert num_norms == 6
        counts = collections.Counter(name for name in events if name.startswith("gloo:"))
        assert counts == {"gloo:all_gather": num_norms, "gloo:all_reduce": num_norms + 1}, events
