"""The first commands of docs/own-images.md, verbatim: from a folder of pictures to a page on a phone."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import pocket_resnet
from page_visit import Visit
from pocket_resnet.data.datasets import open_source
from pocket_resnet.model.artifact import load_card

GUIDE = Path(__file__).parents[2] / "docs" / "own-images.md"
CLASSES = ("cat", "dog", "owl")
RUN = Path("runs/finetune-pictures-seed0")
SHORTER = ("--max-steps", "2", "--no-report")  # of a training of 200 steps
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 800}, "is_mobile": True, "has_touch": True}


def draw(folder: Path, first: int, count: int) -> None:
    """Digits in the place of animals: any pictures will do."""
    split = open_source("digits").split("train")
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in (split.labels_N == label).nonzero().flatten()[first : first + count].tolist():
            image_HWC = split.images_NCHW[index].permute(1, 2, 0).numpy()
            Image.fromarray(image_HWC).save(folder / name / f"{index}.png")


def commands(heading: str) -> list[list[str]]:
    """The words of each command in the first block under the heading."""
    text = GUIDE.read_text(encoding="utf-8").split(heading)[1]
    block = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0]
    return [shlex.split(line, comments=True) for line in block.splitlines()]


@contextmanager
def started(server: list[str]) -> Iterator[str]:
    """Run `python -m http.server ... PORT` on a free port; gives its address."""
    words = [sys.executable, *server[1:-1], "0"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as process:
        try:
            assert process.stdout is not None
            started = re.search(r"port (\d+)", process.stdout.readline())
            assert started is not None
            yield f"http://127.0.0.1:{started[1]}"
        finally:
            process.terminate()


def check_on_a_phone(browser: Any, address: str) -> None:
    """Over plain HTTP from another host name, which browsers trust less than localhost."""
    context = browser.new_context(**PHONE)
    context.route(
        "http://computer.test/**",
        lambda route: route.fulfill(
            response=route.fetch(url=route.request.url.replace("http://computer.test", address))
        ),
    )
    index = context.new_page()
    index.goto("http://computer.test/")
    [name] = index.locator("a").all_inner_texts()
    assert name == f"{RUN.name}-int8.html"
    page = Visit(context, f"http://computer.test/{name}")
    assert not page.view.evaluate("isSecureContext")
    assert page.view.is_visible("label[for=camera]")
    classifier, certain = pocket_resnet.load(RUN), []
    for picture in sorted(Path("new-pictures").glob("*/*.png")):
        page.choose(picture.name, picture.read_bytes())
        assert set(page.probabilities()) == set(CLASSES)
        [prediction] = classifier.predict(picture)
        if prediction.top[0][1] - prediction.top[1][1] > 0.2:
            certain.append((page.best, prediction.label))
    assert certain
    assert all(shown == expected for shown, expected in certain)
    assert page.messages == []


def test_the_first_commands(
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """The training is cut to two steps; without a browser, the page is not opened."""
    monkeypatch.chdir(tmp_path)
    draw(Path("pictures"), 0, 30)
    draw(Path("new-pictures"), 30, 3)
    *first, server = commands("# Your own images")
    assert [words[1] for words in first] == ["data", "train", "evaluate", "export"]
    for words in [*first, commands("## Classify many images")[0]]:
        code, _, error = run(*words[1:], *(SHORTER if words[1] == "train" else ()))
        assert code == 0, error
    card = load_card(Path("runs/latest"))
    assert (card.class_names, card.pretrained, card.recipe) == (CLASSES, "pocket-1m", "finetune")
    rows = list(csv.DictReader(Path("predictions.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["image"] for row in rows] == sorted(str(path) for path in Path("new-pictures").glob("*/*.png"))
    assert {row["label"] for row in rows} <= set(CLASSES)
    assert json.loads((RUN / "result.json").read_text())["steps"] == 2
    with started(server) as address:
        check_on_a_phone(request.getfixturevalue("browser"), address)
