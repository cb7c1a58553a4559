"""Exported files are opened; every other ONNX file is refused before onnxruntime sees it."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from pocket_resnet.errors import ArtifactError, UsageError
from pocket_resnet.exporting import exported_model
from pocket_resnet.exporting.exported_model import open_exported
from pocket_resnet.exporting.exporter import Exported

Model = onnx.ModelProto
SECRET = helper.make_tensor("secret", TensorProto.FLOAT, [1], [0.0])


def metadata(model: Model, name: str, value: str) -> None:
    next(entry for entry in model.metadata_props if entry.key == name).value = value


def external(tensor: TensorProto, location: str) -> TensorProto:
    """The same tensor with its values in another file."""
    moved = TensorProto()
    moved.CopyFrom(tensor)
    moved.raw_data = b"\0" * 4
    set_external_data(moved, location=location)
    moved.ClearField("raw_data")
    return moved


def branch(model: Model, *tensors: TensorProto) -> None:
    """An `If`, whose branches are graphs of their own."""
    graph = helper.make_graph([], "branch", [], [], list(tensors))
    model.graph.node.append(helper.make_node("If", ["images"], ["chosen"], then_branch=graph, else_branch=graph))


def function(model: Model) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(helper.make_function("", "Softmax", ["x"], ["y"], [node], model.opset_import))


def custom(model: Model, domain: str) -> None:
    model.opset_import.append(helper.make_opsetid(domain, 1))
    model.graph.node.append(helper.make_node("Steal", ["images"], ["stolen"], domain=domain))


def sparse(model: Model) -> None:
    """A few bytes that become a terabyte."""
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(SECRET, indices, [10**12]))


def constant(model: Model, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["constant"], value=tensor))


HOSTILE: dict[str, tuple[Callable[[Model], object], str]] = {
    "external weights": (
        lambda model: model.graph.initializer.append(external(SECRET, "secret.bin")),
        "its weights are in another file",
    ),
    "external weights above": (
        lambda model: model.graph.initializer.append(external(SECRET, "../../etc/passwd")),
        "its weights are in another file",
    ),
    "external constant": (lambda model: constant(model, external(SECRET, "/etc/passwd")), "in another file"),
    "external without a file": (lambda model: constant(model, TensorProto(data_location=1)), "in another file"),
    "external in a branch": (lambda model: branch(model, external(SECRET, "x")), "it has control flow"),
    "branch": (branch, "it has control flow"),
    "custom operator": (lambda model: custom(model, "com.thief"), "'Steal' of 'com.thief' is not in the ONNX standard"),
    "onnxruntime's operator": (lambda model: custom(model, "com.microsoft"), "is not in the ONNX standard"),
    "unknown operator": (
        lambda model: model.graph.node.append(helper.make_node("Steal", ["images"], ["stolen"])),
        "Steal",
    ),
    "another operator set": (
        lambda model: model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3)),
        "not those of the ONNX standard alone",
    ),
    "function": (function, "it has a FunctionProto"),
    "training": (lambda model: model.training_info.add(), "it has a TrainingInfoProto"),
    "sparse": (sparse, "it has a SparseTensorProto"),
    "later operators": (lambda model: setattr(model.opset_import[0], "version", 99), "upgrade pocket-resnet"),
    "later format": (lambda model: setattr(model, "ir_version", 99), "upgrade pocket-resnet"),
    "another input": (
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT),
        "its input is not `images`",
    ),
    "second input": (lambda model: model.graph.input.append(model.graph.output[0]), "its input is not `images`"),
    "no outputs": (lambda model: model.graph.ClearField("output"), "outputs are not `logits` and `probabilities`"),
    "no metadata": (lambda model: model.ClearField("metadata_props"), "no `class_names`"),
    "names are no list": (lambda model: metadata(model, "class_names", '{"0": 1}'), "no `class_names`"),
    "names are no JSON": (lambda model: metadata(model, "class_names", "[" * 10**6), "no `class_names`"),
    "weights that are not there": (lambda model: model.graph.initializer[0].dims.append(10**9), "too small for"),
    "too few names": (
        lambda model: metadata(model, "class_names", '["a", "b", "a"]'),
        "2 different class names for 10 classes",
    ),
}


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "vnni"])
def test_exported_files_are_opened(name: str, exports: dict[str, Exported]) -> None:
    opened = open_exported(exports[name].file)
    assert opened.class_names == tuple(str(digit) for digit in range(10))
    assert opened.metadata["precision"].startswith(exports[name].precision)
    images_NHWC = np.random.default_rng(0).integers(0, 256, (5, 40, 50, 3), np.uint8)
    logits_NK = opened.session.logits(images_NHWC, 2)
    probabilities_NK = opened.session.probabilities(images_NHWC, 2)
    assert probabilities_NK.shape == (5, 10)
    np.testing.assert_allclose(probabilities_NK.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities_NK.argmax(1), logits_NK.argmax(1))


@pytest.mark.threat(31)
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(
    case: str, exports: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their content; onnxruntime never sees them."""
    change, message = HOSTILE[case]
    model = onnx.load(exports["fp32"].file)
    change(model)
    file = tmp_path / "model.onnx"
    file.write_bytes(model.SerializeToString())
    monkeypatch.setattr(exported_model, "Session", lambda *_: pytest.fail("it reached onnxruntime"))
    with pytest.raises(ArtifactError) as refusal:
        open_exported(file)
    assert refusal.value.exit_code == 4
    assert str(refusal.value).startswith(f"{file}: ")
    assert message in refusal.value.what
    assert "\n" not in refusal.value.what


def test_unchecked_fields_are_dropped(
    exports: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Onnxruntime gets only the checked fields."""
    given: list[bytes] = []
    monkeypatch.setattr(exported_model, "Session", lambda content, _: given.append(content))
    content = Path(exports["fp32"].file).read_bytes()
    (tmp_path / "model.onnx").write_bytes(content + b"\xb8\x3e\x01")  # field 999: 1
    exported = open_exported(tmp_path / "model.onnx")
    assert [*given, exported.content] == [content, content]


@pytest.mark.threat(31)
def test_large_files_are_refused(exports: dict[str, Exported], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are read."""
    monkeypatch.setattr(exported_model, "MAX_FILE_BYTES", 100)
    with pytest.raises(ArtifactError, match="over the limit of 100"):
        open_exported(exports["fp32"].file)


@pytest.mark.threat(31)
def test_files_that_are_not_onnx(exports: dict[str, Exported], tmp_path: Path) -> None:
    """Also a pickle, and a FIFO, which is not waited for."""
    file, content = tmp_path / "model.onnx", Path(exports["int8"].file).read_bytes()
    for bad in (b"", b"<html>", pickle.dumps(print), b"PK\3\4", content[:-1], content[: len(content) // 2]):
        file.write_bytes(bad)
        with pytest.raises(ArtifactError):
            open_exported(file)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(ArtifactError, match="not a plain file"):
            open_exported(path)
    with pytest.raises(UsageError, match="no such file"):
        open_exported(tmp_path / "none.onnx")


@pytest.mark.threat(31)
def test_a_model_that_onnxruntime_cannot_run(exports: dict[str, Exported], tmp_path: Path) -> None:
    """Every operator is valid by itself, but the shapes do not agree."""
    model = onnx.load(exports["fp32"].file)
    transpose = next(node for node in model.graph.node if node.op_type == "Transpose")
    transpose.attribute[0].ints[:] = [0, 1]
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="onnxruntime cannot load it: "):
        open_exported(tmp_path / "model.onnx")
