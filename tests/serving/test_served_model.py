"""Models are opened by path; torch and onnxruntime give `predict`'s predictions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import pocket_resnet
from pocket_resnet.data.image import fit
from pocket_resnet.errors import ArtifactError, UsageError
from pocket_resnet.exporting.graph import network_graph, with_preprocessing
from pocket_resnet.model.artifact import load_model
from pocket_resnet.serving.served_model import open_served

GOLDEN = Path(__file__).parents[1] / "faults" / "golden" / "model-0.1.0"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    model, card = load_model(GOLDEN)
    names = {"class_names": json.dumps(card.class_names), "recipe": "r", "other": "o"}
    path = tmp_path_factory.mktemp("exported") / "golden.onnx"
    onnx.save(with_preprocessing(network_graph(model), card.spec.image_size, names), path)
    return path


@pytest.mark.threat(20)
def test_predictions_match_predict(exported: Path) -> None:
    """With the names in the model's order; from one picture or many."""
    classifier = pocket_resnet.load(GOLDEN, "cpu")
    served = [open_served(path) for path in (GOLDEN, exported)]
    assert [model.runtime for model in served] == ["torch", "onnxruntime"]
    size = served[0].image_size
    images_BHWC = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), np.uint8)
    images_BSSC = np.stack([fit(image_HWC, size) for image_HWC in images_BHWC])
    predictions = classifier.predict(images_BHWC, top=100)
    for model in served:
        assert (model.class_names, model.image_size) == (classifier.card.class_names, size)
        together_BK = model.classify(images_BSSC)
        for prediction, image_SSC, probabilities_K in zip(predictions, images_BSSC, together_BK, strict=True):
            by_name = dict(zip(model.class_names, probabilities_K.tolist(), strict=True))
            assert by_name == pytest.approx(dict(prediction.top), abs=1e-5)
            np.testing.assert_allclose(model.classify(image_SSC[None])[0], probabilities_K, atol=1e-5)


def test_facts(exported: Path) -> None:
    card = load_model(GOLDEN)[1]
    assert open_served(GOLDEN).facts["recipe"] == f"{card.recipe}, seed {card.seed}"
    assert open_served(exported).facts == {"recipe": "r"}


def test_paths_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no")
    for path, message in (("none", "or an .onnx file"), ("none.onnx", "export MODEL")):
        with pytest.raises(UsageError, match=message):
            open_served(tmp_path / path)
    with pytest.raises(ArtifactError):
        open_served(tmp_path / "bad.onnx")


def test_device(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requested one; onnxruntime computes on the CPU, and says so."""
    assert [open_served(path, "cpu").runtime for path in (GOLDEN, exported)] == ["torch", "onnxruntime"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="the device cuda is not available"):
        open_served(GOLDEN, "cuda")
    with pytest.raises(UsageError, match=r"an \.onnx file is computed on the CPU, not on cuda"):
        open_served(exported, "cuda")


def resize_to(model: Any, *sizes: int) -> None:
    [node] = [node for node in model.graph.node if list(node.output) == ["network_size"]]
    node.attribute[0].ints[:] = sizes


@pytest.mark.threat(31)
@pytest.mark.parametrize("sizes", [(), (8,), (8, 9), (0, 0), (10**9, 10**9)])
def test_input_sizes_that_export_never_writes(sizes: tuple[int, ...], exported: Path, tmp_path: Path) -> None:
    """Pictures are decoded at this size."""
    model = onnx.load(exported)
    resize_to(model, *sizes)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match="`network_size` is not"):
        open_served(tmp_path / "model.onnx")
