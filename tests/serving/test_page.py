"""The page in a browser: a picture is chosen, dropped or pasted, and its classes are shown.

tests/exporting/web tests the parts that it shares with exported pages.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hostile import CLASS_NAMES
from page_visit import Visit, file_of
from pocket_resnet.data.image import MAX_NUM_FRAMES, decode

from .conftest import Server, picture

PHONE = {"viewport": {"width": 360, "height": 700}}


def visit(browser: Any, server: Server) -> Visit:
    return Visit(browser.new_context(**PHONE), f"http://localhost:{server.port}/")


def test_page(start: Callable[..., Server], browser: Any) -> None:
    """No message on the console, no request elsewhere; names of any kind are shown as text."""
    server = start(names=CLASS_NAMES)
    page = visit(browser, server)
    contents = [file_of(Image.fromarray(decode(picture(seed, size=4))).resize((40, 30))) for seed in range(3)]
    page.choose("0.png", contents[0])
    for number, kind in enumerate(("drop", "paste"), start=1):
        page.drop(kind, f"{number}.png", contents[number])
        [response] = json.loads(server.predict(contents[number]).body)["predictions"]
        expected = {each["label"]: each["probability"] for each in response["top"]}
        assert list(page.probabilities()) == list(expected)
        assert page.best == response["label"]
        for label, probability in page.probabilities().items():
            assert probability == pytest.approx(expected[label], abs=0.00051)
        difference = page.seen().astype(int) - decode(contents[number], len(page.seen()))
        assert np.abs(difference).mean() < 8
    assert page.view.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.messages == []
    origins = (f"http://localhost:{server.port}/", "data:")
    assert all(url.startswith(origins) for url in page.requested_urls)


def test_samples(start: Callable[..., Server], browser: Any) -> None:
    """The server does not read drawings: the page sends them as PNG."""
    page = visit(browser, start(names=("ship", "x", "frog")))
    page.view.click("#samples button >> nth=1")
    page.wait_for("Drawing of frog")
    assert page.best in ("ship", "x", "frog")
    assert page.messages == []


def test_refused_pictures(start: Callable[..., Server], browser: Any) -> None:
    """The page shows the reason and keeps the last prediction, also if the server is gone."""
    server = start()
    page, error = visit(browser, server), "#error:not([hidden])"
    page.choose("good.png", picture())
    best = page.best
    frames = [Image.new("L", (1, 1), 255 * (number % 2)) for number in range(MAX_NUM_FRAMES + 1)]
    film = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    page.view.set_input_files("#file", {"name": "film.gif", "mimeType": "image/gif", "buffer": film})
    page.view.wait_for_selector(f"{error}:text('1,001 frames are over the limit of 1,000; send a whole picture')")
    assert page.best == best
    server.stop()
    page.view.set_input_files("#file", {"name": "late.png", "mimeType": "image/png", "buffer": picture()})
    page.view.wait_for_selector(f"{error}:text('The server does not answer.')")
