"""Evaluation of a network: views, precision, devices and class names.

Shapes: N images, C channels, K classes.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pocket_resnet.data.source import Source, Split
from pocket_resnet.device import Hardware
from pocket_resnet.errors import DataError, UsageError
from pocket_resnet.inference.evaluate import (
    EVALUATION_BATCH,
    check_options,
    class_probabilities,
    evaluate,
    evaluate_model,
    renumber,
)
from pocket_resnet.model.artifact import load_card
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training.run import train

NAMES = ("red", "green", "blue")
CPU = Hardware(torch.device("cpu"), "fp32", channels_last=False)


class Recorder(nn.Module):
    """Logits that depend on the picture's left and right halves; records its input."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec, self.shown = spec, []

    def forward(self, x_BCHW: Tensor) -> Tensor:
        assert not self.training
        self.shown.append(x_BCHW.clone())
        half = x_BCHW.shape[-1] // 2
        left_B, right_B = x_BCHW[..., :half].mean((1, 2, 3)), x_BCHW[..., half:].mean((1, 2, 3))
        return torch.stack([left_B, right_B, x_BCHW[:, 0, 0, 0]], dim=1)


def slow_shift(image_CHW: Tensor, by: int) -> Tensor:
    """Each pixel comes from `by` rows and columns further, reflected at the border without repeating it."""
    size = image_CHW.shape[-1]
    at = [min(abs(index + by), 2 * (size - 1) - abs(index + by)) for index in range(size)]
    return torch.stack([torch.stack([image_CHW[:, y, x] for x in at], -1) for y in at], 1)


@pytest.mark.parametrize("views", [1, 2, 6])
def test_views_are_averages_of_the_right_pictures(views: int, tiny_spec: Any, source: Source) -> None:
    images_NCHW = source.split("val").images_NCHW
    plain = [image / 255 for image in images_NCHW]
    pictures: list[tuple[float, Callable[[Tensor], Tensor]]] = [(1.0, lambda x: x)]
    if views == 2:
        pictures = [(0.5, lambda x: x), (0.5, lambda x: x.flip(-1))]
    if views == 6:
        pictures = [(0.25, lambda x: x), (0.25, lambda x: x.flip(-1))]
        pictures += [(0.125, lambda x, by=by: slow_shift(x, by)) for by in (-1, 1)]
        pictures += [(0.125, lambda x, by=by: slow_shift(x.flip(-1), by)) for by in (-1, 1)]
    expected_NK = torch.stack(
        [sum(w * Recorder(tiny_spec).eval()(view(x)[None]).softmax(1)[0] for w, view in pictures) for x in plain]
    )
    probabilities_NK = class_probabilities(Recorder(tiny_spec), images_NCHW, CPU, views)
    assert torch.allclose(probabilities_NK, expected_NK, atol=1e-6)
    assert torch.allclose(probabilities_NK.sum(1), torch.ones(len(images_NCHW)))


def test_precision(tiny_model: ResNet, source: Source) -> None:
    """bf16 has 8 bits of precision: close to fp32, not equal. The default is fp32 on all hardware."""
    split = source.split("val")
    fp32_NK = class_probabilities(tiny_model, split.images_NCHW, CPU)
    on_bf16 = replace(CPU, precision="bf16")
    assert torch.equal(fp32_NK, class_probabilities(tiny_model, split.images_NCHW, on_bf16))
    evaluation = evaluate(tiny_model, split, NAMES, CPU, split_name="val", precision="bf16")
    assert evaluation.precision == evaluation.to_json()["precision"] == "bf16"
    assert 0 < (evaluation.probabilities_NK - fp32_NK).abs().max() < 0.01


def test_batches_sizes_and_modes_do_not_matter(tiny_model: ResNet) -> None:
    """Several batches equal one by one; other sizes are resized; the mode is as before; nothing is learnt."""
    images_NCHW = torch.randint(0, 256, (EVALUATION_BATCH + 3, 3, 12, 12)).to(torch.uint8)
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    for training in (True, False):
        tiny_model.train(training)
        whole_NK = class_probabilities(tiny_model, images_NCHW, CPU)
        assert tiny_model.training == training
        assert whole_NK.shape == (EVALUATION_BATCH + 3, 3)
        assert torch.allclose(whole_NK[-4:], class_probabilities(tiny_model, images_NCHW[-4:], CPU), atol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in tiny_model.state_dict().items())


def test_the_mode_is_restored_after_a_failure(tiny_model: ResNet) -> None:
    tiny_model.train()
    with pytest.raises(RuntimeError):
        class_probabilities(tiny_model, torch.zeros(1, 4, 8, 8, dtype=torch.uint8), CPU)  # four channels
    assert tiny_model.training


@pytest.mark.parametrize(("views", "image_size"), [(1, None), (2, None), (1, 12)])
def test_evaluate_keeps_the_probabilities(
    views: int, image_size: int | None, tiny_model: ResNet, source: Source
) -> None:
    split = source.split("val")
    found = evaluate(tiny_model, split, NAMES, CPU, split_name="val", views=views, image_size=image_size)
    assert torch.equal(
        found.probabilities_NK, class_probabilities(tiny_model, split.images_NCHW, CPU, views, image_size)
    )
    assert (found.labels_N.tolist(), found.views) == (split.labels_N.tolist(), views)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"views": 3}, "choose 1, 2 or 6"),
        ({"precision": "int8"}, "choose fp32 or bf16"),
        ({"device": "cuda:0"}, "use one of auto, cpu"),
    ],
)
def test_options_are_checked_before_the_data_are_opened(
    options: dict[str, Any], hint: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Source:
        raise AssertionError

    monkeypatch.setattr("pocket_resnet.inference.evaluate.open_source", refuse)
    with pytest.raises(UsageError, match=hint):
        evaluate_model(trained, **options)


def test_one_pixel_cannot_be_shifted(trained: Path) -> None:
    card = load_card(trained)
    with pytest.raises(UsageError, match="6 views shift the images, which have only one pixel"):
        check_options(card.model_copy(update={"spec": replace(card.spec, image_size=1)}), views=6)


def test_classes_are_matched_by_name() -> None:
    split = Split(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 1, 0]))
    assert renumber(split, ("blue", "red"), NAMES).labels_N.tolist() == [2, 0, 0, 2]
    with pytest.raises(DataError, match="does not know 'pink', 'x'") as raised:
        renumber(split, ("red", "pink", "x"), NAMES)
    assert "red, green, blue" in str(raised.value)
    many = tuple(f"class {number}" for number in range(25))
    with pytest.raises(DataError, match=r"does not know 'class 0', .*'class 19', … and 5 more"):
        renumber(split, many, NAMES)
    with pytest.raises(DataError, match=r"its classes are class 0, .*class 19, … and 5 more"):
        renumber(split, ("red", "green"), many)


@pytest.mark.threat(50)
def test_classes_are_matched_in_any_unicode_form() -> None:
    """The model was trained on a file system with another Unicode form."""
    split = Split(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]))
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for names, model_names, expected in (
        ((decomposed, "tea"), ("tea", composed), [1, 0]),
        ((composed, "tea"), ("tea", decomposed), [1, 0]),
        ((composed, decomposed), (composed, decomposed), [0, 1]),
    ):
        assert renumber(split, names, model_names).labels_N.tolist() == expected


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with two of the model's classes, in another order than the model's."""
    for number, name in enumerate(("blue", "red", "red")):
        path = tmp_path / "pictures" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 50, 0, 200)).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def real_sources(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:  # noqa: ARG001
    """After training on synthetic data, open the requested data."""
    from pocket_resnet.data.datasets import open_source

    monkeypatch.setattr("pocket_resnet.inference.evaluate.open_source", open_source)


@pytest.mark.usefixtures("real_sources")
def test_folder_without_splits_is_evaluated_whole(trained: Path, pictures: Path) -> None:
    evaluation = evaluate_model(trained, data=str(pictures))
    assert (evaluation.split, evaluation.num_images) == ("all", 3)
    assert [result.num_images for result in evaluation.per_class] == [2, 0, 1]
    assert evaluate_model(trained, data=str(pictures), split="val").num_images == 1
    (pictures / "red").rename(pictures / "pink")
    with pytest.raises(DataError, match="does not know 'pink'"):
        evaluate_model(trained, data=str(pictures))


def test_accuracy_on_training_images_is_no_estimate(make_recipe: Callable[..., Recipe], pictures: Path) -> None:
    recipe = make_recipe(max_steps=1, batch_size=2, data={"name": str(pictures)})
    train(recipe, runs_dir=pictures.parent / "runs", run="r")
    run = pictures.parent / "runs" / "r"
    assert evaluate_model(run).caveat is None
    assert evaluate_model(run).to_json()["caveat"] is None
    again = f"{pictures.parent}/../{pictures.parent.name}/{pictures.name}"
    for evaluation in (
        evaluate_model(run, data=str(pictures)),
        evaluate_model(run, data=again),
        evaluate_model(run, split="all"),
    ):
        assert (evaluation.split, evaluation.caveat) == (
            "all",
            "no estimate: the model was trained on 2 of these 3 images",
        )
        assert evaluation.to_json()["caveat"] == evaluation.caveat
    shutil.copytree(pictures, pictures.parent / "more")
    assert evaluate_model(run, data=str(pictures.parent / "more")).caveat is not None
    final = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train_on": "trainval"})})
    train(final, runs_dir=pictures.parent / "runs", run="final")
    assert evaluate_model(run.parent / "final").caveat == "no estimate: the model was trained on this image"


@pytest.mark.usefixtures("real_sources")
def test_folder_with_splits_is_evaluated_on_validation(trained: Path, pictures: Path) -> None:
    for part in ("train", "val", "test"):
        for name in ("blue", "red"):
            (pictures / "new" / part / name).mkdir(parents=True)
            for index in range(1 + (part == "test")):
                Image.new("RGB", (8, 8), (index, ord(name[0]), len(part))).save(
                    pictures / "new" / part / name / f"{index}.png"
                )
    evaluation = evaluate_model(trained, data=str(pictures / "new"))
    assert (evaluation.split, evaluation.num_images) == ("val", 2)
    assert evaluate_model(trained, data=str(pictures / "new"), split="test").num_images == 4


@pytest.mark.threat(40)
def test_folder_called_like_a_data_set_changes_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synthetic: Any
) -> None:
    """`--data digits` beside a folder digits/ is the data set, and its test split stays closed."""
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert evaluate_model(Path(os.path.relpath(trained)), data="digits").split == "val"
    assert synthetic.num_test_opened == 0


@pytest.mark.usefixtures("synthetic")
def test_result_is_what_training_measured(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    result = train(make_recipe(), runs_dir=tmp_path, run="r")
    evaluation = evaluate_model(tmp_path / "r")
    assert (evaluation.accuracy, evaluation.interval) == (result.accuracy, result.interval)
