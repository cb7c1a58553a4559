"""docs/formats.md names every file and field, docs/threats.md every limit, CONTRIBUTING.md real functions."""

import dataclasses
import importlib
import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open

from pocket_resnet.data.source import Description
from pocket_resnet.exporting.exporter import Exported
from pocket_resnet.exporting.parity import Comparison
from pocket_resnet.hub import Pushed
from pocket_resnet.inference.evaluate import evaluate_model
from pocket_resnet.inference.evaluation import ImageOutcome
from pocket_resnet.model.card import Card
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.base import Section
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.summary import design_json, find_design, find_spec, summarise
from pocket_resnet.recipe.toml import load_recipe, override
from pocket_resnet.reporting.report import write_report
from pocket_resnet.training.checkpoint import CheckpointState
from pocket_resnet.training.run import Result, train
from pocket_resnet.tuning.record import Cost, FinalRecord, Rung, SearchRecord, TrialRecord, Verdict
from pocket_resnet.tuning.space import Choices, Range

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "pocket_resnet"
FORMATS = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
LIMIT = re.compile(r"^\| `([\w/.]+)` \| `(\w+)` \| ([\d,]+) \| .+ \|$", re.MULTILINE)
LIMITS = LIMIT.findall((ROOT / "docs" / "threats.md").read_text(encoding="utf-8"))


def section(title: str) -> str:
    """The text under a heading, up to the next heading."""
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", FORMATS, re.MULTILINE | re.DOTALL)
    assert match is not None, title
    return match[1]


def fields(title: str) -> set[str]:
    """The names in the first column of the section's table."""
    cells = re.findall(r"^\| (`[^|]*) \|", section(title), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step."""
    changes = {
        "data.name": "digits",
        "max_steps": 1,
        "batch_size": 32,
        "budget": "20K",
        "hardware.num_threads": 1,
        "optim.lookahead_steps": 1,
        "hard_fraction": 0.9,
        "ema.decay": 0.9,
    }
    runs_dir = tmp_path_factory.mktemp("runs")
    train(override(load_recipe("fast"), changes), runs_dir=runs_dir, run="one")
    return runs_dir / "one"


def test_recipe_keys() -> None:
    named = set(re.findall(r"`(\w+)`", section("recipe.toml")))
    for name, field in Recipe.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            assert f"`[{name}]`" in section("recipe.toml")
            assert set(kind.model_fields) <= named
        elif name != "model":
            assert name in named


def test_fields_of_state() -> None:
    assert fields("state.json") == set(CheckpointState.model_fields)


def test_fields_of_card() -> None:
    assert fields("config.json") == set(Card.model_fields)


def test_fields_of_spec() -> None:
    assert fields("spec") == {field.name for field in dataclasses.fields(NetworkSpec)}


def test_fields_of_result(run: Path) -> None:
    assert fields("result.json") == {field.name for field in dataclasses.fields(Result)}
    assert fields("result.json") == set(json.loads((run / "result.json").read_bytes()))


def test_fields_of_a_search() -> None:
    sums = {"trials_flops", "finals_flops", "seconds_total"}
    assert fields("search.json") == {field.name for field in dataclasses.fields(SearchRecord)} | sums
    for part in (TrialRecord, Rung, Cost, FinalRecord, Verdict):
        for field in dataclasses.fields(part):
            assert f"`{field.name}`" in section("search.json"), field.name
    assert fields("The search space") == {*Range.model_fields, *Choices.model_fields}


def test_fields_of_metrics(run: Path) -> None:
    [line] = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert fields("metrics.jsonl") == set(json.loads(line))


def test_fields_of_json_outputs(run: Path) -> None:
    assert fields("evaluate") == set(evaluate_model(run).to_json())
    assert fields("evaluate --csv") == set(ImageOutcome._fields)
    figures = {field.name for kind in (Exported, Comparison) for field in dataclasses.fields(kind)}
    assert fields("train") == {"report", "exported"}
    assert fields("export") == figures - {"comparison"}
    assert fields("summary") == set(summarise(find_spec("fast")))
    assert fields("design") == set(design_json(find_design({"budget": "1M"}), {}))
    assert fields("data") == {field.name for field in dataclasses.fields(Description)}
    assert fields("push") == {field.name for field in dataclasses.fields(Pushed)}


def test_every_file_of_a_run_is_named(run: Path) -> None:
    write_report([run])
    listed = FORMATS.split("```")[1].split()
    for path in run.rglob("*"):
        if path.is_file():
            assert path.name in listed, path


def test_checkpoint_keys(run: Path) -> None:
    [path] = run.glob("checkpoints/*/tensors.safetensors")
    with safe_open(path, "pt") as tensors:
        kinds = {re.match(r"optimizer\.\w+\.|epoch\.totals|selection\.\w+|\w+\.", key)[0] for key in tensors.keys()}  # noqa: SIM118
    assert {re.sub("NAME$", "", key) for key in fields("tensors.safetensors")} == kinds


@pytest.mark.parametrize(("file", "name", "value"), LIMITS)
def test_limits_are_as_stated(file: str, name: str, value: str) -> None:
    module = importlib.import_module(f"pocket_resnet.{file.removesuffix('.py').replace('/', '.')}")
    assert getattr(module, name) == int(value.replace(",", ""))


def test_every_limit_is_stated() -> None:
    stated = {(file, name) for file, name, _ in LIMITS}
    for path in SOURCES.rglob("*.py"):
        file = path.relative_to(SOURCES).as_posix()
        for name in re.findall(r"^(MAX_(?:\w*BYTES|NUM_\w+|PIXELS|SIDE_PX))\b", path.read_text(), re.M):
            assert (file, name) in stated


def test_contributing_names_real_functions() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::([\w.]+)`", text)
    assert len(named) > 10
    for file, name in named:
        source = (SOURCES / file).read_text(encoding="utf-8")
        for part in name.split("."):
            assert re.search(rf"^ *(def|class) {part}\b", source, re.MULTILINE), f"{file}::{name}"
