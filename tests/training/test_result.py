"""The caveat of a run's accuracy if an earlier run or a fork trained on validation images."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from painted import other_validation, paint
from pocket_resnet import plots
from pocket_resnet.cli import console
from pocket_resnet.errors import ArtifactError
from pocket_resnet.inference.evaluate import evaluate_model
from pocket_resnet.model.artifact import DIGESTS_NAME, load_card
from pocket_resnet.training.metrics import read_metrics
from pocket_resnet.training.run import Result


@pytest.mark.threat(44)
@pytest.mark.parametrize("way", ["fork", "init_from"])
def test_validation_images_that_an_earlier_run_trained_on(
    way: str, train_on: Callable[..., Result], run_folder: Path, pictures: Path, tmp_path: Path, capsys: Any
) -> None:
    """Result, terminal, config.json and card have the caveat, like `evaluate`."""
    others = other_validation(pictures, tmp_path / "others")
    if way == "fork":
        result = train_on(others, fork=True, max_steps=2)
    else:
        result = train_on(others, run="new", max_steps=2, init_from=str(run_folder / "checkpoints" / "step-000001"))
    caveat = "no estimate: the model was trained on all these 2 images"
    evaluation, card = evaluate_model(result.model, split="val"), load_card(Path(result.model))
    assert (result.caveat, evaluation.caveat, card.caveat) == (caveat, caveat, caveat)
    assert (
        "\nNo estimate: the model was trained on all these 2 images." in (Path(result.model) / "README.md").read_text()
    )
    console.print_result(result)
    assert caveat in capsys.readouterr().out
    assert json.loads((Path(result.model).parent / "result.json").read_text())["caveat"] == caveat


@pytest.mark.threat(44)
def test_lost_digests_of_an_earlier_run_are_reported(
    train_on: Callable[..., Result], run_folder: Path, pictures: Path, tmp_path: Path, logged: Any
) -> None:
    """It is unknown which images were trained on; all later runs keep the caveat."""
    (run_folder / DIGESTS_NAME).unlink()
    start = str(run_folder / "checkpoints" / "step-000001")
    others = paint(tmp_path / "others", first=50)
    perhaps = "possibly no estimate: the model was also trained on unknown images"
    assert train_on(others, run="new", max_steps=2, init_from=start).caveat == perhaps
    unknown = f"images that the checkpoint was trained on are unknown: {run_folder / DIGESTS_NAME} does"
    assert unknown in logged.text
    shutil.rmtree(run_folder)
    assert train_on(others, run="new", max_steps=3, init_from=start, resume=True).caveat == perhaps
    again = str(tmp_path / "runs" / "new" / "checkpoints" / "step-000003")
    model = Path(train_on(pictures, run="third", max_steps=4, init_from=again).model)
    assert load_card(model).caveat == perhaps
    unseen = paint(tmp_path / "unseen", first=90)
    assert evaluate_model(model, data=str(unseen)).caveat == perhaps
    assert "no estimate: the model was trained on" in str(evaluate_model(model, data=str(others)).caveat)


def test_unchanged_data_make_up_for_lost_digests(
    train_on: Callable[..., Result], run_folder: Path, pictures: Path
) -> None:
    (run_folder / DIGESTS_NAME).unlink()
    assert train_on(pictures, resume=True, max_steps=2).caveat is None


def test_a_result_leads_to_its_folder_and_records(train_on: Callable[..., Result], pictures: Path) -> None:
    result = train_on(pictures, max_steps=2)
    assert result.model == str(result.folder / "model")
    records = result.records()
    assert (records, records[-1]["step"]) == (read_metrics(result.folder / "metrics.jsonl"), 2)
    assert plots.learning_curves({"r": result}).axes
    (result.folder / "metrics.jsonl").unlink()
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl: cannot be read"):
        result.records()
