"""The data of a run and of a model: found from any folder, checked by content, recognised after moving."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from painted import NUM_IMAGES, paint
from pocket_resnet.errors import ArtifactError, DataError, UsageError
from pocket_resnet.inference.evaluate import evaluate_model
from pocket_resnet.model.artifact import DIGESTS_NAME, load_card, load_digests, load_model, save_model
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import load_recipe, to_toml
from pocket_resnet.training.run import Result, train
from pocket_resnet.training.saved_run import command, opener, read_run

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.threat(42)
@pytest.mark.parametrize("name", ["digits", "cifar100", "auto"])
def test_folder_named_like_a_built_in_data_set(
    name: str, run: Run, make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, evaluated, reported and resumed as the folder, and recorded as such."""
    paint(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_text(to_toml(make_recipe(max_steps=1)))
    words = ("train", "r.toml", "--data", f"./{name}", "--run", "r", "--no-report", "--json")
    code, out, err = run(*words)
    assert (code, json.loads(out)["data"]) == (0, str(tmp_path / name)), err
    recorded = load_recipe("runs/r/recipe.toml").data.name
    assert (recorded, load_card(Path("runs/r")).data) == (str(tmp_path / name), f"{name}/")
    assert json.loads(run("evaluate", "runs/r", "--json")[1])["per_class"].keys() == {"blue", "red"}
    assert "already finished" in run(*words, "--resume")[2]
    assert run("train", "runs/r/recipe.toml", "--resume", "--run", "r", "--max-steps", 2, "--no-report")[0] == 0
    if name == "digits":
        assert run("report", "runs/r")[0] == 0
        assert "tiny on digits/, seed 0" in Path("runs/r/report.html").read_text()


@pytest.mark.threat(43)
def test_folder_of_the_same_relative_name(
    train_on: Callable[..., Result], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluated and reported from another working directory, a run has its own data."""
    monkeypatch.chdir(tmp_path)
    train_on("pictures", max_steps=None, epochs=8, augment={"mixup": 0.0})
    here = evaluate_model(Path("runs/r")).to_json()
    paint(tmp_path / "elsewhere" / "pictures", swapped=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert evaluate_model(tmp_path / "runs" / "r").to_json() == here
    assert read_run(tmp_path / "runs" / "r").source.name == str(pictures)


@pytest.mark.threat(43)
def test_data_that_changed_are_refused_until_named(run_folder: Path, pictures: Path) -> None:
    """With the files by which they differ."""
    (pictures / "red" / "0.png").unlink()
    paint(pictures, first=NUM_IMAGES)
    for read in (evaluate_model, read_run):
        with pytest.raises(DataError, match=f"the data in {pictures} differ from those it was trained on: ") as raised:
            read(run_folder)
        assert "red/0.png (gone)" in str(raised.value)
        assert f"--data {pictures}" in str(raised.value)
    assert evaluate_model(run_folder, data=str(pictures)).num_images == 4 * NUM_IMAGES - 1
    assert "The data has changed since this run." in read_run(run_folder, opener(None), str(pictures)).notices


@pytest.mark.threat(43)
def test_moved_data(
    train_on: Callable[..., Result], run: Run, run_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    """The error names what was recorded; `--data` finds them for evaluate, report and resume."""
    before = evaluate_model(run_folder)
    moved = pictures.rename(tmp_path / "moved")
    code, _, err = run("evaluate", run_folder)
    assert code == 3
    assert f"its training data are not at {pictures}" in err
    assert "--data" in err
    assert "are not at" in run("report", run_folder)[2]
    assert evaluate_model(run_folder, data=str(moved), split="val").to_json() == before.to_json()
    again = read_run(run_folder, opener(None), str(moved))
    assert (again.evaluation.accuracy, again.notices) == (before.accuracy, ())
    assert run("report", run_folder, "--data", moved)[0] == 0
    assert train_on(moved, resume=True, max_steps=2).steps == 2
    assert load_recipe(str(run_folder / "recipe.toml")).data.name == str(moved)
    paint(tmp_path / "others", first=50)
    with pytest.raises(UsageError, match=r"data\.name: .*moved -> .*others"):
        train_on(tmp_path / "others", resume=True, max_steps=3)


@pytest.mark.threat(43)
@pytest.mark.parametrize("spelling", ["pictures", "./pictures/", "runs/../pictures", "link", "~/pictures"])
def test_another_spelling_is_the_same_data(
    spelling: str, train_on: Callable[..., Result], run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run can be resumed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("pictures")
    assert train_on(spelling, resume=True, max_steps=2).steps == 2
    assert load_recipe(str(run_folder / "recipe.toml")).data.name == str(tmp_path / "pictures")


@pytest.mark.threat(43)
def test_finished_run_does_not_match_other_data(
    train_on: Callable[..., Result], run_folder: Path, pictures: Path
) -> None:
    """The folder was changed after the run; the number of steps is the same."""
    assert train_on(pictures, resume=True).model == str(run_folder / "model")
    for path in (pictures / "red").iterdir():
        Image.new("RGB", (8, 8), (int(path.stem), 0, 0)).save(path)
    with pytest.raises(UsageError, match="differs from the data this run began with"):
        train_on(pictures, resume=True)


@pytest.mark.threat(43)
def test_model_away_from_its_run_asks_for_the_data(run_folder: Path, pictures: Path, tmp_path: Path) -> None:
    """It does not record their path, also beside another run's recipe."""
    alone = Path(shutil.copytree(run_folder / "model", tmp_path / "released" / "net"))
    for name in ("config.json", "README.md", "SHA256SUMS"):
        assert str(tmp_path) not in (alone / name).read_text()
    assert "pictures/, fingerprint " in (alone / "README.md").read_text()
    for _ in range(2):
        with pytest.raises(DataError, match="trained on a folder, pictures/, but only the run's folder") as raised:
            evaluate_model(alone)
        assert "--data" in str(raised.value)
        (alone.parent / "recipe.toml").write_text('data.name = "digits"')
    found = evaluate_model(alone, data=str(pictures), split="val")
    assert found.to_json() == evaluate_model(run_folder).to_json()
    assert str(tmp_path) not in command(read_run(run_folder), released=True)


@pytest.mark.threat(43)
def test_link_to_a_model_finds_its_run(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "net").symlink_to(run_folder / "model")
    assert evaluate_model(tmp_path / "net").to_json() == evaluate_model(run_folder).to_json()


def reencoded(pictures: Path, target: Path) -> Path:
    for path in pictures.rglob("*.png"):
        (target / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target / path.parent.name / f"renamed {path.stem}.bmp")
    return target


@pytest.mark.threat(44)
def test_training_images_are_recognised(run_folder: Path, pictures: Path, tmp_path: Path) -> None:
    """Copied, renamed, re-encoded, or mixed with others; the caveat states their number."""
    num_val = evaluate_model(run_folder).num_images
    num_train = 2 * NUM_IMAGES - num_val
    assert evaluate_model(run_folder).caveat is None
    copies = reencoded(pictures, tmp_path / "copies")
    evaluation = evaluate_model(run_folder, data=str(copies), split="all")
    assert evaluation.caveat == f"no estimate: the model was trained on {num_train} of these {2 * NUM_IMAGES} images"
    paint(copies, first=100)
    evaluation = evaluate_model(run_folder, data=str(copies))
    assert evaluation.caveat == f"no estimate: the model was trained on {num_train} of these {4 * NUM_IMAGES} images"
    assert evaluate_model(run_folder, data=str(paint(tmp_path / "new", first=100))).caveat is None


def test_a_few_known_images_leave_an_estimate(
    run_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(pictures, first=100)
    monkeypatch.setattr("pocket_resnet.inference.training_data.MAX_BY_CHANCE", 0.5)
    evaluation = evaluate_model(run_folder, data=str(pictures))
    assert evaluation.caveat is not None
    assert evaluation.caveat.startswith("the model was trained on ")


@pytest.mark.threat(44)
def test_caveat_is_printed(run: Run, run_folder: Path, pictures: Path) -> None:
    assert "no estimate: the model was trained on" in run("evaluate", run_folder, "--data", pictures)[1]
    code, out, err = run("evaluate", run_folder, "--data", pictures, "--json")
    assert (code, json.loads(out)["split"]) == (0, "all")
    assert "no estimate: the model was trained on" in err


@pytest.mark.threat(44)
def test_fork_to_other_data_remembers_the_first(
    train_on: Callable[..., Result], run_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    """A run that starts from scratch does not."""
    others = paint(tmp_path / "others", first=50)
    train_on(others, fork=True, max_steps=2)
    train_on(others, run="anew")
    assert "no estimate" in str(evaluate_model(run_folder, data=str(others)).caveat)
    assert "no estimate" in str(evaluate_model(run_folder, data=str(pictures)).caveat)
    assert evaluate_model(run_folder.parent / "anew", data=str(pictures)).caveat is None


def test_the_report_states_training_on_validation_images(
    train_on: Callable[..., Result], pictures: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(str(Path(train_on(pictures).model).parent / "recipe.toml"))
    final = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train_on": "trainval"})})
    train(final, runs_dir=tmp_path / "runs", run="final")
    num_val = evaluate_model(tmp_path / "runs" / "final").num_images
    notices = read_run(tmp_path / "runs" / "final").notices
    assert notices == (f"No estimate: the model was trained on all these {num_val} images.",)


@pytest.mark.threat(44)
def test_built_in_data_sets_too(train_on: Callable[..., Result], make_recipe: Any, tmp_path: Path) -> None:
    """The digits as pictures in a folder."""
    spec = replace(make_recipe().model, image_size=32, num_classes=10)
    train_on("digits", model=spec, train_image_sizes=(), batch_size=64)
    run_folder = tmp_path / "runs" / "r"
    assert evaluate_model(run_folder).caveat is None
    images = read_run(run_folder).source.split("train").images_NCHW[:10]
    for number, image_CHW in enumerate(images):
        for name in "01":
            (tmp_path / "copies" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).save(
            tmp_path / "copies" / str(number % 2) / f"{number}.png"
        )
    evaluation = evaluate_model(run_folder, data=str(tmp_path / "copies"))
    assert evaluation.caveat == "no estimate: the model was trained on all these 10 images"


def older(run_folder: Path, data: str) -> None:
    """The model as written by a version without fingerprint and digests."""
    model, card = load_model(run_folder)
    save_model(run_folder / "model", model, card.model_copy(update={"data": data, "data_fingerprint": None}))
    (run_folder / DIGESTS_NAME).unlink()


@pytest.mark.threat(44)
def test_models_of_earlier_versions_are_matched_by_name(run_folder: Path, pictures: Path, tmp_path: Path) -> None:
    older(run_folder, str(pictures))
    assert load_digests(run_folder) is None
    most = "no estimate: the model was trained on most of these images"
    assert evaluate_model(run_folder, data=str(pictures)).caveat == most
    assert "an earlier version held out other images" in str(evaluate_model(run_folder).caveat)
    shutil.copytree(pictures, tmp_path / "copy")
    assert evaluate_model(run_folder, data=str(tmp_path / "copy")).caveat is None


def test_earlier_run_on_a_folder_recorded_as_digits(
    train_on: Callable[..., Result], pictures: Path, make_recipe: Any, tmp_path: Path
) -> None:
    """Its checkpoint shows that it was not trained on the built-in digits."""
    train_on(pictures, model=replace(make_recipe().model, image_size=32), train_image_sizes=())
    run_folder = tmp_path / "runs" / "r"
    older(run_folder, "digits")
    path = run_folder / "recipe.toml"
    path.write_text(path.read_text().replace(f'"{pictures}"', '"digits"'))
    with pytest.raises(DataError, match="the data in digits differ from those it was trained on"):
        evaluate_model(run_folder)


@pytest.mark.threat(44)
def test_damaged_digests_are_named(run_folder: Path, train_on: Callable[..., Result], pictures: Path) -> None:
    path = run_folder / "model" / DIGESTS_NAME
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=DIGESTS_NAME):
        evaluate_model(run_folder)
    path.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        evaluate_model(run_folder)
    (run_folder / DIGESTS_NAME).write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=f"^{run_folder / DIGESTS_NAME}: truncated"):
        train_on(pictures, resume=True, max_steps=2)
    start = str(run_folder / "checkpoints" / "step-000001")
    with pytest.raises(ArtifactError, match=f"^{run_folder / DIGESTS_NAME}: truncated"):
        train_on(pictures, run="fork", init_from=start, max_steps=2)
