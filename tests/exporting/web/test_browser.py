"""The page in headless Chromium: every way to choose a picture gives the model's prediction; no data leave the page."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pocket_resnet
from hostile import CLASS_NAMES
from page_visit import Visit, file_of, offline
from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.image import decode
from pocket_resnet.exporting.exported_model import open_exported
from pocket_resnet.exporting.exporter import Exported
from pocket_resnet.exporting.graph import network_graph, with_preprocessing
from pocket_resnet.exporting.web.page import Page, render
from pocket_resnet.exporting.web.samples import Sample, Samples, choose_samples
from pocket_resnet.model.artifact import load_model

REAL_DATA = os.environ.get("POCKET_RESNET_DATA")  # before a fixture hides it

OpenPage = Callable[..., Visit]


def digit(number: int) -> Image.Image:
    """A validation image of the digits."""
    return Image.fromarray(open_source("digits").split("val").images_NCHW[number].permute(1, 2, 0).numpy())


def landscape(width: int, height: int) -> Image.Image:
    """A smooth picture in which every edge differs, with a digit in the middle."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([255 * x, 255 * y, 255 * (1 - x) * y], axis=-1).astype(np.uint8)
    picture, side = Image.fromarray(pixels), min(width, height) // 2
    picture.paste(digit(3).resize((side, side)), (width // 3, height // 5))
    return picture


def check_like_the_model(visit: Visit, name: str, content: bytes, model: Path) -> None:
    """Every probability within 0.03 of `predict`'s, and the page's input pixels within 3 levels for 99%."""
    visit.choose(name, content)
    [expected] = pocket_resnet.load(model).predict(content, top=10)
    probabilities = visit.probabilities()
    assert len(probabilities) == 10
    for label, probability in expected.top:
        assert probabilities[label] == pytest.approx(probability, abs=0.03), name
    assert visit.best == max(probabilities, key=lambda label: probabilities[label])
    difference = np.abs(visit.seen().astype(int) - decode(content, 32))
    assert difference.mean() < 1, name
    assert np.quantile(difference, 0.99) <= 3, name


def test_pictures_of_every_kind(visit: OpenPage, fp32_page: Exported, digits_run: Path) -> None:
    """Sizes, odd margins, orientation, transparency, grey, large pictures: as `predict` classifies them."""
    page, exif = visit(fp32_page.file), Image.Exif()
    exif[0x0112] = 6
    transparent = landscape(60, 45)
    transparent.putalpha(digit(5).resize((60, 45)).convert("L"))
    large = landscape(2600, 2101)
    pictures = {
        "small.png": file_of(digit(1)),
        "odd.png": file_of(landscape(101, 64)),
        "turned.jpg": file_of(landscape(90, 61), "JPEG", quality=95, exif=exif.tobytes()),
        "transparent.png": file_of(transparent),
        "grey.png": file_of(landscape(50, 83).convert("L")),
        "one.png": file_of(Image.new("RGB", (1, 1), "red")),
        "large.png": file_of(large, compress_level=1),
    }
    for name, content in pictures.items():
        check_like_the_model(page, name, content, digits_run)
    assert page.view.inner_text("#size") == "2600 × 2101 pixels, averaged in blocks of 2 × 2 first"


def test_int8_classes(visit: OpenPage, exports: dict[str, Exported], digits_run: Path, tmp_path: Path) -> None:
    """Those of the ONNX file with int8 in the native onnxruntime."""
    page = visit(pocket_resnet.export(digits_run, "web", out=tmp_path).file)
    images_NHWC = open_source("digits").split("val").images_NCHW[:50].permute(0, 2, 3, 1).contiguous().numpy()
    expected_N = open_exported(exports["int8"].file).session.logits(images_NHWC, 1).argmax(1)
    predicted = []
    for number in range(len(images_NHWC)):
        page.choose(f"{number}.png", file_of(digit(number)))
        predicted.append(int(page.best))
    assert (np.array(predicted) == expected_N).sum() >= 49
    assert float(page.view.inner_text("#time").removesuffix(" ms")) > 0


def test_drop_and_paste(visit: OpenPage, fp32_page: Exported, digits_run: Path) -> None:
    page = visit(fp32_page.file)
    for number, kind in enumerate(("drop", "paste")):
        content = file_of(digit(number))
        page.drop(kind, f"{kind}.png", content)
        assert page.best == pocket_resnet.load(digits_run).predict(content)[0].label


def test_files_that_are_not_pictures(visit: OpenPage, fp32_page: Exported, tmp_path: Path) -> None:
    """They are refused with a message; the last result stays, and the next picture works."""
    page, error = visit(fp32_page.file), "#error:not([hidden])"
    page.choose("a.png", file_of(digit(0)))
    best = page.best
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(65 * 2**20)
    for path, what in [("text.png", "cannot read that file as a picture"), ("large.png", "larger than 64 MB")]:
        (tmp_path / "text.png").write_bytes(b"not a picture")
        page.view.set_input_files("#file", tmp_path / path)
        page.view.wait_for_selector(f"{error}:text('{what}')")
        assert page.view.get_attribute("#error", "role") == "alert"
        assert page.best == best
        page.choose(f"after {path}", file_of(digit(0)))
        assert page.view.is_hidden("#error")


@pytest.mark.threat(30)
def test_hostile_names_are_text(visit: OpenPage, digits_run: Path, tmp_path: Path) -> None:
    """In the page, its title, its bars, and what a screen reader says."""
    names = (*CLASS_NAMES, "</script><script>alert(3)</script>", *"456789")
    [sample] = choose_samples(open_source("digits"), open_source("digits").split("val"), names, 1).pictures
    samples = Samples((Sample(sample.uri, CLASS_NAMES[1]),), CLASS_NAMES[0])
    model, card = load_model(digits_run)
    network = with_preprocessing(network_graph(model), card.spec.image_size, {}).SerializeToString()
    path = tmp_path / "hostile.html"
    path.write_bytes(render(Page(CLASS_NAMES[0], names, 32, dict.fromkeys(names, CLASS_NAMES[1]), samples), network))
    page = visit(path)
    assert page.view.title() == f"{CLASS_NAMES[0]}: what is in the picture?"
    assert page.view.locator(".chips li").all_inner_texts() == list(names)
    page.view.click("#samples button")
    page.view.wait_for_selector("body.classified")
    assert set(page.probabilities()) == set(names)
    assert page.best in page.view.text_content("#summary")
    assert page.view.locator("script").count() == 6
    assert page.view.locator("img").count() == 1


@pytest.mark.parametrize(("width_px", "touch"), [(360, True), (1200, False)])
def test_layout_and_keyboard(width_px: int, touch: bool, visit: OpenPage, fp32_page: Exported) -> None:
    """Nothing is wider than the window; keys can choose a sample; touch screens offer the camera."""
    viewport = {"width": width_px, "height": 800}
    page = visit(fp32_page.file, viewport=viewport, has_touch=touch, is_mobile=touch)
    assert page.view.is_visible("label[for=camera]") == touch
    assert page.view.get_attribute("#camera", "capture") == "environment"
    for _ in range(12):
        page.view.keyboard.press("Tab")
        if page.view.evaluate("document.activeElement.matches('#samples button')"):
            break
    page.view.keyboard.press("Enter")
    page.view.wait_for_selector("body.classified:not(.busy)")
    assert page.view.get_attribute("#samples button >> nth=0", "aria-pressed") == "true"
    assert page.view.evaluate("document.documentElement.scrollWidth") <= width_px
    probabilities = list(page.probabilities().items())
    assert probabilities == sorted(probabilities, key=lambda entry: -entry[1])
    summary = page.view.locator("#summary")
    assert summary.get_attribute("aria-live") == "polite"
    assert summary.text_content().startswith(f"Most probable: {page.best}, {probabilities[0][1]:.1%}. Then: ")
    page.view.click("#licences summary")
    page.view.wait_for_selector("#licence-text:has-text('Copyright (c) Microsoft Corporation')")


def test_content_security_policy_blocks_scripts_and_requests(browser: Any, fp32_page: Exported) -> None:
    page = Visit(offline(browser), fp32_page.file.as_uri())
    page.view.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.ran = true";
      document.body.append(script);
    }""")
    assert page.view.evaluate("window.ran") is None
    assert page.view.evaluate("fetch('data:,x').then(() => 'allowed', () => 'refused')") == "refused"


def test_unsupported_browser(browser: Any, fp32_page: Exported, tmp_path: Path) -> None:
    """A message says so, also after choosing a picture."""
    text = fp32_page.file.read_text(encoding="utf-8")
    path = tmp_path / "damaged.html"
    path.write_text(re.sub(r'(<script id="network" type="text/plain">)[^<]*', r"\1", text), encoding="utf-8")
    view = browser.new_page()
    view.goto(path.as_uri())
    error = "#error:text('This browser cannot run the network')"
    view.wait_for_selector(error)
    assert view.inner_text("#status") == "Not loaded"
    view.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": file_of(digit(0))})
    view.wait_for_selector(f"body:not(.busy) {error}")


@pytest.mark.slow
def test_drawings_are_recognised(visit: OpenPage, tmp_path: Path) -> None:
    """By a released network that was not trained on drawings."""
    model, card = load_model(Path("pocket-1m"))
    network = with_preprocessing(network_graph(model), card.spec.image_size, {}).SerializeToString()
    digits = open_source("digits")
    digits.name = "other"
    samples = choose_samples(digits, digits.split("val"), card.class_names, 0)
    path = tmp_path / "pocket-1m.html"
    path.write_bytes(render(Page("pocket-1m", card.class_names, 32, {}, samples), network))
    page = visit(path)
    for number, sample in enumerate(samples.pictures):
        page.view.click(f"#samples button >> nth={number}")
        page.wait_for(sample.description)
        assert sample.description == f"Drawing of {page.best}"
    assert len(samples.pictures) == 6


@pytest.mark.long
@pytest.mark.skipif(not REAL_DATA, reason="POCKET_RESNET_DATA is not set")
@pytest.mark.parametrize(("name", "most"), [("pocket-1m", 8_000_000), ("pocket-5m", 10_000_000)])
def test_released_models(name: str, most: int, visit: OpenPage, tmp_path: Path) -> None:
    """At least 98% of 500 validation images get the model's class; -s shows the figures of docs/deploy.md."""
    torch.set_num_threads(1)
    images_NCHW = open_source("cifar10", data_dir=REAL_DATA).split("val").images_NCHW[:500]
    expected = pocket_resnet.load(name).predict(images_NCHW)
    exported = pocket_resnet.export(name, "web", out=tmp_path, data_dir=REAL_DATA)
    assert exported.num_bytes <= most
    start = time.perf_counter()
    page = visit(exported.file)
    load_s, times_ms, num_equal = time.perf_counter() - start, [], 0
    for number, image_CHW in enumerate(images_NCHW):
        page.choose(f"{number}.png", file_of(Image.fromarray(image_CHW.permute(1, 2, 0).numpy())))
        num_equal += page.best == expected[number].label
        times_ms.append(float(page.view.inner_text("#time").removesuffix(" ms")))
    print(f"\n{name}: {exported.num_bytes:,} bytes, loaded in {load_s:.1f} s ({page.view.inner_text('#status')})")
    print(f"{num_equal} of {len(expected)} get the model's class; median {np.median(times_ms):.1f} ms a picture")
    assert num_equal >= 0.98 * len(expected)
