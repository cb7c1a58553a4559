"""Pages of the small network trained on the digits."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pocket_resnet
from page_visit import Visit, offline
from pocket_resnet.exporting.exporter import Exported


@pytest.fixture(scope="session")
def fp32_page(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.set_num_threads(1)
    return pocket_resnet.export(digits_run, "web", precision="fp32", out=tmp_path_factory.mktemp("pages"))


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """visit(path) opens a page. At teardown, no page may have logged anything or requested anything but itself."""
    visits: list[Visit] = []

    def start(path: str | Path, **options: Any) -> Visit:
        visits.append(Visit(offline(browser, **options), Path(path).as_uri()))
        return visits[-1]

    yield start
    for each in visits:
        assert each.messages == []
        assert [url for url in each.requested_urls if not url.startswith(("blob:", "data:"))] == [each.view.url]
