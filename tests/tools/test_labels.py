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
