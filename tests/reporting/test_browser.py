"""A report in a real browser."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostile import CLASS_NAMES
from page_visit import watched
from pocket_resnet.reporting.report import write_report

NUM_PICTURES = 8  # with few images, there is no calibration diagram


@pytest.mark.parametrize(("width_px", "scheme"), [(360, "dark"), (1400, "light")])
def test_in_a_browser(width_px: int, scheme: str, train_hostile: Callable[..., Path], browser: Any) -> None:
    """No error, no request, every picture present and on white, nothing wider than the window, numbers as recorded."""
    folder = train_hostile("r")
    path = write_report([folder])
    view = browser.new_page(viewport={"width": width_px, "height": 800}, color_scheme=scheme)
    messages, requested_urls = watched(view)
    view.goto(path.as_uri())
    assert messages == []
    assert [url for url in requested_urls if not url.startswith("data:")] == [path.as_uri()]
    widths = view.eval_on_selector_all("img", "all => all.map(one => [one.complete, one.naturalWidth])")
    assert len(widths) == NUM_PICTURES
    assert all(complete and width > 0 for complete, width in widths)
    behind = view.eval_on_selector_all(
        "img", "all => all.map(one => getComputedStyle(one.parentElement).backgroundColor)"
    )
    assert set(behind) == {"rgb(255, 255, 255)"}
    assert view.evaluate("document.documentElement.scrollWidth") <= width_px
    result = json.loads((folder / "result.json").read_text())
    assert view.locator(".facts dd").first.inner_text().startswith(f"{result['accuracy']:.2%}")
    view.get_by_text("All values").click()
    [*_, last] = view.locator("#epochs tbody tr").all()
    record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    cells = last.locator("td").all_inner_texts()
    assert cells[3:7] == [
        f"{record['train_loss']:.4f}",
        f"{record['val_nll']:.4f}",
        f"{record['train_accuracy']:.2%}",
        f"{record['val_accuracy']:.2%}",
    ]
    names = view.locator("#per-class tbody tr td:first-child").all_inner_texts()
    assert names == list(CLASS_NAMES)
