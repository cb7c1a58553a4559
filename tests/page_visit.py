"""Pages in Chromium: what they say and request, and what the visitor of an exported page sees."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PATIENCE_MS = 120_000


def watched(view: Any) -> tuple[list[str], list[str]]:
    """Lists of the page's console messages, errors and dialogs, and of the addresses that it requests, from now on."""
    said: list[str] = []
    asked: list[str] = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    view.on("request", lambda request: asked.append(request.url))
    return said, asked


class Visit:
    """An open page, without a network; `said` has its console messages, errors and dialogs, `asked` its requests."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        context = browser.new_context(**options)
        context.set_offline(True)
        self.view = context.new_page()
        self.view.set_default_timeout(PATIENCE_MS)
        self.said, self.asked = watched(self.view)
        self.view.goto(path.as_uri())
        self.view.wait_for_selector("body.ready")

    def choose(self, name: str, content: bytes) -> None:
        """Pick the file and wait for its result."""
        self.view.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
        self.wait_for(name)

    def wait_for(self, name: str) -> None:
        self.view.wait_for_selector(f'body.classified:not(.busy) #picture[aria-label="Picture: {name}"]')

    @property
    def best(self) -> str:
        return str(self.view.inner_text("#best"))

    def probabilities(self) -> dict[str, float]:
        """Class name -> probability, as the bars say."""
        names, percents = (self.view.locator(f"#classes .{part}").all_text_contents() for part in ("name", "percent"))
        return {name: float(percent.rstrip("%")) / 100 for name, percent in zip(names, percents, strict=True)}

    def seen(self) -> NDArray[np.uint8]:
        """The pixels that the page shows as the network's input, [S, S, 3]."""
        uri = self.view.evaluate("document.getElementById('seen').toDataURL()")
        content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def file_of(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The picture as the content of a file."""
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()
