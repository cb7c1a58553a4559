"""Files of earlier versions still work: a run made by commit 69070cb, and the models of releases.

golden/run-69070cb is a run of 40 steps on digits with its last two checkpoints, made before `average` became `ema` and
config.json's format became 2. Its recipe has averaged weights, Lookahead, Muon and growing images.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from painted import NUM_IMAGES, paint
from pocket_resnet.data.folder import _fingerprint
from pocket_resnet.data.listing import ImageFile
from pocket_resnet.errors import UsageError
from pocket_resnet.inference.evaluate import evaluate_model
from pocket_resnet.model.artifact import load_card, load_model
from pocket_resnet.model.card import FORMAT
from pocket_resnet.recipe.toml import load_recipe, to_toml
from pocket_resnet.reporting.report import write_report
from pocket_resnet.training import checkpoint
from pocket_resnet.training.metrics import read_metrics
from pocket_resnet.training.result import read_result
from pocket_resnet.training.run import Result, train
from pocket_resnet.training.saved_run import read_run
from tools.release import release

ROOT = Path(__file__).parents[2]
MADE = Path(__file__).parent / "golden" / "run-69070cb"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the run, which may be written."""
    shutil.copytree(MADE, tmp_path / "runs" / "r")
    return tmp_path / "runs" / "r"


def config(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "config.json").read_bytes())
    return content


def test_the_run_is_of_an_earlier_format() -> None:
    """Otherwise the tests below would prove nothing."""
    assert "[average]\ndecay = 0.8" in (MADE / "recipe.toml").read_text()
    assert config(MADE / "model")["format"] == 1 < FORMAT
    assert sum(path.stat().st_size for path in MADE.rglob("*") if path.is_file()) < 100_000


@pytest.mark.threat(10)
def test_its_recipe_keeps_its_meaning() -> None:
    """`average.decay` is a fixed decay, as it was; nothing follows from a dial."""
    recipe = load_recipe(str(MADE / "recipe.toml"))
    assert (recipe.ema.decay, recipe.ema.window, recipe.data.seed, recipe.residual_gain) == (0.8, 0.0, None, 1.0)
    assert "[ema]\nwindow = 0.0\ndecay = 0.8" in to_toml(recipe)


@pytest.mark.threat(10)
def test_its_model_is_evaluated(run: Path) -> None:
    """The accuracy is the recorded one."""
    assert evaluate_model(run).accuracy == read_result(MADE / "result.json").accuracy == load_model(run)[1].accuracy


@pytest.mark.threat(10)
def test_the_finished_run_stays_finished(run: Path, logged: pytest.LogCaptureFixture) -> None:
    """No key counts as changed, and nothing is trained or written."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = train(load_recipe(str(run / "recipe.toml")), runs_dir=run.parent, run="r", resume=True)
    assert result.steps == 40
    assert "this run is already finished" in logged.messages
    assert {path: content for path, content in before.items() if path.read_bytes() != content} == {}


@pytest.mark.threat(10)
def test_it_resumes_from_its_checkpoint(run: Path, logged: pytest.LogCaptureFixture) -> None:
    """With its averages; its figures match the recorded ones up to rounding."""
    shutil.rmtree(run / "checkpoints" / "step-000040")
    shutil.rmtree(run / "model")
    averages = [name for name in checkpoint.load(run / "checkpoints" / "step-000039")[1] if name.startswith("ema.")]
    assert "ema.head.weight" in averages
    train(load_recipe(str(run / "recipe.toml")), runs_dir=run.parent, run="r", resume=True)
    assert "resumed at step 39" in logged.messages
    first, last = read_metrics(run / "metrics.jsonl")
    then = read_metrics(MADE / "metrics.jsonl")
    assert first == then[0]
    assert last["train_loss"] == pytest.approx(then[1]["train_loss"], rel=1e-3)
    assert last["val_nll"] == pytest.approx(then[1]["val_nll"], rel=2e-2)  # its norms were measured on plain images
    assert config(run / "model")["format"] == FORMAT
    for name, weights in load_model(MADE)[0].named_parameters():
        assert torch.allclose(load_model(run)[0].get_parameter(name), weights, atol=1e-2), name


@pytest.mark.threat(10)
def test_it_is_reported_and_released(run: Path, tmp_path: Path) -> None:
    """In the present format."""
    assert f"{read_result(run / 'result.json').accuracy:.2%}" in write_report([run]).read_text()
    card = release(run, tmp_path / "released")
    assert config(tmp_path / "released")["format"] == card.format == FORMAT
    assert evaluate_model(tmp_path / "released").accuracy == card.accuracy


@pytest.mark.threat(10)
@pytest.mark.parametrize("folder", sorted((ROOT / "models").iterdir()), ids=lambda path: path.name)
def test_released_models_are_read(folder: Path) -> None:
    model, card = load_model(folder)
    assert card.num_params == sum(parameter.numel() for parameter in model.parameters())
    begun_from = {
        "pocket-50k": "pocket-50k-b-0/step-010345",
        "pocket-100k": "pocket-100k-b-0/step-009539",
        "pocket-270k": "pocket-270k-0/step-009540",
        "pocket-1m": "pocket-1m-0/step-010890",
    }
    assert (card.format, card.init_from, len(card.class_names)) == (FORMAT, begun_from.get(folder.name), 10)


@pytest.mark.threat(10)
def test_a_run_with_the_earlier_form_of_fingerprint(
    train_on: Callable[..., Result], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data are recognised by evaluate, report and a resumed run, also after a move; changes are refused."""

    def earlier(images: Sequence[ImageFile], hashes: Sequence[str], _heading: str) -> str:
        return _fingerprint(images, hashes, "8 px, decoder 2")

    with monkeypatch.context() as patch:
        patch.setattr("pocket_resnet.data.folder._fingerprint", earlier)
        train_on(pictures)
    run = tmp_path / "runs" / "r"
    recorded = load_card(run).data_fingerprint
    assert evaluate_model(run).num_images == read_run(run).evaluation.num_images
    assert train_on(pictures, resume=True).steps == 1
    moved = pictures.rename(tmp_path / "moved")
    assert train_on(moved, resume=True, max_steps=2).steps == 2
    assert load_card(run).data_fingerprint != recorded
    paint(moved, first=NUM_IMAGES)
    with pytest.raises(UsageError, match="differs from the data this run began with"):
        train_on(moved, resume=True, max_steps=3)
