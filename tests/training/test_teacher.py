"""Learning from a teacher: the same views for both, predictions computed once, and what is refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hub_server import Hub
from pocket_resnet.data.augment import Targets, to_float
from pocket_resnet.data.loader import Loader, Steps
from pocket_resnet.data.source import Source
from pocket_resnet.device import choose
from pocket_resnet.errors import UsageError
from pocket_resnet.model.artifact import DIGESTS_NAME, load_card, load_model, save_model
from pocket_resnet.model.conv3x3 import Conv3x3
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.base import RecipeError
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import load_recipe
from pocket_resnet.training import checkpoint, teacher
from pocket_resnet.training.prepare import fit_to_data, new_trainer
from pocket_resnet.training.run import train
from pocket_resnet.training.teacher import Teacher, distillation_loss, open_teacher, unwatched
from pocket_resnet.training.trainer import Trainer

CPU = choose("cpu", "fp32")


@pytest.fixture
def make_trainer(make_recipe: Callable[..., Recipe], source: Source, trained: Path) -> Callable[..., Trainer]:
    """make_trainer(epochs=4) gives the trainer of a student of the run `r`, whose views repeat after two epochs."""

    def make(**changes: Any) -> Trainer:
        section = {"model": str(trained), "epochs": 2} | changes.pop("teacher", {})
        recipe = fit_to_data(make_recipe(**changes, seed=3, teacher=section), source, 14)
        return new_trainer(recipe, source, source.split("train"), CPU)

    return make


@pytest.fixture
def make_loader(make_trainer: Callable[..., Trainer]) -> Callable[..., Loader]:
    return lambda **changes: make_trainer(**changes).loader


def views_of(loader: Loader, epoch: int) -> Tensor:
    """All training images as the loader augments them in that epoch, before they are mixed."""
    return torch.cat(list(loader.views(epoch)))


@torch.no_grad()
def logits_of(model: ResNet, images_NCHW: Tensor) -> Tensor:
    logits_NK: Tensor = model(to_float(images_NCHW))
    return logits_NK


def test_targets_are_the_teachers_predictions_for_the_same_view(
    make_loader: Callable[..., Loader], trained: Path
) -> None:
    loader = make_loader(augment={"mixup": 0}, teacher={"temperature": 2.0})
    batch = loader.batch(1)
    expected_BK = (logits_of(load_model(trained)[0], views_of(loader, 0)[batch.indices_B]) / 2).softmax(1)
    assert batch.targets.teacher_BK is not None
    torch.testing.assert_close(batch.targets.teacher_BK, expected_BK, atol=2e-3, rtol=0)  # cached as fp16


def test_mixed_images_have_mixed_predictions(make_loader: Callable[..., Loader]) -> None:
    targets = make_loader(augment={"mixup": 0.5}).batch(0).targets
    unmixed = make_loader(augment={"mixup": 0}).batch(0).targets
    assert targets.teacher_BK is not None
    assert unmixed.teacher_BK is not None
    assert 0 < targets.label_weight < 1
    left_BK = targets.teacher_BK - targets.label_weight * unmixed.teacher_BK
    torch.testing.assert_close(left_BK.sum(1), torch.full((8,), 1 - targets.label_weight))
    rows = unmixed.teacher_BK * (1 - targets.label_weight)
    distance_BB = torch.cdist(left_BK, rows)
    assert distance_BB.min(1).values.max() < 1e-6  # each is the rest plus another image's prediction
    assert len(set(distance_BB.argmin(1).tolist())) > 1


def test_views_repeat_and_are_predicted_once(
    make_trainer: Callable[..., Trainer], tiny_spec: NetworkSpec, logged: pytest.LogCaptureFixture
) -> None:
    """The log has a line for each epoch that is computed."""
    trainer = make_trainer(epochs=5, train_image_sizes=(), augment={"flip": "random"})
    for _ in range(trainer.steps.total):
        trainer.train_step()
    assert logged.messages == [f"computing the teacher's predictions for epoch {epoch} of 2" for epoch in (1, 2)]
    assert torch.equal(views_of(trainer.loader, 4), views_of(trainer.loader, 0))

    logged.clear()
    make_trainer(max_steps=1, augment={"flip": "none"}).train_step()
    assert logged.messages == ["computing the teacher's predictions for epoch 1 of 1"]

    logged.clear()
    another = make_trainer(
        epochs=1, model=replace(tiny_spec, widths=(8, 8)), augment={"flip": "random"}
    )  # a student of another size
    another.train_step()
    assert logged.messages == []
    make_trainer(epochs=1, augment={"flip": "random", "crop_px": 0}).train_step()  # other views
    assert logged.messages == ["computing the teacher's predictions for epoch 1 of 1"]


@pytest.mark.parametrize("damage", ["cut", "other numbers", "no sums"])
def test_damaged_predictions_are_computed_again(
    damage: str, make_loader: Callable[..., Loader], tmp_path: Path
) -> None:
    expected_BK = make_loader().batch(0).targets.teacher_BK
    [file] = tmp_path.glob(f"data/teachers/*/epoch-0000/{teacher.LOGITS_NAME}")
    content = file.read_bytes()
    if damage == "no sums":
        (file.parent / "SHA256SUMS").unlink()
    else:
        file.write_bytes(content[:-9] if damage == "cut" else content[:-2] + b"\x00\x7c")
    teacher_BK = make_loader().batch(0).targets.teacher_BK
    assert expected_BK is not None
    assert teacher_BK is not None
    assert torch.equal(teacher_BK, expected_BK)
    assert file.read_bytes() == content


def test_predictions_that_cannot_be_cached_are_used(
    make_loader: Callable[..., Loader],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected_BK = make_loader().batch(0).targets.teacher_BK
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("POCKET_RESNET_DATA", str(tmp_path / "file"))
    teacher_BK = make_loader().batch(0).targets.teacher_BK
    assert expected_BK is not None
    assert teacher_BK is not None
    assert torch.equal(teacher_BK, expected_BK)
    assert "not cached" in caplog.text


def test_loss() -> None:
    logits_BK, teacher_BK = torch.randn(5, 4), torch.randn(5, 4)
    for temperature in (1.0, 3.0):
        p, q = (teacher_BK / temperature).softmax(1), (logits_BK / temperature).softmax(1)
        expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
        torch.testing.assert_close(distillation_loss(logits_BK, p, temperature), expected)
    assert distillation_loss(teacher_BK, teacher_BK.softmax(1), 1.0).abs() < 1e-6


def test_labels_keep_their_share_of_the_loss(make_trainer: Callable[..., Trainer]) -> None:
    logits_BK, labels_B = torch.randn(6, 3), torch.arange(6) % 3
    teacher_BK = torch.randn(6, 3).softmax(1)
    targets = Targets(labels_B, labels_B, 1.0, teacher_BK)
    of_labels = F.cross_entropy(logits_BK, labels_B, label_smoothing=0.1)
    of_teacher = distillation_loss(logits_BK, teacher_BK, 1.0)
    for weight in (0.0, 0.7, 1.0):
        loss = make_trainer(teacher={"weight": weight})._loss(logits_BK, targets)
        torch.testing.assert_close(loss, weight * of_teacher + (1 - weight) * of_labels)


def test_classes_are_matched_by_name(
    make_recipe: Callable[..., Recipe], synthetic: Any, trained: Path, tmp_path: Path
) -> None:
    """The folder lists its classes in another order than the teacher."""
    model, images_NCHW = load_model(trained)[0], torch.randint(0, 256, (4, 3, 8, 8)).to(torch.uint8)
    own_NK = logits_of(model, images_NCHW)
    teacher_NK = Teacher(model, [2, 0, 1], tmp_path / "t", CPU, 1, unwatched).logits(0, 4, lambda: [images_NCHW])
    torch.testing.assert_close(teacher_NK, own_NK[:, [2, 0, 1]], atol=2e-3, rtol=1e-3)

    synthetic.class_names = ("red", "green", "violet")
    with pytest.raises(UsageError, match="blue, violet"):
        train(make_recipe(teacher={"model": str(trained)}), runs_dir=tmp_path, run="s")
    synthetic.class_names = tuple(f"class {number:02}" for number in range(30))
    with pytest.raises(UsageError, match=r"blue, class 00, .*, … and 13 more"):
        train(make_recipe(teacher={"model": str(trained)}), runs_dir=tmp_path, run="s")
    assert not (tmp_path / "s").exists()


def test_refused(make_recipe: Callable[..., Recipe], synthetic: Any, trained: Path, tmp_path: Path) -> None:  # noqa: ARG001
    with pytest.raises(RecipeError, match=r"hard_fraction below 1 cannot be combined with teacher\.model"):
        make_recipe(hard_fraction=0.5, augment={"mixup": 0}, teacher={"model": str(trained)})
    with pytest.raises(UsageError, match="no model here"):
        train(make_recipe(teacher={"model": str(tmp_path / "none")}), runs_dir=tmp_path, run="s")
    with pytest.raises(UsageError, match="weights have changed"):
        train(make_recipe(teacher={"model": str(trained), "sha256": "0" * 64}), runs_dir=tmp_path, run="s")


def test_resume_is_exact(make_recipe: Callable[..., Recipe], synthetic: Any, trained: Path, tmp_path: Path) -> None:  # noqa: ARG001
    """Also where the teacher has moved; not with another teacher."""
    section = {"model": str(trained), "epochs": 1}
    recipe = make_recipe(teacher=section)
    train(recipe, runs_dir=tmp_path, run="whole")
    train(make_recipe(teacher=section, max_steps=3), runs_dir=tmp_path, run="cut")
    moved = tmp_path / "moved"
    shutil.copytree(trained / "model", moved)
    train(make_recipe(teacher=section | {"model": str(moved)}), runs_dir=tmp_path, run="cut", resume=True)
    states = [checkpoint.load_newest(tmp_path / run / "checkpoints") for run in ("whole", "cut")]
    assert states[0] is not None
    assert states[1] is not None
    assert states[0][1].keys() == states[1][1].keys()
    assert all(torch.equal(value, states[1][1][name]) for name, value in states[0][1].items())
    another_teacher = make_recipe(teacher=section | {"model": str(tmp_path / "whole")})
    with pytest.raises(UsageError, match=r"teacher\.sha256"):
        train(another_teacher, runs_dir=tmp_path, run="cut", resume=True)


def test_card_names_the_teacher_and_no_place(
    make_recipe: Callable[..., Recipe],
    synthetic: Any,  # noqa: ARG001
    trained: Path,
    tmp_path: Path,
) -> None:
    train(make_recipe(teacher={"model": str(trained)}), runs_dir=tmp_path, run="s")
    card = load_card(tmp_path / "s")
    assert card.teacher == "r"
    assert card.teacher_sha256 == load_recipe(str(tmp_path / "s" / "recipe.toml")).teacher.sha256
    files = [path.read_bytes() for path in (tmp_path / "s" / "model").iterdir()]
    assert not any(str(tmp_path).encode() in content for content in files)


def test_images_of_the_teacher_count_as_seen(
    make_recipe: Callable[..., Recipe],
    synthetic: Any,  # noqa: ARG001
    trained: Path,
    tmp_path: Path,
) -> None:
    """A student of a teacher that saw the validation images gives no estimate on them."""
    assert train(make_recipe(teacher={"model": str(trained)}), runs_dir=tmp_path, run="fair").caveat is None
    train(make_recipe(data={"train_on": "trainval"}), runs_dir=tmp_path, run="all")
    result = train(make_recipe(teacher={"model": str(tmp_path / "all")}), runs_dir=tmp_path, run="s")
    assert result.caveat == "no estimate: the model was trained on all these 6 images"

    sums = trained / "model" / "SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if DIGESTS_NAME not in line))
    result = train(make_recipe(teacher={"model": str(trained)}), runs_dir=tmp_path, run="unknown")
    assert result.caveat is not None
    assert "unknown images" in result.caveat


def test_command_line(
    run: Callable[..., tuple[int, str, str]], recipe_path: Path, trained: Path, tmp_path: Path
) -> None:
    words = ("train", recipe_path, "--teacher", trained, "--runs-dir", tmp_path, "--run", "s", "--no-report")
    code, _, error = run(*words)
    assert code == 0, error
    assert load_card(tmp_path / "s").teacher == "r"
    code, _, _ = run(*words, "--resume")
    assert code == 0


def test_teacher_on_the_hub(
    make_trainer: Callable[..., Trainer], make_recipe: Callable[..., Recipe], hub: Hub, trained: Path, tmp_path: Path
) -> None:
    """The run names the copy of this commit, so that a later one does not change it; the card has the model's name."""
    commit = hub.add("ann/tiny", {path.name: path.read_bytes() for path in (trained / "model").iterdir()})
    recipe = make_trainer(teacher={"model": "hf://ann/tiny"}).recipe
    assert Path(recipe.teacher.model or "").parts[-3:] == ("ann", "tiny", commit)
    assert recipe.teacher.sha256 == make_trainer().recipe.teacher.sha256
    train(make_recipe(teacher={"model": "hf://ann/tiny"}), runs_dir=tmp_path, run="s")
    assert load_card(tmp_path / "s").teacher == "tiny"


def test_classes_are_matched_in_any_unicode_form(
    make_trainer: Callable[..., Trainer], source: Source, trained: Path
) -> None:
    """The teacher was trained on a file system with another Unicode form, and in another order."""
    model, card = load_model(trained)
    names = ("e\u0301", "b", "a")  # é in two characters
    save_model(trained / "model", model, card.model_copy(update={"class_names": names}))
    source.class_names = ("a", "b", "\u00e9")
    loader = make_trainer(augment={"mixup": 0}).loader
    batch = loader.batch(1)
    expected_BK = logits_of(model, views_of(loader, 0)[batch.indices_B]).softmax(1)[:, [2, 1, 0]]
    assert batch.targets.teacher_BK is not None
    torch.testing.assert_close(batch.targets.teacher_BK, expected_BK, atol=2e-3, rtol=0)


@pytest.mark.parametrize("used", [True, False])
def test_a_teacher_on_the_cpu_uses_winograd(
    used: bool, make_recipe: Callable[..., Recipe], source: Source, trained: Path
) -> None:
    recipe = make_recipe(teacher={"model": str(trained), "sha256": "0" * 64})
    opened = open_teacher(recipe, source, Steps(14, recipe), replace(CPU, winograd=used), None, unwatched)
    assert opened is not None
    convs = [module for module in opened.model.modules() if isinstance(module, Conv3x3)]
    assert convs
    assert {conv.winograd_in for conv in convs} == {"evaluation" if used else None}
