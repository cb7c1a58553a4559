"""Any bytes as recipe, model or checkpoint give a valid result or a PocketError, soon, and leave no file behind.

Examples are intact files with changes. Their sums match, otherwise only the sums would be tested.
`make test` tries a few, `make fuzz` runs others for an hour.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import FUZZING, SLOW, changed, names, other_header, other_values, write_summed
from hypothesis import example, given
from hypothesis import strategies as st

from pocket_resnet.errors import ArtifactError, NonFiniteError, PocketError, UsageError
from pocket_resnet.io.files import SUMS_NAME
from pocket_resnet.model.artifact import CONFIG_NAME, WEIGHTS_NAME, load_model
from pocket_resnet.model.step_folders import STATE_NAME
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import load_recipe, parse_recipe, recipes_folder, to_toml
from pocket_resnet.training.checkpoint import TENSORS_NAME
from pocket_resnet.training.run import Result, train

MAX_FORWARD_PX = 64
GOLDEN_MODEL = Path(__file__).parent / "golden" / "model-0.1.0"


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


@pytest.mark.threat(18)
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
    """An accepted recipe can be written and read back unchanged."""
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


@pytest.mark.threat(30)
@given(some_member(MODEL, WEIGHTS_NAME, CONFIG_NAME))
@FUZZING
def test_model(tmp_path: Path, files: dict[str, bytes]) -> None:
    """An accepted model gives a logit for each class."""
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


@pytest.mark.threat(6, 30)
@given(changed((GOLDEN_MODEL / SUMS_NAME).read_bytes()))
@FUZZING
def test_sums(tmp_path: Path, sums: bytes) -> None:
    """For any SHA256SUMS, only unchanged files are accepted."""
    write_summed(tmp_path, MODEL)
    (tmp_path / SUMS_NAME).write_bytes(sums)
    with contextlib.suppress(ArtifactError):
        load_model(tmp_path)
        listed = sums.decode("utf-8", "replace").split()
        assert {hashlib.sha256(content).hexdigest() for content in MODEL.values()} <= set(listed)


# Checkpoints and the rest of a run


@pytest.fixture
def train_tiny(
    make_recipe: Callable[..., Recipe],
    synthetic: Any,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Result]:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # half of the time
    return lambda **changes: train(make_recipe(**changes), runs_dir=tmp_path, run="r", resume=True)


@pytest.fixture
def begun(train_tiny: Callable[..., Result], tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    """begun() restores the folder of a run of one step and returns its files."""
    train_tiny(max_steps=1)
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


@pytest.mark.threat(6, 30)
@given(st.data())
@SLOW
def test_checkpoint(train_tiny: Callable[..., Result], begun: Any, tmp_path: Path, data: st.DataObject) -> None:
    """A checkpoint with matching sums is refused, or the run resumes from it and its model loads."""
    files, folder = begun(), tmp_path / "r"
    (folder / "result.json").unlink()
    saved = {name: files[f"{SAVED}/{name}"] for name in (TENSORS_NAME, STATE_NAME)}
    write_summed(folder / SAVED, data.draw(some_member(saved, TENSORS_NAME, STATE_NAME)))
    before = names(folder)
    try:
        assert train_tiny(max_steps=2).steps == 2
    except (ArtifactError, NonFiniteError, UsageError):  # UsageError: of other data, it says
        assert names(folder) - before <= {folder / "metrics.jsonl"}
    else:
        load_model(folder)


@given(st.data())
@SLOW
def test_files_of_a_run(train_tiny: Callable[..., Result], begun: Any, tmp_path: Path, data: st.DataObject) -> None:
    """Any bytes as the recipe, metrics and result of a resumed run."""
    folder, name = tmp_path / "r", data.draw(st.sampled_from(["recipe.toml", "metrics.jsonl", "result.json"]))
    content = begun()[name]
    careful = [] if name == "recipe.toml" else [other_values(content)]
    (folder / name).write_bytes(data.draw(st.one_of(changed(content), *careful)))
    with contextlib.suppress(PocketError):
        assert isinstance(train_tiny(max_steps=2), Result)
        load_model(folder)
    assert not list(folder.rglob(".tmp-*"))
