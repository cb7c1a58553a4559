"""The pages: Jinja2 templates, which escape all text, and the script and style that they load from this server."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pocket_resnet.exporting.web import template
from pocket_resnet.exporting.web.samples import drawings
from pocket_resnet.serving.served_model import ServedModel

_PACKAGE = "pocket_resnet.serving"


@dataclass(frozen=True)
class StaticFile:
    """A file of the pages."""

    content: bytes
    media_type: str


_network = (files(_PACKAGE) / "templates" / "server.js").read_text(encoding="utf-8")
STATIC = {
    "page.js": StaticFile(template.script(_network).encode(), "text/javascript"),
    "page.css": StaticFile(template.style().encode(), "text/css"),
}
_environment = template.environment(_PACKAGE)


def classify(model: ServedModel) -> str:
    """The page that sends a picture to this server and shows its classes."""
    facts = {name.replace("_", " ").capitalize(): text for name, text in model.facts.items()}
    page = template.Page("PocketResNet", model.class_names, model.image_size, facts, drawings(model.class_names))
    return _environment.get_template("classify.html.jinja").render(page=page)


def docs(description: Mapping[str, Any]) -> str:
    """The page about the API; `description` is its OpenAPI description."""
    return _environment.get_template("docs.html.jinja").render(api=description)
