"""Image grids: each image above its caption, the most confident mistakes first, Grad-CAM for the predicted class."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pocket_resnet import plots
from pocket_resnet.device import choose
from pocket_resnet.inference.classifier import Classifier
from pocket_resnet.inference.evaluation import Evaluation
from pocket_resnet.model.card import Card
from pocket_resnet.model.counts import num_macs, num_params
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.plots.style import pixels

NAMES = ("a", "b", "c")


def painted(*levels: int) -> torch.Tensor:
    """An image of one grey each, uint8 [N, 3, 8, 8]."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)


def captions(drawn: Figure) -> list[str]:
    return [text.get_text() for text in drawn.texts]


def greys(drawn: Figure) -> list[int]:
    """The levels of grey in reading order, without white and anything that is not an image."""
    [image] = drawn.axes[0].images
    levels_HW = np.asarray(image.get_array())[..., 0]
    return list(dict.fromkeys(level for level in levels_HW.flatten().tolist() if level != 255))


def test_images_stand_above_their_captions() -> None:
    drawn = plots.image_grid(painted(10, 20, 30, 40, 50), ["one", "two", "three", "four", "a name on two lines"])
    assert greys(drawn) == [10, 20, 30, 40, 50]
    assert captions(drawn) == ["one", "two", "three", "four", "a name on two", "lines"]
    with pytest.raises(ValueError, match="argument 2"):
        plots.image_grid(painted(10, 20), ["one"])


@pytest.mark.parametrize("letter", "iW\u732b$\n\udcff")
@pytest.mark.parametrize("length", [2, 30, 100_000])
def test_captions_keep_to_their_columns(letter: str, length: int) -> None:
    """Whatever the letters: a caption has at most two lines, and the last column's ends before the figure does."""
    title = f"x{letter * length}99%"
    drawn = plots.image_grid(painted(10, 20, 30, 40), ["", "", "", title])
    lines = [line for line in captions(drawn) if line]
    assert len(lines) <= 2
    assert lines[0].startswith("x")
    assert lines[-1].endswith("99%")
    assert (pixels(drawn)[:, -2:] == 255).all()


def test_mistakes_name_their_files() -> None:
    files = ("a/scan 1.png", "b/IMG_20230501_123456.jpg")
    probabilities_NK = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.2, 0.0]])
    evaluation = Evaluation(probabilities_NK, torch.tensor([0, 1]), ("a", "b", "c"), "val", files=files)
    drawn = plots.mistake_grid(evaluation, painted(10, 20))
    assert captions(drawn)[:4] == ["b, 90%", "is a", "scan 1.png", "a, 80%"]
    assert "".join(captions(drawn)[5:]) == "IMG_20230501_123456.jpg"


def test_most_confident_mistakes_come_first() -> None:
    probabilities_NK = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.1, 0.1, 0.8], [0.0, 0.3, 0.7]])
    evaluation = Evaluation(probabilities_NK, torch.tensor([1, 1, 0, 1]), NAMES, "val")
    drawn = plots.mistake_grid(evaluation, painted(10, 20, 30, 40), 2)
    assert greys(drawn) == [30, 40]
    assert captions(drawn) == ["c, 80%", "is a", "c, 70%", "is b"]


def test_without_mistakes_the_grid_is_white() -> None:
    evaluation = Evaluation(torch.eye(3), torch.arange(3), NAMES, "val")
    assert (pixels(plots.mistake_grid(evaluation, painted(10, 20, 30))) == 255).all()


def test_gradcam_is_of_the_predicted_class(tiny_model: ResNet) -> None:
    spec = tiny_model.spec
    shared = {"version": "0", "spec": spec, "num_params": num_params(spec), "num_macs": num_macs(spec), "data": "d"}
    shared |= {
        "flip_invariant": True,
        "train_on": "train",
        "recipe": "r",
        "seed": 0,
        "epochs": 1,
        "steps": 1,
        "seconds": 1.0,
    }
    shared |= {"train_flops": 1, "machine": "m", "split": "val", "num_images": 1, "accuracy": 0.5}
    card = Card(class_names=NAMES[: spec.num_classes], interval=(0.4, 0.6), **shared)
    classifier = Classifier(tiny_model, card, choose("cpu"))
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    predictions = classifier.predict(images)
    assert captions(plots.gradcam_overlay(classifier, images)) == [
        f"{each.label}, {each.probability:.0%}" for each in predictions
    ]
