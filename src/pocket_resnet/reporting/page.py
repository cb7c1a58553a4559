"""Renders a page with the Jinja2 templates beside this file, and formats its numbers.

A page is one file with inline styles, pictures as data URIs and no script. A content security policy forbids everything
else, and Jinja2 escapes every text.
"""

import base64
from dataclasses import dataclass
from typing import Any

from pocket_resnet.io.templates import templates_of
from pocket_resnet.model.counts import operations
from pocket_resnet.training.metrics import duration

MIN_P = 1e-4


@dataclass(frozen=True)
class Picture:
    """A PNG."""

    png: bytes

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height, from the header."""
        return int.from_bytes(self.png[16:20]), int.from_bytes(self.png[20:24])


def render(template: str, page: Any) -> str:
    """The page as HTML, rendered with templates/`template`.html.jinja."""
    environment = templates_of("pocket_resnet.reporting")
    filters = (count, duration, fixed, interval, operations, p_value, percent, signed)
    environment.filters |= {each.__name__: each for each in filters}
    return environment.get_template(f"{template}.html.jinja").render(page=page)


def count(number: int) -> str:
    """`12,345`."""
    return f"{number:,}"


def fixed(number: float, decimals: int) -> str:
    """`0.1230`."""
    return f"{number:.{decimals}f}"


def signed(number: float) -> str:
    """`+1.20` or `−1.20`."""
    return f"{number:+.2f}".replace("-", "−")


def percent(share: float, decimals: int = 2) -> str:
    """`93.21%`."""
    return f"{share:.{decimals}%}"


def interval(ends: tuple[float, float], joint: str = " to ", decimals: int = 2) -> str:
    """`92.50% to 93.85%`."""
    return joint.join(percent(end, decimals) for end in ends)


def p_value(p: float) -> str:
    """`0.0312`, or `< 0.0001` for anything smaller."""
    return fixed(p, 4) if p >= MIN_P else f"< {MIN_P}"
