"""Files, bytes and arrays with the same pixels give the same prediction."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import pocket_resnet
from pocket_resnet.data.datasets import open_source
from pocket_resnet.errors import DataError, UsageError
from pocket_resnet.inference.classifier import Classifier
from pocket_resnet.inference.evaluate import EVALUATION_BATCH, class_probabilities, evaluate_model
from pocket_resnet.inference.predict import predict_files
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.reporting.report import write_report
from pocket_resnet.training.run import train


@pytest.fixture
def trained(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> Path:  # noqa: ARG001
    train(make_recipe(max_steps=2), runs_dir=tmp_path, run="r")
    return tmp_path / "r"


@pytest.fixture
def classifier(trained: Path) -> Classifier:
    return pocket_resnet.load(trained, device="cpu")


@pytest.fixture(name="pixels_HWC")
def _pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture
def png(pixels_HWC: NDArray[np.uint8], tmp_path: Path) -> Path:
    Image.fromarray(pixels_HWC).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_same_pixels_same_prediction(classifier: Classifier, pixels_HWC: NDArray[np.uint8], png: Path) -> None:
    ways = [png, str(png), png.read_bytes(), pixels_HWC]
    together = classifier.predict(ways)
    assert len(set(together)) == 1
    for way in ways:
        [alone] = classifier.predict(way)
        assert alone.label == together[0].label
        assert alone.probability == pytest.approx(together[0].probability, abs=1e-6)


@pytest.mark.threat(57)
def test_other_ways_to_give_images(classifier: Classifier, pixels_HWC: NDArray[np.uint8], png: Path) -> None:
    """As `data/conversion.py` accepts them; generators in batches, NumPy's numbers like Python's."""
    [expected] = classifier.predict(pixels_HWC, top=2)
    tensor_CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)
    ways = [Image.fromarray(pixels_HWC), tensor_CHW, pixels_HWC / 255, io.BytesIO(png.read_bytes())]
    for images in (ways, iter(ways), (way for way in ways), np.stack([pixels_HWC] * 4)):
        predictions = classifier.predict(images, top=np.int64(2), views=np.int32(1))  # type: ignore[arg-type]
        assert [each.label for each in predictions] == [expected.label] * 4
        assert [each.probability for each in predictions] == pytest.approx([expected.probability] * 4, abs=1e-6)
    with pytest.raises(UsageError, match="int is not an image"):
        classifier.predict([3])


@pytest.mark.threat(56)
def test_a_generator_of_images_runs_with_the_caller_s_settings(classifier: Classifier) -> None:
    """It advances the caller's random state and uses the caller's default type."""
    torch.manual_seed(5)
    expected = [torch.rand(8, 8, 3, dtype=torch.float64) for _ in range(3)]
    state = torch.random.get_rng_state()
    torch.manual_seed(5)
    try:
        torch.set_default_dtype(torch.float64)
        predictions = classifier.predict(torch.rand(8, 8, 3) for _ in range(3))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert predictions == classifier.predict(expected)


@pytest.mark.threat(57)
@pytest.mark.usefixtures("synthetic")
def test_numpy_numbers_and_paths_are_accepted(
    recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training, loading, evaluation and the report."""
    monkeypatch.setenv("HOME", str(tmp_path))
    result = pocket_resnet.train(
        recipe_path,
        data=Path("synthetic"),
        runs_dir="~/runs",
        run=Path("r"),
        epochs=np.int64(1),
        optim__lr=np.float32(0.5),
        train_image_sizes=np.array([6, 8]),
        seed=torch.tensor(3),
    )
    assert (result.epochs, result.seed, result.data) == (1, 3, "synthetic")
    assert Path(result.model) == tmp_path / "runs" / "r" / "model"
    assert len(pocket_resnet.load("~/runs/r").card.class_names) == 3
    assert json.dumps(evaluate_model("~/runs/r", views=np.int64(2)).to_json())  # type: ignore[arg-type]
    assert write_report("~/runs/r", out="~/page") == tmp_path / "page" / "report.html"


def test_prediction_is_the_network_s(classifier: Classifier, pixels_HWC: NDArray[np.uint8]) -> None:
    """Centre square, network's size, no other preprocessing; ranked, as many as requested."""
    square = np.array(Image.fromarray(pixels_HWC[:, 5:25]).resize((8, 8), Image.Resampling.BICUBIC))
    images_BCHW = torch.from_numpy(square).permute(2, 0, 1)[None]
    for views in (1, 2, 6):
        probabilities_K = class_probabilities(classifier.model, images_BCHW, classifier.hardware, views)[0]
        order = probabilities_K.argsort(descending=True)
        names = ("red", "green", "blue")
        expected = [(names[k], probabilities_K[k].item()) for k in order]
        for top in (1, 2, 3, 7):
            [prediction] = classifier.predict(pixels_HWC, top=top, views=views)
            assert list(prediction.top) == expected[:top]
            assert (prediction.label, prediction.probability) == expected[0]


def test_several_views_need_flip_invariant_classes(classifier: Classifier, pixels_HWC: NDArray[np.uint8]) -> None:
    digits = Classifier(
        classifier.model, classifier.card.model_copy(update={"flip_invariant": False}), classifier.hardware
    )
    assert len(digits.predict(pixels_HWC)) == 1
    with pytest.raises(UsageError, match="2 views mirror the images"):
        digits.predict(pixels_HWC, views=2)
    with pytest.raises(UsageError, match="choose 1, 2 or 6"):
        digits.predict("no such file.png", views=3)


def test_a_loop_of_links_is_a_file_that_cannot_be_read(trained: Path, png: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    rows, [bad] = predict_files(trained, [str(loop), str(png)], top=1)
    assert [row.image for row in rows] == [str(png)]
    assert "loop.png: cannot be read" in bad


def test_many_images(classifier: Classifier) -> None:
    assert classifier.predict([]) == []
    images = [np.full((8, 8, 3), value % 256, np.uint8) for value in range(EVALUATION_BATCH + 2)]
    predictions = classifier.predict(images)
    assert len(predictions) == EVALUATION_BATCH + 2
    assert predictions[-1].probability == pytest.approx(classifier.predict(images[-1])[0].probability, abs=1e-6)


def test_arguments_that_are_not_images(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"<html>")
    bad: list[Any] = [tmp_path / "x.png", tmp_path / "none.png", tmp_path, b"", b"GIF89a", np.full((4, 4, 3), 2.0)]
    bad += [np.zeros((0, 4, 3), np.uint8)]
    for image in bad:
        with pytest.raises(DataError):
            classifier.predict(image)
    with pytest.raises(UsageError, match="top 0 is out of range\n  use 1 to 3 "):
        classifier.predict(np.zeros((4, 4, 3), np.uint8), top=0)


def test_files_and_folders(trained: Path, png: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is no image is left out of a folder, but an image that cannot be read, or a file that is named, is bad."""
    folder = tmp_path / "many"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.png", "no suffix"):
        (folder / "deep" / name).write_bytes(png.read_bytes())
    for name in ("README.txt", "empty"):
        (folder / name).write_text("no picture" if name != "empty" else "")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    (folder / "manual.pdf").write_bytes(b"%PDF-1.4")
    (folder / "damaged.JPG").write_text("no picture")
    (folder / ".hidden.png").write_text("none of our business")
    (folder / "loop").symlink_to(folder)
    rows, bad = predict_files(trained, [str(png), str(folder)], top=2)
    assert [row.image for row in rows] == [str(png), *(str(folder / "deep" / name) for name in ("b.png", "no suffix"))]
    assert [len(row.prediction.top) for row in rows] == [2, 2, 2]
    assert [line.split(":")[0] for line in bad] == [str(folder / name) for name in ("damaged.JPG", "phone.heic")]
    left_out = [
        "loop (link to a parent folder)",
        *(f"{name} (not an image)" for name in ("README.txt", "empty", "manual.pdf")),
    ]
    assert caplog.messages == [f"{folder}: 4 skipped: {', '.join(left_out)}"]
    named = str(folder / "README.txt")
    assert predict_files(trained, [named], top=2)[1][0].startswith(f"{named}: not an image")


def upright() -> NDArray[np.uint8]:
    """Four flat quarters, so that no turn or mirror image is the same, and JPEG keeps them."""
    pixels_HWC = np.full((32, 32, 3), (255, 255, 255), np.uint8)
    pixels_HWC[:16, :16], pixels_HWC[:16, 16:], pixels_HWC[16:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return pixels_HWC


def turned(orientation: int) -> tuple[Image.Image, dict[str, Any]]:
    """The picture as a camera stores it, with the EXIF entry that says so."""
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    undo |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    picture, exif = Image.fromarray(upright()), Image.Exif()
    exif[0x0112] = orientation
    stored = picture.transpose(Image.Transpose[undo[orientation]]) if orientation in undo else picture
    return stored, {"exif": exif, "quality": 100, "subsampling": 0}


def with_alpha() -> Image.Image:
    """A white quarter, but transparent over black: alpha is blended with white."""
    picture = Image.fromarray(upright()).convert("RGBA")
    pixels_HWC = np.array(picture)
    pixels_HWC[16:, 16:] = 0
    return Image.fromarray(pixels_HWC)


def kinds() -> dict[str, tuple[Image.Image, dict[str, Any], NDArray[np.uint8]]]:
    """File name -> picture, options of saving, golden RGB."""
    rgb = upright()
    picture = Image.fromarray(rgb)
    grey = np.array(picture.convert("L"))
    grey_rgb = np.repeat(grey[..., None], 3, axis=2)
    frames = {"save_all": True, "append_images": [Image.new("RGB", (32, 32), "black")]}
    return {
        "grey.png": (Image.fromarray(grey), {}, grey_rgb),
        "grey 16 bits.png": (Image.fromarray(grey.astype(np.uint16) * 257), {}, grey_rgb),
        "palette.png": (picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=4), {}, rgb),
        "alpha.png": (with_alpha(), {}, rgb),
        "cmyk.tiff": (picture.convert("CMYK"), {}, rgb),
        "animated.gif": (picture, frames, rgb),
        **{f"exif {number}.jpg": (*turned(number), rgb) for number in range(1, 9)},
    }


@pytest.mark.threat(24)
def test_training_and_prediction_see_the_same_pixels(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golden RGB, from the folder's cache and in prediction, for every kind of picture."""
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    table = kinds()
    for name, (picture, options, _) in table.items():
        picture.save(tmp_path / "pictures" / "a" / name, **options)
    source = open_source(str(tmp_path / "pictures"), data_dir=tmp_path / "data", image_size=8)
    trained_on = {image_CHW.numpy().tobytes() for image_CHW in source.split("all").images_NCHW}
    seen: list[Tensor] = []

    def note(model: ResNet, images_BCHW: Tensor, *rest: Any) -> Tensor:
        seen.append(images_BCHW)
        return class_probabilities(model, images_BCHW, *rest)

    monkeypatch.setattr("pocket_resnet.inference.classifier.class_probabilities", note)
    for name, (_, _, golden_HWC) in table.items():
        classifier.predict(tmp_path / "pictures" / "a" / name)
        predicted_CHW = seen.pop()[0].numpy()
        golden_CHW = np.array(Image.fromarray(golden_HWC).resize((8, 8), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        assert predicted_CHW.dtype == np.uint8
        assert np.abs(predicted_CHW.astype(int) - golden_CHW).max() <= 3, name
        assert predicted_CHW.tobytes() in trained_on, name
