"""The page that classifies pictures: its HTML, style and scripts, which exported pages and the server share.

Jinja2 escapes all text; the script inserts its own only as text.
"""

from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment

from pocket_resnet.exporting.web.samples import Samples
from pocket_resnet.io.templates import templates_of

_PACKAGE = "pocket_resnet.exporting.web"


@dataclass(frozen=True)
class Page:
    """The text and pictures of the page, apart from predictions."""

    name: str
    """The model's name."""
    class_names: tuple[str, ...]
    image_size: int
    facts: dict[str, str]
    """Heading -> text, about the network."""
    samples: Samples


def environment(*packages: str) -> Environment:
    """Templates of this package and of others, whose templates may extend page.html.jinja."""
    return templates_of(*packages, _PACKAGE)


def style() -> str:
    """The page's CSS."""
    return _read("page.css")


def script(network: str) -> str:
    """The page's JavaScript; `network` is the part that defines `loadNetwork`, see page.js."""
    return "\n".join((network, _read("picture.js"), _read("page.js")))


def _read(name: str) -> str:
    return (resources.files(_PACKAGE) / "templates" / name).read_text(encoding="utf-8")
