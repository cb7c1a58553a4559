"""An evaluation's figures against scikit-learn.

Shapes: N images, K classes.
"""

import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss
from torch import Tensor

from pocket_resnet.inference.evaluation import Confusion, Evaluation
from pocket_resnet.inference.statistics import wilson_interval

NAMES = ("red", "green", "blue")


def predictions(num_images: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    probabilities_NK = (3 * torch.randn(num_images, 3, generator=draws)).softmax(1)
    return probabilities_NK, torch.randint(0, 3, (num_images,), generator=draws)


@pytest.mark.threat(75)
def test_figures_against_scikit_learn() -> None:
    probabilities_NK, labels_N = predictions()
    found = Evaluation(probabilities_NK, labels_N, NAMES, "val")
    predicted_N = probabilities_NK.argmax(1)
    confusion = confusion_matrix(labels_N, predicted_N)
    assert found.accuracy == accuracy_score(labels_N, predicted_N)
    assert found.confusion == tuple(map(tuple, confusion))
    doubles_NK = probabilities_NK.double() / probabilities_NK.double().sum(1, keepdim=True)
    assert found.nll == pytest.approx(log_loss(labels_N, doubles_NK), abs=1e-6)
    assert (found.num_images, found.split, found.views) == (200, "val", 1)
    for k, result in enumerate(found.per_class):
        assert (result.name, result.num_images) == (NAMES[k], confusion[k].sum())
        assert result.accuracy == confusion[k, k] / confusion[k].sum()
        assert result.interval == wilson_interval(confusion[k, k], confusion[k].sum())


def test_absent_class_and_certain_mistake() -> None:
    """A class without images has no accuracy; probability 0 for the truth gives a finite likelihood."""
    probabilities_NK = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = Evaluation(probabilities_NK, torch.tensor([0, 0]), NAMES, "val")
    assert [result.accuracy for result in found.per_class] == [0.5, None, None]
    assert found.nll == pytest.approx(-0.5 * torch.tensor(1e-12).log().item(), rel=1e-5)
    assert found.to_json()["per_class"]["green"] == {"num_images": 0, "accuracy": None, "interval": None}


def test_mistakes_and_doubts_are_ranked() -> None:
    found = Evaluation(*predictions(30), NAMES, "val")
    confidence = found.probabilities_NK.amax(1).tolist()
    hit = (found.probabilities_NK.argmax(1) == found.labels_N).tolist()
    wrong = sorted((n for n in range(30) if not hit[n]), key=lambda n: -confidence[n])
    right = sorted((n for n in range(30) if hit[n]), key=lambda n: confidence[n])
    assert found.surest_mistakes(4).tolist() == wrong[:4]
    assert found.doubtful_hits(30).tolist() == right
    [outcome] = found.outcomes(torch.tensor(wrong[:1]))
    predicted = int(found.probabilities_NK[wrong[0]].argmax())
    true = int(found.labels_N[wrong[0]])
    probabilities = confidence[wrong[0]], found.probabilities_NK[wrong[0], true].item()
    assert outcome == (str(wrong[0]), NAMES[true], NAMES[predicted], *probabilities)


def test_outcomes_name_the_files() -> None:
    probabilities_NK = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.5, 0.5], [0.125, 0.25, 0.625]])
    found = Evaluation(probabilities_NK, torch.tensor([1, 1, 0]), NAMES, "val", files=("green/a", "green/b", "red/a"))
    assert found.outcomes() == [
        ("green/a", "green", "red", 0.75, 0.25),
        ("green/b", "green", "green", 0.5, 0.5),
        ("red/a", "red", "blue", 0.625, 0.125),
    ]
    assert [outcome.image for outcome in found.outcomes(found.surest_mistakes(9))] == ["green/a", "red/a"]


def test_a_hundred_thousand_classes() -> None:
    """Without a matrix of ten billion counts."""
    num_classes = 100_000
    probabilities_NK = torch.zeros(5, num_classes)
    probabilities_NK[torch.arange(5), torch.tensor([7, 8, 8, 9, 99_999])] = 1
    names = tuple(map(str, range(num_classes)))
    found = Evaluation(probabilities_NK, torch.tensor([7, 7, 7, 7, 99_999]), names, "val")
    assert (found.accuracy, found.num_images) == (0.4, 5)
    assert found.nll == pytest.approx(0.6 * 12 * torch.tensor(10.0).log().item(), rel=1e-5)
    assert [(each.name, each.num_images, each.accuracy) for each in found.per_class if each.num_images] == [
        ("7", 4, 0.25),
        ("99999", 1, 1.0),
    ]
    assert found.confusions() == [Confusion("7", "8", 2, 0.5), Confusion("7", "9", 1, 0.25)]
    assert found.confusions(1) == [Confusion("7", "8", 2, 0.5)]
