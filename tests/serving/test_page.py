"""The page in a browser: a picture is chosen, dropped or pasted, and its classes are shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostile import CLASS_NAMES
from page_visit import watched

from .conftest import Server, picture

DROP = """([content, kind]) => {
  const picture = new File([new Uint8Array(content)], "picture.png", { type: "image/png" });
  const transfer = new DataTransfer();
  transfer.items.add(picture);
  const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
  document.body.dispatchEvent(event);
}"""


@pytest.fixture
def view(browser: Any) -> Any:
    return browser.new_page(viewport={"width": 360, "height": 700})


def shown(view: Any) -> dict[str, str]:
    """The classes in their order, once they are there."""
    view.locator("#classes li").first.wait_for()
    rows = [row.locator("span").all_inner_texts() for row in view.locator("#classes li").all()]
    return {name: share for name, share in rows}  # noqa: C416


def test_page(start: Callable[..., Server], view: Any, tmp_path: Path) -> None:
    """No message on the console, no request elsewhere; names of any kind are shown as text."""
    server = start(names=CLASS_NAMES)
    said, asked = watched(view)
    view.goto(f"http://localhost:{server.port}/")
    contents = [picture(seed) for seed in range(3)]
    (tmp_path / "picture.png").write_bytes(contents[0])
    for number, content in enumerate(contents):
        view.evaluate("() => document.querySelector('#classes').replaceChildren()")
        if number == 0:
            view.set_input_files("#file", tmp_path / "picture.png")
        else:
            view.evaluate(DROP, [list(content), ("drop", "paste")[number - 1]])
        top = json.loads(server.send("POST", "/v1/predict?top=10", content, {"Content-Type": "image/png"}).body)
        expected = {each["label"]: each["probability"] for each in top["predictions"][0]["top"]}
        found = shown(view)
        assert list(found) == list(expected)
        assert [float(share.rstrip("%")) for share in found.values()] == pytest.approx(
            [100 * probability for probability in expected.values()], abs=0.051
        )
    assert view.locator("#preview").evaluate("image => image.naturalWidth") == 8
    assert view.evaluate("document.documentElement.scrollWidth") <= 360
    assert said == []
    origins = (f"http://localhost:{server.port}/", f"blob:http://localhost:{server.port}/", "data:")
    assert all(url.startswith(origins) for url in asked)


def test_what_is_no_picture(start: Callable[..., Server], view: Any, tmp_path: Path) -> None:
    server = start()
    view.goto(f"http://localhost:{server.port}/")
    (tmp_path / "picture.png").write_bytes(b"no picture")
    view.set_input_files("#file", tmp_path / "picture.png")
    view.get_by_text("Not classified: not an image").wait_for()
    assert view.locator("#classes li").count() == 0
