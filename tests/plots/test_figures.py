"""Charts draw the given values, for two classes or a hundred, one run or several."""

import numpy as np
import pytest
import torch
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure

from pocket_resnet.inference.evaluation import Evaluation
from pocket_resnet.inference.statistics import calibration_bins, calibration_error
from pocket_resnet.plots import figures
from pocket_resnet.plots.style import fit_text, png


def evaluation(num_classes: int, count: int = 200) -> Evaluation:
    draws = torch.Generator().manual_seed(0)
    labels_N = torch.randint(0, num_classes, (count,), generator=draws)
    logits_NK = 2 * torch.randn(count, num_classes, generator=draws)
    logits_NK[torch.arange(count), labels_N] += 2
    names = tuple(f"class {k}" for k in range(num_classes))
    return Evaluation(logits_NK.softmax(1), labels_N, names, "val")


def texts(drawn: Figure) -> list[str]:
    return [text.get_text() for axes in drawn.axes for text in axes.texts]


def test_confusion_matrix_has_the_counts() -> None:
    evaluated = evaluation(4)
    drawn = figures.confusion_matrix(evaluated)
    written = np.array([int(text or 0) for text in texts(drawn)]).reshape(4, 4)
    assert written.tolist() == [list(row) for row in evaluated.confusion]
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == [f"class {k}" for k in range(4)]
    [image] = drawn.axes[0].images
    ink_KK3 = np.asarray(image.get_array())
    assert (ink_KK3[np.eye(4, dtype=bool)][:, 2] > ink_KK3[np.eye(4, dtype=bool)][:, 0]).all()  # hits are blue


def test_class_accuracies_stand_in_order() -> None:
    evaluated = evaluation(5)
    drawn = figures.class_accuracies(evaluated)
    names = [label.get_text() for label in drawn.axes[0].get_yticklabels()][::-1]
    by_name = {result.name: result for result in evaluated.per_class}
    assert names == sorted(by_name, key=lambda name: -by_name[name].accuracy)
    dots = [line.get_xdata()[0] for line in drawn.axes[0].lines if line.get_marker() == "o"]
    assert dots[::-1] == pytest.approx([100 * by_name[name].accuracy for name in names])
    assert f"{evaluated.accuracy:.1%}" in texts(drawn)[0]


def test_confused_pairs_are_the_most_frequent_mistakes() -> None:
    evaluated = evaluation(4)
    counts = {(i, j): evaluated.confusion[i][j] for i in range(4) for j in range(4) if i != j}
    drawn = figures.confused_pairs(evaluated, 3)
    [axes] = drawn.axes
    assert [bar.get_width() for bar in axes.patches] == sorted(counts.values(), reverse=True)[:3]
    for label, pair in zip(axes.get_yticklabels(), evaluated.confusions(3), strict=True):
        assert label.get_text() == f"{pair.true} → {pair.predicted}"
        assert pair.num_images == counts[int(pair.true[-1]), int(pair.predicted[-1])]
        assert pair.share == pair.num_images / sum(evaluated.confusion[int(pair.true[-1])])


def test_network_without_mistakes_can_be_drawn() -> None:
    evaluated = Evaluation(torch.eye(3), torch.arange(3), ("a", "b", "c"), "val")
    assert evaluated.confusions() == []
    assert png(figures.confused_pairs(evaluated)).startswith(b"\x89PNG")


def test_class_without_hits_and_class_without_images() -> None:
    """Cells without images are white, also on the diagonal."""
    probabilities_NK = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]])
    evaluated = Evaluation(probabilities_NK, torch.tensor([0, 1]), ("a", "b", "c"), "val")
    drawn = figures.class_accuracies(evaluated)
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["b", "a"]
    [image] = figures.confusion_matrix(evaluated).axes[0].images
    is_white_KK = (np.asarray(image.get_array()) == 1).all(2)
    assert is_white_KK.tolist() == [[False, True, True], [False, True, True], [True, True, True]]


def test_accuracy_of_all_classes_is_on_the_axis() -> None:
    """Also if all drawn classes, the least accurate ones, are far below it."""
    labels_N = torch.arange(6000) % 60
    is_hit_N = (labels_N >= figures.MAX_BARS) | (torch.arange(6000) // 60 % 4 == 0)
    predicted_N = torch.where(is_hit_N, labels_N, 59)
    evaluated = Evaluation(torch.eye(60)[predicted_N], labels_N, tuple(map(str, range(60))), "val")
    [axes] = figures.class_accuracies(evaluated).axes
    low, high = axes.get_xlim()
    assert low < 100 * evaluated.accuracy < high
    assert max(100 * each.interval[1] for each in evaluated.per_class[:30] if each.interval) < 50


def test_text_stays_inside_the_figure() -> None:
    """Beside long names, the axes are narrower than their label."""
    names = "a very long class name", "another very long class name"
    evaluated = Evaluation(torch.eye(2)[torch.arange(4000) % 3 % 2], torch.arange(4000) % 2, names, "val")
    accuracies = [("first-run-with-a-long-name", 0.93, (0.92, 0.94)), ("b", 0.5, (0.45, 0.55))]
    for drawn in (figures.confused_pairs(evaluated), figures.run_accuracies(accuracies)):
        drawn.draw_without_rendering()
        box = drawn.get_tightbbox()
        assert box.x0 >= 0
        assert box.x1 <= drawn.get_figwidth()


def test_every_runtime_is_drawn() -> None:
    points = [("model", f"runtime {number}", 0.01 * (number + 1), 0.9) for number in range(9)]
    drawn = figures.accuracy_latency(points)
    [axes] = drawn.axes
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([10 * (number + 1) for number in range(9)])
    png(drawn)
    assert axes.get_window_extent().width > 0.7 * drawn.bbox.width


@pytest.mark.parametrize("num_classes", [2, 20, 100])
def test_any_number_of_classes_can_be_drawn(num_classes: int) -> None:
    evaluated = evaluation(num_classes)
    assert png(figures.confusion_matrix(evaluated)).startswith(b"\x89PNG")
    drawn = figures.class_accuracies(evaluated)
    assert len(drawn.axes[0].get_yticklabels()) <= figures.MAX_BARS
    assert png(drawn)


def test_reliability_diagram_has_the_bins() -> None:
    evaluated = evaluation(4)
    confidence_N, predicted_N = evaluated.probabilities_NK.max(1)
    bins = calibration_bins(confidence_N, predicted_N == evaluated.labels_N)
    drawn = figures.reliability_diagram(evaluated)
    axes, counts = drawn.axes
    x, y = next((line.get_xdata(), line.get_ydata()) for line in axes.lines if line.get_marker() == "o")
    assert list(x) == pytest.approx([100 * each.confidence for each in bins])
    assert list(y) == pytest.approx([100 * each.accuracy for each in bins])
    assert sum(bar.get_height() for bar in counts.patches) == pytest.approx(100)
    for bar, each in zip(counts.patches, bins, strict=True):
        assert bar.get_x() < 100 * each.confidence < bar.get_x() + 100 / 15
    assert axes.get_title("left") == f"expected calibration error {100 * evaluated.ece:.1f} points"
    assert evaluated.ece == calibration_error(confidence_N, predicted_N == evaluated.labels_N)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["$\\frac{", "$x$", "猫", "a\nb\x00", "x" * 300, "<b>", "_^{}"])
def test_any_name_can_be_drawn(name: str) -> None:
    drawn = figures.run_accuracies([(name, 0.5, (0.4, 0.6)), ("b", 1.0, (0.9, 1.0))])
    assert png(drawn).startswith(b"\x89PNG")
    assert len(fit_text(name).replace("\\$", "$")) <= 14
    axes = drawn.axes[0]
    assert axes.get_yticklabels()[1].get_text() == fit_text(name, 24)
    assert not is_math_text(fit_text(name))
    assert fit_text(name).isprintable()
