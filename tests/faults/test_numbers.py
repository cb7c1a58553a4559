"""NaN, infinity and extreme settings: training stops before applying them, and never saves them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pocket_resnet.cli.main import main
from pocket_resnet.errors import NonFiniteError, UsageError
from pocket_resnet.model.step_folders import newest_first
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import override, to_toml
from pocket_resnet.training import checkpoint
from pocket_resnet.training.run import Result, train
from pocket_resnet.training.trainer import Trainer, first_non_finite, mixed_cross_entropy

BAD_STEP = 2
BAD_VALUES = (float("nan"), float("inf"), float("-inf"))


@pytest.fixture
def train_tiny(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> Callable[..., Result]:  # noqa: ARG001
    return lambda **changes: train(make_recipe(**changes), runs_dir=tmp_path, run="r")


def into_loss(_: Trainer, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mixed_cross_entropy
    monkeypatch.setattr(
        "pocket_resnet.training.trainer.mixed_cross_entropy", lambda *arguments: whole(*arguments) * value
    )


def into_loss_alone(_: Trainer, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient stays finite."""
    whole = mixed_cross_entropy
    monkeypatch.setattr(
        "pocket_resnet.training.trainer.mixed_cross_entropy", lambda *arguments: whole(*arguments) + value
    )


def into_gradient(trainer: Trainer, value: float, _: pytest.MonkeyPatch) -> None:
    trainer.model.head.bias.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([1]), value))


def into_weight(trainer: Trainer, value: float, _: pytest.MonkeyPatch) -> None:
    trainer.model.head.weight.data[0, 0] = value


PLACES = {"loss": into_loss, "loss alone": into_loss_alone, "gradient": into_gradient, "weight": into_weight}


@pytest.mark.threat(14)
@pytest.mark.parametrize("value", BAD_VALUES)
@pytest.mark.parametrize("place", PLACES)
def test_stops_before_the_step_is_applied(
    place: str, value: float, train_tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step, learning rate and last good checkpoint are named; the weights are as before the step."""
    train_step = Trainer.train_step
    seen: list[tuple[Trainer, list[torch.Tensor]]] = []

    def poisoned(trainer: Trainer, *signals: Any) -> int:
        if trainer.step == BAD_STEP:
            PLACES[place](trainer, value, monkeypatch)
            parameters = [*trainer.model.parameters(), *trainer.ema.tensors().values()]
            seen.append((trainer, [parameter.detach().clone() for parameter in parameters]))
        return train_step(trainer, *signals)

    monkeypatch.setattr(Trainer, "train_step", poisoned)
    with pytest.raises(NonFiniteError) as raised:
        train_tiny(optim={"clip_norm": 1.0, "clip_value": 0.1})
    [(trainer, before)] = seen
    assert f"step {BAD_STEP}, lr 0.025" in str(raised.value)
    assert str(tmp_path / "r" / "checkpoints" / "step-000002") in str(raised.value)
    after = [*trainer.model.parameters(), *trainer.ema.tensors().values()]
    assert all(torch.equal(a, b) or not torch.isfinite(b).all() for a, b in zip(after, before, strict=True))
    saved = newest_first(tmp_path / "r" / "checkpoints")
    assert [path.name for path in saved] == ["step-000002", "step-000001"]
    assert all(first_non_finite(checkpoint.load(path)[1]) is None for path in saved)


@pytest.mark.threat(14)
@pytest.mark.parametrize("value", BAD_VALUES)
@pytest.mark.parametrize("part", ["buffer", "ema", "momentum", "slow"])
def test_bad_state_is_never_saved(
    part: str, value: float, train_tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BatchNorm's statistics do not touch the training loss, yet a checkpoint with NaN in them is refused."""
    names = {
        "buffer": "model.stem.norm.running_mean",
        "ema": "ema.head.weight",
        "momentum": "optimizer.momentum.head.weight",
        "slow": "optimizer.slow.head.weight",
    }
    train_step = Trainer.train_step

    def poisoned(trainer: Trainer, *signals: Any) -> int:
        num_images = train_step(trainer, *signals)
        if trainer.step == BAD_STEP + 1:
            trainer.tensors()[names[part]].view(-1)[0] = value
        return num_images

    monkeypatch.setattr(Trainer, "train_step", poisoned)
    with pytest.raises(NonFiniteError) as raised:
        train_tiny()
    assert names[part] in str(raised.value)
    assert "step 3, lr" in str(raised.value)
    assert "step-000002" in str(raised.value)
    assert [p.name for p in newest_first(tmp_path / "r" / "checkpoints")] == ["step-000002", "step-000001"]
    assert not (tmp_path / "r" / "model").exists()


@pytest.mark.threat(14)
@pytest.mark.usefixtures("synthetic")
def test_diverging_run_as_the_user_sees_it(
    make_recipe: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, no checkpoint yet, exit code 1."""
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(make_recipe(optim={"lr": 1e38, "name": "sgd"}, epochs=50)))
    with pytest.raises(SystemExit) as raised:
        main(["train", str(path), "--runs-dir", str(tmp_path), "--checkpoint.every-s", "1e9"])
    assert raised.value.code == NonFiniteError.exit_code == 1
    lines = capsys.readouterr().err.splitlines()
    assert "not finite, stopped before applying it" in lines[-2]
    assert lines[-1] == "  there is no checkpoint yet; try a lower learning rate or --optim.clip-norm 1"


@pytest.mark.threat(14)
def test_a_validation_that_overflows(train_tiny: Callable[..., Result], make_recipe: Any, tmp_path: Path) -> None:
    """Finite weights may overflow in the network: the run ends before it has a model or a record."""
    spec = replace(make_recipe().model, batch_norm=False)
    optim = {"lr": 1e15, "name": "sgd", "lookahead_steps": 0, "clip_norm": 0.0, "clip_value": 0.0}
    with pytest.raises(NonFiniteError, match="not finite, stopped: the validation loss"):
        train_tiny(model=spec, optim=optim, ema={"decay": 0.0}, max_steps=1)
    assert not (tmp_path / "r" / "model").exists()
    assert (tmp_path / "r" / "metrics.jsonl").read_text() == ""


@pytest.mark.threat(15)
def test_learning_rate_of_0_warns(train_tiny: Callable[..., Result], caplog: pytest.LogCaptureFixture) -> None:
    train_tiny(optim={"lr": 0.0})
    assert "a learning rate of 0" in caplog.text


@pytest.mark.threat(15)
@pytest.mark.parametrize("key", ["optim.lr", "optim.muon_lr", "optim.weight_decay", "schedule.warmup_epochs"])
@pytest.mark.parametrize("value", [-0.1, *BAD_VALUES])
def test_invalid_learning_rates_are_refused(key: str, value: float) -> None:
    """The error names the key."""
    with pytest.raises(UsageError, match=rf"`{key}` = {value}"):
        override(Recipe(), {key: value})


@pytest.mark.threat(15)
@pytest.mark.parametrize(
    ("num_train", "batch_size", "steps"),
    [(14, 7, 2), (15, 7, 2), (16, 7, 3), (7, 7, 1), (7, 6, 1), (3, 2, 1), (2, 1, 2)],
)
def test_last_batch(
    num_train: int, batch_size: int, steps: int, train_tiny: Callable[..., Result], synthetic: Any
) -> None:
    """A last batch of one image is dropped, any other is trained."""
    synthetic.num_train = num_train
    result = train_tiny(batch_size=batch_size, epochs=1)
    assert result.steps == steps
    assert result.images_seen == num_train - (num_train % batch_size == 1 < batch_size)


@pytest.mark.threat(15)
def test_batch_beyond_the_data_is_refused(train_tiny: Callable[..., Result], tmp_path: Path) -> None:
    """Before anything is written, with a size that works."""
    with pytest.raises(UsageError, match="batch_size 15 exceeds the 14 training images") as raised:
        train_tiny(batch_size=15)
    assert "--batch-size 2" in str(raised.value)
    assert not (tmp_path / "r").exists()
