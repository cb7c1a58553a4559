"""Pages in Chromium: their messages and requests, and what a visitor sees."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PATIENCE_MS = 120_000
DROP = """([type, name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], name, { type: "image/png" }));
  const options = { bubbles: true, cancelable: true, dataTransfer: files, clipboardData: files };
  const event = type === "paste" ? new ClipboardEvent(type, options) : new DragEvent(type, options);
  document.getElementById("stage").dispatchEvent(event);
}"""


def watched(view: Any) -> tuple[list[str], list[str]]:
    """Lists of the page's console messages, errors and dialogs, and of the addresses that it requests, from now on."""
    messages: list[str] = []
    requested_urls: list[str] = []
    view.on("console", lambda message: messages.append(message.text))
    view.on("pageerror", lambda error: messages.append(str(error)))
    view.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
    view.on("request", lambda request: requested_urls.append(request.url))
    return messages, requested_urls


def offline(browser: Any, **options: Any) -> Any:
    """A browser context without a network."""
    context = browser.new_context(**options)
    context.set_offline(True)
    return context


class Visit:
    """An open page; `messages` has its console messages, errors and dialogs, `requested_urls` its requests."""

    def __init__(self, context: Any, url: str) -> None:
        self.view = context.new_page()
        self.view.set_default_timeout(PATIENCE_MS)
        self.messages, self.requested_urls = watched(self.view)
        self.view.goto(url)
        self.view.wait_for_selector("body.ready")

    def choose(self, name: str, content: bytes) -> None:
        """Pick the file and wait for its result."""
        self.view.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
        self.wait_for(name)

    def drop(self, kind: str, name: str, content: bytes) -> None:
        """Drop or paste (`kind`) the file and wait for its result."""
        self.view.evaluate(DROP, [kind, name, base64.b64encode(content).decode()])
        self.wait_for(name)

    def wait_for(self, name: str) -> None:
        self.view.wait_for_selector(f'body.classified:not(.busy) #picture[aria-label="Picture: {name}"]')

    @property
    def best(self) -> str:
        return str(self.view.inner_text("#best"))

    def probabilities(self) -> dict[str, float]:
        """Class name -> probability, as the bars show."""
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
