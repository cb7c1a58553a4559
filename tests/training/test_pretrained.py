"""Fine-tuning: what a run copies from a trained model, what stays frozen and for how long, and what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pocket_resnet.device import choose
from pocket_resnet.errors import ArtifactError, UsageError
from pocket_resnet.inference.evaluate import class_probabilities
from pocket_resnet.model.artifact import DIGESTS_NAME, load_card, load_model
from pocket_resnet.recipe.base import RecipeError
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import load_recipe, override
from pocket_resnet.training import checkpoint
from pocket_resnet.training.prepare import fit_to_data, new_trainer
from pocket_resnet.training.pretrained import with_pretrained
from pocket_resnet.training.run import train
from pocket_resnet.training.trainer import Trainer

CPU = choose("cpu", "fp32")
OTHER_CLASSES = ("blue", "cyan", "red")


@pytest.fixture
def make_trainer(make_recipe: Callable[..., Recipe], synthetic: Any, trained: Path) -> Callable[..., Trainer]:
    """make_trainer(freeze_epochs=1) gives the trainer that fine-tunes the run `r` on classes that are partly others."""
    synthetic.class_names = OTHER_CLASSES

    def make(**section: Any) -> Trainer:
        recipe = with_pretrained(make_recipe(seed=3, pretrained={"model": str(trained)} | section))
        return new_trainer(fit_to_data(recipe, synthetic, 14), synthetic, synthetic.split("train"), CPU)

    return make


def body(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors.items() if not name.startswith("head.")}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def states(folder: Path, *runs: str) -> list[dict[str, Tensor]]:
    checkpoints = [checkpoint.load_newest(folder / run / "checkpoints") for run in runs]
    return [state[1] for state in checkpoints if state is not None]


def test_body_and_shared_classes_are_the_models(
    make_trainer: Callable[..., Trainer], make_recipe: Callable[..., Recipe], synthetic: Any, trained: Path
) -> None:
    """Also batch norm's statistics and the input normalisation, independent of the new data's."""
    model, source = make_trainer().model.state_dict(), load_model(trained)[0].state_dict()
    assert equal(body(model), body(source))
    untrained = new_trainer(
        fit_to_data(make_recipe(seed=3), synthetic, 14), synthetic, synthetic.split("train"), CPU
    ).model.state_dict()
    for name in ("head.weight", "head.bias"):
        red, _, blue = source[name]
        assert torch.equal(model[name], torch.stack([blue, untrained[name][1], red]))


def test_while_frozen_only_the_head_changes(make_trainer: Callable[..., Trainer], trained: Path) -> None:
    """Neither gradient, weight decay, Lookahead nor batch norm moves the body, with a validation in between.

    Nor does a callback that sets training mode.
    """
    trainer = make_trainer(freeze_epochs=1)
    source = load_model(trained)[0].state_dict()
    head = trainer.model.head.weight.clone()
    for _ in range(trainer.steps.per_epoch):
        trainer.train_step()
        class_probabilities(trainer.model, trainer.loader.images_NCHW, CPU)
        assert trainer.model.training
        assert not trainer.model.stages.training
        trainer.model.train()
    assert equal(body(trainer.model.state_dict()), body(source))
    assert not torch.equal(trainer.model.head.weight, head)
    assert not any("stages" in name or "stem" in name for name in trainer.optimizer.tensors() if "momentum" in name)

    trainer.train_step()
    after = body(trainer.model.state_dict())
    weights = set(trainer.optimizer.names.values()) & after.keys()
    assert {name for name in after if not torch.equal(after[name], source[name])} >= weights
    assert any("running_mean" in name and not torch.equal(after[name], source[name]) for name in after)


def test_a_run_frozen_to_its_end_does_not_change_the_body(
    make_recipe: Callable[..., Recipe], synthetic: Any, trained: Path, tmp_path: Path
) -> None:
    """Its statistics are not measured again, in spite of norm_images, and it costs fewer operations."""
    synthetic.class_names = OTHER_CLASSES
    section = {"model": str(trained)}
    frozen = train(make_recipe(pretrained=section | {"freeze_epochs": 2}), runs_dir=tmp_path, run="frozen")
    assert equal(body(load_model(tmp_path / "frozen")[0].state_dict()), body(load_model(trained)[0].state_dict()))
    whole = train(make_recipe(pretrained=section), runs_dir=tmp_path, run="whole")
    assert not equal(body(load_model(tmp_path / "whole")[0].state_dict()), body(load_model(trained)[0].state_dict()))
    assert frozen.images_seen == whole.images_seen
    assert 0.2 < frozen.train_flops / whole.train_flops < 0.5


@pytest.mark.parametrize("cut", [1, 3])
def test_resume_is_exact(
    cut: int, make_recipe: Callable[..., Recipe], synthetic: Any, trained: Path, tmp_path: Path
) -> None:
    """In a frozen epoch and after it, also where the model has moved; not with another model."""
    synthetic.class_names = OTHER_CLASSES
    section = {"model": str(trained), "freeze_epochs": 1}
    train(make_recipe(pretrained=section), runs_dir=tmp_path, run="whole")
    train(make_recipe(pretrained=section, max_steps=cut), runs_dir=tmp_path, run="cut")
    moved = tmp_path / "moved"
    shutil.copytree(trained / "model", moved)
    train(make_recipe(pretrained=section | {"model": str(moved)}), runs_dir=tmp_path, run="cut", resume=True)
    assert equal(*states(tmp_path, "whole", "cut"))
    train(load_recipe(str(tmp_path / "cut" / "recipe.toml")), runs_dir=tmp_path, run="cut", resume=True)
    another = make_recipe(pretrained=section | {"model": str(tmp_path / "whole")})
    with pytest.raises(UsageError, match=r"pretrained\.sha256"):
        train(another, runs_dir=tmp_path, run="cut", resume=True)


def test_card_names_the_model_and_no_place(
    make_recipe: Callable[..., Recipe],
    synthetic: Any,  # noqa: ARG001
    trained: Path,
    tmp_path: Path,
) -> None:
    train(make_recipe(pretrained={"model": str(trained)}), runs_dir=tmp_path, run="s")
    card = load_card(tmp_path / "s")
    assert (card.pretrained, card.teacher, card.init_from) == ("r", None, None)
    assert card.pretrained_sha256 == load_recipe(str(tmp_path / "s" / "recipe.toml")).pretrained.sha256
    text = (tmp_path / "s" / "model" / "README.md").read_text(encoding="utf-8")
    assert f"| fine-tuned from | `r`, SHA-256 {str(card.pretrained_sha256)[:16]}… |" in text
    files = [path.read_bytes() for path in (tmp_path / "s" / "model").iterdir()]
    assert not any(str(tmp_path).encode() in content for content in files)


def test_images_of_the_model_count_as_seen(
    make_recipe: Callable[..., Recipe],
    synthetic: Any,  # noqa: ARG001
    trained: Path,
    tmp_path: Path,
) -> None:
    """Also those of the models before it; unknown ones stay unknown."""

    def caveat_from(model: Path, run: str) -> str | None:
        return train(make_recipe(pretrained={"model": str(model)}), runs_dir=tmp_path, run=run).caveat

    assert caveat_from(trained, "fair") is None
    train(make_recipe(data={"train_on": "trainval"}), runs_dir=tmp_path, run="all")
    for model, run in (("all", "child"), ("child", "grandchild")):
        assert caveat_from(tmp_path / model, run) == "no estimate: the model was trained on all these 6 images"

    sums = trained / "model" / "SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if DIGESTS_NAME not in line))
    for model, run in ((trained, "unknown"), (tmp_path / "unknown", "unknown too")):
        assert "unknown images" in str(caveat_from(model, run))


@pytest.mark.threat(17)
@pytest.mark.usefixtures("synthetic")
def test_refused_requests(make_recipe: Callable[..., Recipe], trained: Path, tmp_path: Path) -> None:
    """Before anything is written."""
    section = {"model": str(trained)}

    def refuse(message: str, kind: type[Exception] = UsageError, **changes: Any) -> None:
        with pytest.raises(kind, match=message):
            train(make_recipe(**{"pretrained": section} | changes), runs_dir=tmp_path / "none", run="s")
        assert not (tmp_path / "none").exists()

    widths = {"model": override(make_recipe(), {"model.widths": [4, 12]}).model}
    refuse(r"asks for another network than the model's: widths \(4, 12\) instead of \(4, 8\)", **widths)
    refuse("no model here", pretrained={"model": str(tmp_path / "nowhere")})
    refuse("the model's weights have changed", pretrained=section | {"sha256": "0" * 64})
    refuse("without a pretrained model", pretrained={"freeze_epochs": 1})
    refuse(r"the pretrained network has 1,391 parameters, over 1,000\n.*set budget to 1391", budget="1K")
    refuse("the pretrained network has [0-9,]+ multiply-adds, over 1,000", max_macs="1K")
    with pytest.raises(RecipeError, match=r"init_from \(a run's checkpoint\) cannot be combined with pretrained"):
        make_recipe(pretrained=section, init_from="runs/r/checkpoints/step-000001")
    weights = trained / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refuse("model.safetensors", ArtifactError)


def test_command_line(
    run: Callable[..., tuple[int, str, str]], recipe_path: Path, trained: Path, tmp_path: Path
) -> None:
    words = (
        "train",
        recipe_path,
        "--from",
        trained,
        "--freeze",
        1,
        "--runs-dir",
        tmp_path,
        "--run",
        "s",
        "--no-report",
    )
    code, _, error = run(*words)
    assert code == 0, error
    assert f"starts from the weights of {trained}/model, which knows 3 of the 3 classes" in error
    assert load_card(tmp_path / "s").pretrained == "r"
    assert load_recipe(str(tmp_path / "s" / "recipe.toml")).pretrained.freeze_epochs == 1
    assert run(*words, "--resume")[0] == 0
