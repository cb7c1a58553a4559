"""Labels beside points: none covers another label or a point."""

import itertools

from pocket_resnet.plots.style import figure
from tools.labels import Label, write_labels


def test_labels_keep_clear_of_each_other_and_of_points() -> None:
    """Five points in a row, so near that labels to the right of each would cover the next."""
    _, axes = figure(4, 3)
    points = [(0.4 + 0.1 * number, 0.5) for number in range(5)]
    for x, y in points:
        axes.plot(x, y, "o")
    axes.set_xlim(0, 1.2)
    write_labels(axes, [Label(x, y, f"name {number}", "black") for number, (x, y) in enumerate(points)])
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(box.contains(*axes.transData.transform(point)) for box in boxes for point in points)


def test_a_label_crosses_a_line_rather_than_hide_a_point() -> None:
    """A point on each side of the labelled one, a line above and one below."""
    _, axes = figure(4, 3)
    points = [(0.3, 0.5), (0.5, 0.5), (0.7, 0.5)]
    for x, y in points:
        axes.plot(x, y, "o")
    axes.plot([0, 1], [0.56, 0.56])
    axes.plot([0, 1], [0.44, 0.44])
    axes.set(xlim=(0, 1), ylim=(0, 1))
    write_labels(axes, [Label(0.5, 0.5, "a long name", "black")])
    [box] = [text.get_window_extent() for text in axes.texts]
    assert not any(box.contains(*axes.transData.transform(point)) for point in points)
