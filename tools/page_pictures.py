"""Takes the pictures of an exported page that docs/deploy.md shows: light, dark, and on a phone.

python -m tools.page_pictures exports/pocket-1m-int8.html
"""

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from pocket_resnet.io.files import write_bytes
from tools import parser

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"


@dataclass(frozen=True)
class Shot:
    """One picture."""

    name: str
    size_px: tuple[int, int]
    scheme: Literal["light", "dark"]
    sample: str
    """The beginning of its description."""
    on_a_phone: bool = False


SHOTS = (
    Shot("page-light", (1120, 965), "light", "Drawing of ship"),
    Shot("page-dark", (1120, 965), "dark", "Drawing of bird"),
    Shot("page-phone", (390, 1265), "light", "Drawing of frog", on_a_phone=True),
)


def main() -> None:
    """Write docs/pictures/page-*.png."""
    options = parser(__doc__)
    options.add_argument("page", type=Path, help="an exported HTML page")
    page = options.parse_args().page.resolve()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for shot in SHOTS:
            write_bytes(FOLDER / f"{shot.name}.png", take(browser, page, shot))
        browser.close()


def take(browser: Browser, page: Path, shot: Shot) -> bytes:
    """A PNG of the page after a click on the sample."""
    width, height = shot.size_px
    options: dict[str, Any] = {"viewport": {"width": width, "height": height}, "color_scheme": shot.scheme}
    context = browser.new_context(**options, has_touch=shot.on_a_phone, is_mobile=shot.on_a_phone)
    view = context.new_page()
    view.goto(page.as_uri())
    view.wait_for_selector("body.ready")
    for _ in range(2):  # the second time does not include the browser's start
        view.click(f"#samples img[alt^='{shot.sample}']")
        view.wait_for_selector("body.classified:not(.busy)")
    content = io.BytesIO()
    Image.open(io.BytesIO(view.screenshot())).convert("RGB").save(content, "PNG", optimize=True)
    context.close()
    return content.getvalue()


if __name__ == "__main__":
    main()
