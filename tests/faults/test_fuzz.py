"""Whatever the bytes are, a reader gives a valid result or a PocketError, soon, and leaves no file behind.

Examples begin as whole files and are changed: bits flipped, pieces cut out, doubled, put in or moved. Sums are made
to fit, or nothing but them would be tested. `make test` tries a few, `make fuzz` other ones for an hour.
"""

import contextlib
import copy
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pocket_resnet.data.archive import extract
from pocket_resnet.data.image import ImageError, decode
from pocket_resnet.data.records import parse_binary, parse_python
from pocket_resnet.data.source import open_source
from pocket_resnet.errors import ArtifactError, DataError, NonFiniteError, PocketError, UsageError
from pocket_resnet.files import SUMS_NAME
from pocket_resnet.model.artifact import CONFIG_NAME, WEIGHTS_NAME, load_model
from pocket_resnet.recipe import Recipe
from pocket_resnet.recipe_toml import load_recipe, parse_recipe, recipes_folder, to_toml
from pocket_resnet.training.checkpoint import STATE_NAME, TENSORS_NAME
from pocket_resnet.training.run import Result, train

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's and pickletools', of damaged files

FUZZING = settings(
    settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SLOW = settings(FUZZING, max_examples=FUZZING.max_examples // 4)
MAX_FORWARD_PX = 64
GOLDEN_MODEL = Path(__file__).parent / "golden" / "model-0.1.0"

Edit = tuple[str, float, int, int]


# Changed files


def apply(content: bytes, edit: Edit) -> bytes:
    """The content after one change at a share of its length; `number` and `size` mean what the kind makes of them."""
    kind, share, number, size = edit
    at = int(share * len(content))
    piece = content[at : at + size]
    if kind == "flip" and piece:
        return content[:at] + bytes([piece[0] ^ (1 << number % 8)]) + content[at + 1 :]
    if kind == "set":
        return content[:at] + (number & 0xFFFFFFFF).to_bytes(4, "little")[: size % 4 + 1] + content[at + size % 4 + 1 :]
    if kind == "cut":
        return content[:at] + content[at + size :]
    if kind == "end":
        return content[:at]
    if kind == "double":
        return content[:at] + piece * 2 + content[at + size :]
    if kind == "swap":
        return content[:at] + content[at + size : at + 2 * size] + piece + content[at + 2 * size :]
    return content[:at] + bytes([number & 0xFF]) * size + content[at:]


SHARES = st.one_of(st.floats(0, 1, exclude_max=True), st.floats(0, 0.02), st.floats(0.98, 1, exclude_max=True))
EDITS = st.tuples(
    st.sampled_from(["flip", "set", "cut", "end", "double", "swap", "insert"]),
    SHARES,
    st.one_of(st.integers(0, 255), st.sampled_from([2**31 - 1, 2**31, 2**32 - 1, 10**6])),
    st.one_of(st.integers(1, 16), st.integers(1, 4_000)),
)


def changed(*whole: bytes) -> st.SearchStrategy[bytes]:
    """One of these files after up to five changes, or now and then something else altogether."""

    def change(drawn: tuple[int, list[Edit]]) -> bytes:
        number, edits = drawn
        content = whole[number]
        for edit in edits:
            content = apply(content, edit)
        return content

    edited = st.tuples(st.integers(0, len(whole) - 1), st.lists(EDITS, max_size=5)).map(change)
    return st.one_of(edited, edited, edited, st.binary(max_size=300))


JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([10**6, 2**31, 2**63, -(2**63), 10**30]),
        st.floats(),
        st.text(max_size=20),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def other_values(content: bytes) -> st.SearchStrategy[bytes]:
    """A JSON object with a few of its values, at any depth, replaced, removed or doubled under another name."""

    def replace(drawn: tuple[list[tuple[float, str]], Any]) -> bytes:
        places, value = drawn
        document = json.loads(content)
        for share, how in places:
            found = [(section, key) for section in sections(document) for key in section]
            section, key = found[int(share * len(found))]
            if how == "remove":
                del section[key]
            else:
                section[key if how == "replace" else f"{key}2"] = copy.deepcopy(
                    section[key] if how == "double" else value
                )
        return json.dumps(document).encode()

    places = st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(["replace", "replace", "remove", "double"]))
    return st.tuples(st.lists(places, min_size=1, max_size=3), JSON_VALUES).map(replace)


def sections(document: Any) -> Iterator[dict[str, Any]]:
    """The object and those in it, without empty ones."""
    if isinstance(document, dict) and document:
        yield document
        for value in document.values():
            yield from sections(value)


def other_header(content: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file with other values in its header, whose length is right."""
    start = 8 + int.from_bytes(content[:8], "little")

    def join(header: bytes) -> bytes:
        return len(header).to_bytes(8, "little") + header + content[start:]

    formats = st.sampled_from([b"F64", b"F16", b"I8", b"U64", b"BOOL", b"F4", b"F8_E8M0", b"C64", b"XX"])
    renamed = formats.map(lambda name: content[8:start].replace(b"F32", name, 1))
    return st.one_of(other_values(content[8:start]), renamed).map(join)


def names(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def write_summed(folder: Path, files: dict[str, bytes]) -> None:
    """The files with sums that fit, as an attacker would write them; without waiting for the disk."""
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {SUMS_NAME: sums.encode(), **files}.items():
        (folder / name).write_bytes(content)


# Recipes

RECIPE = to_toml(load_recipe("fast"))
VALUES = st.sampled_from(
    [
        *("", "1", "-1", "0", "1e400", "nan", "-inf", "0.1", "1_0", "9" * 25, "9" * 5_000, "0x" + "f" * 4_000, "true"),
        *('"5M"', '""', "'''x", "1979-05-27", "25:61:61", '"\\u0000.toml"', '"\\ud800"', f'"{"a" * 5_000}"'),
        *("[]", "[[]]", "[1, 2]", "[-1, 0, 1]", "[1.5, 2]", '["model"]', "[" * 500, "{}", "{a = 1}"),
    ]
)
KEYS = st.sampled_from(
    [*Recipe.model_fields, "base", "model.network", "optim.lr", "a" + ".a" * 3_000, '""', "[x]", "#"]
)


@st.composite
def recipes(draw: st.DrawFn) -> bytes:
    """The lines of a recipe with some replaced, removed or put in."""
    lines = RECIPE.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        key = lines[at].partition("=")[0] if draw(st.booleans()) else draw(KEYS)
        lines[at : at + draw(st.integers(0, 2))] = [f"{key} = {draw(VALUES)}"]
    return "\n".join(lines).encode()


WHOLE_RECIPES = [path.read_bytes() for path in sorted(recipes_folder().glob("*.toml"))]


@given(st.one_of(recipes(), changed(RECIPE.encode(), *WHOLE_RECIPES)))
@example(b"seed = " + b"9" * 5_000)
@example(b"seed = 0x" + b"f" * 4_000)
@example(b"a" + b".a" * 3_000 + b" = 1")
@example(b"x = [" + b"[" * 3_000)
@example(b'x = """\n' + b"[" * 100_000 + b'"""')
@example(b'base = "\\u0000.toml"')
@example(b'base = "' + b"a" * 5_000 + b'"')
@FUZZING
def test_recipe(tmp_path: Path, content: bytes) -> None:
    """Row 18: what is taken as a recipe can be written, and reads back as the same."""
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    try:
        recipe = load_recipe(str(path))
    except UsageError:
        pass
    else:
        assert parse_recipe(to_toml(recipe), path) == recipe
    assert names(tmp_path) == {path}


# Model directories


def some_member(files: dict[str, bytes], header_of: str, document: str) -> st.SearchStrategy[dict[str, bytes]]:
    """The files with one of them changed, of a safetensors file or a JSON document now and then with care."""
    plain = [
        changed(content).map(lambda content, name=name: files | {name: content}) for name, content in files.items()
    ]
    careful = other_header(files[header_of]).map(lambda content: files | {header_of: content})
    values = other_values(files[document]).map(lambda content: files | {document: content})
    return st.one_of(*plain, careful, values)


MODEL = {name: (GOLDEN_MODEL / name).read_bytes() for name in (WEIGHTS_NAME, CONFIG_NAME)}


@given(some_member(MODEL, WEIGHTS_NAME, CONFIG_NAME))
@FUZZING
def test_model(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Row 30: what is taken as a model gives a logit for each class."""
    write_summed(tmp_path, files)
    before = names(tmp_path)
    try:
        model, card = load_model(tmp_path)
    except ArtifactError:
        pass
    else:
        assert len(card.class_names) == card.spec.num_classes
        if (size_px := card.spec.image_size) <= MAX_FORWARD_PX:
            assert model(torch.rand(1, 3, size_px, size_px)).shape == (1, card.spec.num_classes)
    assert names(tmp_path) == before


@given(changed((GOLDEN_MODEL / SUMS_NAME).read_bytes()))
@FUZZING
def test_sums(tmp_path: Path, sums: bytes) -> None:
    """Rows 6, 30: whatever stands in SHA256SUMS, only files that are as they were written are taken."""
    write_summed(tmp_path, MODEL)
    (tmp_path / SUMS_NAME).write_bytes(sums)
    with contextlib.suppress(ArtifactError):
        load_model(tmp_path)
        said = sums.decode("utf-8", "replace").split()
        assert {hashlib.sha256(content).hexdigest() for content in MODEL.values()} <= set(said)


# Checkpoints and the rest of a run


@pytest.fixture
def go(
    make_recipe: Callable[..., Recipe],
    synthetic: Any,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Result]:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # half of the time
    return lambda **changes: train(make_recipe(**changes), runs_dir=tmp_path, run="r", resume=True)


@pytest.fixture
def begun(go: Callable[..., Result], tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    """begun() puts the folder of a run of one step back as it was; its files are given."""
    go(max_steps=1)
    folder = tmp_path / "r"
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def put_back() -> dict[str, bytes]:
        shutil.rmtree(folder)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return dict(files)

    return put_back


SAVED = "checkpoints/step-000001"


@given(st.data())
@SLOW
def test_checkpoint(go: Callable[..., Result], begun: Any, tmp_path: Path, data: st.DataObject) -> None:
    """Rows 6, 30: a checkpoint with sums that fit is refused, or the run goes on from it to a model that loads."""
    files, folder = begun(), tmp_path / "r"
    (folder / "result.json").unlink()
    saved = {name: files[f"{SAVED}/{name}"] for name in (TENSORS_NAME, STATE_NAME)}
    write_summed(folder / SAVED, data.draw(some_member(saved, TENSORS_NAME, STATE_NAME)))
    before = names(folder)
    try:
        assert go(max_steps=2).steps == 2
    except (ArtifactError, NonFiniteError, UsageError):  # UsageError: of other data, it says
        assert names(folder) - before <= {folder / "metrics.jsonl"}
    else:
        load_model(folder)


@given(st.data())
@SLOW
def test_files_of_a_run(go: Callable[..., Result], begun: Any, tmp_path: Path, data: st.DataObject) -> None:
    """The recipe, metrics and result that a resumed run finds in its folder, whatever they are."""
    folder, name = tmp_path / "r", data.draw(st.sampled_from(["recipe.toml", "metrics.jsonl", "result.json"]))
    content = begun()[name]
    careful = [] if name == "recipe.toml" else [other_values(content)]
    (folder / name).write_bytes(data.draw(st.one_of(changed(content), *careful)))
    with contextlib.suppress(PocketError):
        assert isinstance(go(max_steps=2), Result)
        load_model(folder)
    assert not list(folder.rglob(".tmp-*"))


# Images


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


FRAMES: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (12, 9), "red")] * 2}
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
PICTURES = [
    *(encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF")),
    *(encoded(kind, **FRAMES) for kind in ("GIF", "WEBP", "PNG", "TIFF")),
    *(encoded(kind, "CMYK") for kind in ("JPEG", "TIFF")),
    *(encoded("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")),
    encoded("PNG", "P", transparency=1),
    encoded("JPEG", exif=EXIF),
    encoded("JPEG", progressive=True),
    *(encoded("TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
    encoded("WEBP", lossless=True),
]


@given(changed(*PICTURES))
@FUZZING
def test_image(content: bytes) -> None:
    """Rows 22, 23: RGB pixels of the size that was asked for, or a refusal."""
    with contextlib.suppress(ImageError):
        pixels_HWC = decode(content, 8)
        assert (pixels_HWC.shape, pixels_HWC.dtype) == ((8, 8, 3), np.uint8)


# CIFAR's records and archives

NUM_CLASSES = 10
IMAGES_NX = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
LABELS = [3, 0, 9]
BINARY = b"".join(bytes([label]) + image.tobytes() for label, image in zip(LABELS, IMAGES_NX, strict=True))
PICKLES = [
    pickle.dumps({key.encode(): value for key, value in batch.items()}, protocol=protocol)
    for batch in ({"data": IMAGES_NX, "labels": LABELS, "filenames": ["a.png"] * 3},)
    for protocol in (2, 3, 5)
]


def check_records(images: Any, labels: Any) -> None:
    assert (images.dtype, images.shape[1:]) == (np.uint8, (3, 32, 32))
    assert (labels.dtype, labels.shape) == (np.int64, images.shape[:1])
    assert ((labels >= 0) & (labels < NUM_CLASSES)).all()


@given(changed(BINARY), st.integers(1, 2))
@FUZZING
def test_binary_records(content: bytes, num_label_bytes: int) -> None:
    """Row 26."""
    with contextlib.suppress(DataError):
        check_records(*parse_binary(content, NUM_CLASSES, "x", num_label_bytes))


@given(changed(*PICKLES))
@example(b"\x80\x02}r\xff\xff\xff\xff.")
@example(b"}p4294967295\n.")
@FUZZING
def test_python_records(content: bytes) -> None:
    """Rows 26, 29: nor is memory taken for what a few bytes ask for."""
    with contextlib.suppress(DataError):
        check_records(*parse_python(content, NUM_CLASSES, "x", "labels"))


def tar(compress: bool) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:") as archive:
        for name, content in {"data/a.bin": BINARY[:700], "readme.html": b"hello"}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0) if compress else packed.getvalue()


@given(st.one_of(changed(tar(compress=True)), changed(tar(compress=False)).map(gzip.compress)))
@FUZZING
def test_archive(tmp_path: Path, content: bytes) -> None:
    """Row 28: the named file is taken out, or nothing is."""
    (tmp_path / "x.tar.gz").write_bytes(content)
    wanted = tmp_path / "a.bin"
    wanted.unlink(missing_ok=True)
    try:
        extract(tmp_path / "x.tar.gz", {"data/a.bin": wanted})
    except DataError:
        assert names(tmp_path) == {tmp_path / "x.tar.gz"}
    else:
        assert names(tmp_path) == {tmp_path / "x.tar.gz", wanted}


# What is kept of a folder of images


@given(st.data())
@SLOW
def test_kept_pixels(tmp_path: Path, data: st.DataObject) -> None:
    """A damaged index is made anew, damaged pixels are refused; their number and size are always right."""
    root, kept_in = tmp_path / "pictures", tmp_path / "data"
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            (root / name / f"{number}.png").write_bytes(PICTURES[0] + bytes([number]))

    def opened() -> torch.Tensor:
        return open_source(str(root), data_dir=kept_in, image_size=8, num_workers=1).split("all").images_NCHW

    opened()
    [path] = kept_in.rglob(data.draw(st.sampled_from(["images.npy", "index/*.json"])))
    content = path.read_bytes()
    careful = [other_values(content)] if path.suffix == ".json" else []
    path.write_bytes(data.draw(st.one_of(changed(content), *careful)))
    with contextlib.suppress(DataError):
        images_NCHW = opened()
        assert (images_NCHW.shape, images_NCHW.dtype) == ((4, 3, 8, 8), torch.uint8)
    assert not list(tmp_path.rglob(".tmp-*"))
