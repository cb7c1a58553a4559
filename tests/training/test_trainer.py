"""A training step against the same step written out in plain torch.

Shapes: B images per batch, C channels, H x W pixels, K classes.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pocket_resnet.data.augment import Targets
from pocket_resnet.data.loader import Loader, epoch_order
from pocket_resnet.data.source import Source
from pocket_resnet.device import Hardware
from pocket_resnet.errors import NonFiniteError
from pocket_resnet.model import winograd
from pocket_resnet.model.conv3x3 import Conv3x3, allow_algorithms
from pocket_resnet.model.resnet import ResNet, initialise
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training import trainer as trainer_module
from pocket_resnet.training.trainer import EpochTotals, Trainer, balanced_weights, first_non_finite, mixed_cross_entropy

CPU = Hardware(torch.device("cpu"), "fp32", channels_last=True)


@pytest.fixture
def make_trainer(make_recipe: Callable[..., Recipe], source: Source) -> Callable[..., Trainer]:
    """make_trainer(batch_size=4): a fresh network, always the same, on the 14 synthetic training images."""

    def make(**changes: Any) -> Trainer:
        recipe = make_recipe(**changes)
        model = ResNet(recipe.model)
        initialise(model, "default", torch.Generator().manual_seed(0))
        return Trainer(CPU.place(model), Loader(source.split("train"), recipe, CPU, model.normalize.mean))

    return make


PLAIN: dict[str, Any] = {
    "augment": {"crop_px": 0, "flip": "none", "mixup": 0.0, "cutout_px": 0},
    "optim": {"name": "sgd", "lookahead_steps": 0, "nesterov": False, "momentum": 0.0, "weight_decay": 0.0},
    "ema": {"decay": 0.0},
    "train_image_sizes": (),
}


def test_step_is_the_plain_torch_step(
    make_trainer: Callable[..., Trainer], tiny_spec: Any, tiny_model: ResNet, source: Source
) -> None:
    """Order, 0..1 scale, loss with smoothed labels, cosine learning rate, batch norm in training mode."""
    trainer = make_trainer(model=tiny_spec, **PLAIN)
    split = source.split("train")
    for step in range(4):
        trainer.train_step()
        order_N = epoch_order(14, 0, step // 2)
        indices_B = order_N[8 * (step % 2) :][:8]
        tiny_model.train()
        logits_BK = tiny_model(split.images_NCHW[indices_B] / 255)
        loss = F.cross_entropy(logits_BK, split.labels_N[indices_B], label_smoothing=0.1)
        tiny_model.zero_grad()
        loss.backward()
        lr = 0.05 * (1 + torch.cos(torch.tensor(torch.pi * step / 4)).item()) / 2
        with torch.no_grad():
            for parameter in tiny_model.parameters():
                parameter -= lr * parameter.grad
        for name, value in tiny_model.state_dict().items():
            assert torch.allclose(trainer.model.state_dict()[name], value, atol=1e-5), (step, name)
    assert trainer.step == 4


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_algorithms_are_the_hardwares_choice(
    make_recipe: Callable[..., Recipe], source: Source, used: bool, side_by_side: bool
) -> None:
    model = ResNet(NetworkSpec())
    allow_algorithms(model, winograd_in="evaluation", side_by_side=not side_by_side)
    hardware = replace(CPU, winograd=used, side_by_side=side_by_side)
    loader = Loader(source.split("train"), make_recipe(), hardware, model.normalize.mean)
    convs = [module for module in Trainer(model, loader).model.modules() if isinstance(module, Conv3x3)]
    assert {conv.winograd_in for conv in convs} == {"training" if used else None}
    assert {conv.side_by_side for conv in convs} == {side_by_side}


@pytest.mark.usefixtures("everywhere")
def test_a_step_with_winograd_is_the_plain_one_but_for_rounding(make_trainer: Callable[..., Trainer]) -> None:
    with_it, without = make_trainer(), make_trainer()
    allow_algorithms(with_it.model, winograd_in="training")
    for _ in range(2):
        with_it.train_step()
        without.train_step()
    assert with_it.epoch_totals().loss != without.epoch_totals().loss
    assert with_it.epoch_totals().loss == pytest.approx(without.epoch_totals().loss, rel=1e-4)


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's algorithm is used for all convolutions that it can compute, also where it is slower."""
    for name in ("MIN_MEAN_CHANNELS", "MIN_SHARE", "MIN_TILES"):
        monkeypatch.setattr(winograd, name, 0)


def test_epochs_steps_and_learning_rate(make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(schedule={"shape": "linear"})
    seen: list[tuple[int, float]] = []
    monkeypatch.setattr(trainer.optimizer, "step", lambda step, lr_factor: seen.append((step, round(lr_factor, 9))))
    epochs = []
    for _ in range(4):
        trainer.train_step()
        epochs.append(trainer.steps.epoch(trainer.step))
    assert seen == [(0, 1.0), (1, 0.75), (2, 0.5), (3, 0.25)]
    assert epochs == [0, 1, 1, 2]
    assert [round(trainer.lr(step), 9) for step in range(5)] == [0.05, 0.0375, 0.025, 0.0125, 0]
    assert trainer.steps.total == 4


def test_class_weights_are_those_of_the_training_images(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(class_weights="balanced")
    assert trainer.class_weights_K is not None
    assert torch.equal(trainer.class_weights_K, balanced_weights(trainer.loader.labels_N, 3))
    plain = make_trainer()
    assert plain.class_weights_K is None
    for each in (trainer, plain):
        each.train_step()
    assert trainer.epoch_totals().loss != plain.epoch_totals().loss  # 5, 5 and 4 images


def test_totals(make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Means over the epoch's images, a smaller last batch counting less."""
    seen: list[tuple[float, int, int]] = []

    def note(logits_BK: Tensor, targets: Targets, *rest: Any) -> Tensor:
        loss = mixed_cross_entropy(logits_BK, targets, *rest)
        hits = (logits_BK.argmax(1) == targets.labels_B).sum()
        seen.append((float(loss.detach()), int(hits), len(logits_BK)))
        return loss

    monkeypatch.setattr("pocket_resnet.training.trainer.mixed_cross_entropy", note)
    trainer = make_trainer()
    assert trainer.epoch_totals() == EpochTotals(0, 0, 0)
    for _ in range(2):
        trainer.train_step()
    totals = trainer.epoch_totals()
    assert totals.num_images == 14
    assert totals.loss == pytest.approx(sum(loss * count for loss, _, count in seen) / 14, abs=1e-6)
    assert totals.accuracy == pytest.approx(sum(hits for _, hits, _ in seen) / 14)
    trainer.end_epoch()
    assert trainer.epoch_totals() == EpochTotals(0, 0, 0)


@pytest.mark.threat(1)
@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(
    ("hard_fraction", "until", "by_winograd"),
    [(1.0, 1.0, False), (0.6, 1.0, False), (0.6, 0.5, False), (1.0, 1.0, True)],
)
def test_state_is_complete(
    hard_fraction: float, until: float, by_winograd: bool, make_trainer: Callable[..., Trainer]
) -> None:
    """A new trainer with the saved tensors and step continues exactly, from any step."""
    for num_before in range(4):
        changes = {"hard_fraction": hard_fraction, "hard_until": until} | (
            {} if hard_fraction == 1 else {"augment": {"mixup": 0.0}}
        )
        whole, resumed = make_trainer(**changes), make_trainer(**changes)
        for trainer in (whole, resumed):
            allow_algorithms(trainer.model, winograd_in="training" if by_winograd else None)
        for _ in range(num_before):
            whole.train_step()
        resumed.load_tensors({name: value.clone() for name, value in whole.tensors().items()}, whole.step)
        while whole.step < 4:
            whole.train_step()
            resumed.train_step()
        first, second = whole.tensors(), resumed.tensors()
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())
        assert whole.epoch_totals() == resumed.epoch_totals()


@pytest.mark.parametrize("part", ["dropout", "drop_path"])
def test_dropout_depends_on_seed_and_step_alone(
    part: str, make_trainer: Callable[..., Trainer], tiny_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else is fixed: order, initial weights, learning rate."""

    def weights(noise: int, step: int = 0, seed: int = 0, chance: float = 0.5) -> Tensor:
        spec = replace(tiny_spec, **{part: chance})
        trainer = make_trainer(model=spec, seed=seed, schedule={"shape": "constant"}, **PLAIN)
        trainer.step = step
        monkeypatch.setattr(trainer.loader, "batch", lambda _: batch)
        torch.manual_seed(noise)
        trainer.train_step()
        return trainer.model.head.weight.detach()

    batch = make_trainer(model=tiny_spec, **PLAIN).loader.batch(0)
    assert torch.equal(weights(1), weights(2))
    assert not torch.equal(weights(1), weights(1, chance=0.0))
    for changes in ({"step": 1}, {"seed": 1}):
        assert torch.equal(weights(1, chance=0.0), weights(1, chance=0.0, **changes))
        assert not torch.equal(weights(1), weights(1, **changes))


def test_only_the_hardest_are_trained(make_trainer: Callable[..., Trainer], tiny_spec: Any) -> None:
    """First those never trained, then the half of a step's candidates with the highest last loss."""
    frozen = PLAIN | {"optim": PLAIN["optim"] | {"lr": 0.0}}
    trainer = make_trainer(model=tiny_spec, hard_fraction=0.5, batch_size=7, epochs=3, **frozen)
    loss_N = torch.empty(14)
    for step in range(2):
        indices_B = trainer.loader.indices(step)
        with torch.no_grad():
            logits_BK = trainer.model.train()(trainer.loader.images_NCHW[indices_B] / 255)
        loss_N[indices_B] = F.cross_entropy(logits_BK, trainer.loader.labels_N[indices_B], reduction="none")
        trainer.train_step()
        assert trainer.epoch_totals().num_images == 7 * (step + 1)
    assert torch.allclose(trainer.loader.selection.loss_N, loss_N, atol=1e-5)
    assert set(trainer.loader.indices(2).tolist()) == set(loss_N.topk(7).indices.tolist())


def test_an_image_is_mirrored_every_second_time_it_is_trained(make_trainer: Callable[..., Trainer]) -> None:
    """With hard_fraction: by its own visits, not by the epochs."""
    changes = PLAIN | {"augment": PLAIN["augment"] | {"flip": "alternating"}}
    trainer = make_trainer(hard_fraction=0.5, batch_size=7, epochs=6, **changes)
    flips: dict[int, list[bool]] = {}
    while trainer.step < trainer.steps.total:
        indices_B = trainer.loader.indices(trainer.step)
        x_BCHW = trainer.loader.batch(trainer.step).x_BCHW
        for index, shown_CHW in zip(indices_B.tolist(), x_BCHW, strict=True):
            image_CHW = trainer.loader.images_NCHW[index] / 255
            flipped = torch.equal(shown_CHW, image_CHW.flip(-1))
            assert flipped or torch.equal(shown_CHW, image_CHW)
            flips.setdefault(index, []).append(flipped)
        trainer.train_step()
    assert any(len(seen) < 6 for seen in flips.values())
    assert all(now != before for seen in flips.values() for before, now in itertools.pairwise(seen))


@pytest.mark.threat(14)
def test_non_finite_gradient_leaves_everything(make_trainer: Callable[..., Trainer]) -> None:
    """Weights, momentum and average are unchanged."""
    trainer = make_trainer()
    trainer.train_step()
    kept = {n: v.clone() for n, v in trainer.tensors().items() if "running" not in n and "num_batches" not in n}
    trainer.model.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteError, match=r"step 1, lr"):
        trainer.train_step()
    assert trainer.step == 1
    assert all(torch.equal(trainer.tensors()[name], value) for name, value in kept.items())


@pytest.mark.threat(14)
def test_on_a_gpu_the_first_bad_step_is_reported_on_request(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps do not wait for the device; it is checked before anything is saved."""
    monkeypatch.setattr(Hardware, "is_asynchronous", True)
    trainer = make_trainer()
    trainer.train_step()
    trainer.refuse_non_finite()
    trainer.model.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    for _ in range(2):
        trainer.train_step()
    with pytest.raises(NonFiniteError, match="stopped without saving it") as raised:
        trainer.refuse_non_finite()
    assert str(raised.value.where).startswith("step 1, lr")
    monkeypatch.setattr(trainer_module, "CHECK_EVERY", 4)
    with pytest.raises(NonFiniteError, match="stopped without saving it"):
        trainer.train_step()


def test_first_non_finite() -> None:
    fine = {"a": torch.ones(3), "n": torch.tensor(3)}
    assert first_non_finite(fine) is None
    for value in (float("nan"), float("inf")):
        assert first_non_finite(fine | {"b": torch.tensor([0, value])}) == "b"


def test_a_window_counts_the_steps_of_the_whole_run(make_trainer: Callable[..., Trainer]) -> None:
    """Also where max_steps ends it earlier, as the schedule does."""
    trainer = make_trainer(epochs=10, max_steps=4, ema={"decay": 0.0, "window": 0.25})
    assert trainer.ema.decay == pytest.approx(1 - 1 / 5)
