"""The pages: Jinja2 templates, which escape all text, and the script and style that they load from this server."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pocket_resnet.io.templates import templates_of
from pocket_resnet.serving.served_model import ServedModel


@dataclass(frozen=True)
class StaticFile:
    """A file of the pages."""

    content: bytes
    media_type: str


STATIC = {
    name: StaticFile(files("pocket_resnet.serving").joinpath("static", name).read_bytes(), media_type)
    for name, media_type in {"page.js": "text/javascript", "page.css": "text/css"}.items()
}
_environment = templates_of("pocket_resnet.serving")


def classify(model: ServedModel) -> str:
    """The page that uploads a picture and shows its classes."""
    return _environment.get_template("classify.html.jinja").render(model=model)


def docs(description: Mapping[str, Any]) -> str:
    """The page about the API; `description` is its OpenAPI description."""
    return _environment.get_template("docs.html.jinja").render(api=description)
