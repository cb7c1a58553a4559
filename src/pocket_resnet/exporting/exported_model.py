"""Opens a file that `export` wrote. Other ONNX files, and hostile ones, are refused before onnxruntime sees them.

onnxruntime would read the files that an ONNX file refers to, from anywhere on the disk.

Shapes: B images, H x W pixels of any size, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message
from pydantic import TypeAdapter, ValidationError

from pocket_resnet.errors import ArtifactError, UsageError
from pocket_resnet.exporting.graph import IR_VERSION, OPSET
from pocket_resnet.exporting.session import Session
from pocket_resnet.exporting.wire_format import check_num_fields
from pocket_resnet.io.files import expanded, read_limited
from pocket_resnet.model.artifact import first_fault
from pocket_resnet.model.card import ClassNames

NETWORK_SIZE = "network_size"  # the name in the graph of preprocessing
MAX_IMAGE_SIZE = 4_096  # as for NetworkSpec.image_size
MAX_FILE_BYTES = 256 * 2**20
HINT = "use a file that `pocket-resnet export` wrote"


@dataclass(frozen=True)
class ExportedModel:
    """An exported file, ready to run."""

    session: Session
    """Its input is uint8 [B, H, W, 3]; it computes logits and probabilities, float [B, K]."""
    class_names: tuple[str, ...]
    """Names of the K classes, in the order of the logits."""
    image_size: int
    """The height and width that the graph resizes its input to."""
    metadata: dict[str, str]
    """The file's description of the model; docs/deploy.md lists the keys."""
    content: bytes
    """The checked file, without fields that this version of onnx does not know."""


def open_exported(path: str | Path, num_threads: int = 1) -> ExportedModel:
    """The model in this ONNX file.

    Raises UsageError if there is no such file, and ArtifactError if it is not what `export` writes: it refers to other
    files, has operators outside of the ONNX standard, control flow, another input or output, or is over the limits.
    """
    path = expanded(path)
    if not path.exists():
        raise UsageError("no such file", where=path, hint="write one with: pocket-resnet export MODEL")
    try:
        content = read_limited(path, MAX_FILE_BYTES)
        check_num_fields(content)
        model = onnx.load_model_from_string(content)
        model.DiscardUnknownFields()  # onnxruntime may know more fields than this version of onnx
        _check_parts(model)
        _check_version(model)
        num_classes = _check_signature(model.graph)
        image_size = _image_size(model.graph)
        onnx.checker.check_model(model)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        class_names = _class_names(metadata.get("class_names", "[]"), num_classes)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        what = "not a valid ONNX file" if isinstance(error, DecodeError) else first_fault(error)
        raise ArtifactError(what, where=path, hint=HINT) from error
    try:
        content = model.SerializeToString(deterministic=True)
        session = Session(content, num_threads)
    except Exception as error:  # onnxruntime's errors have no common class
        raise ArtifactError(f"onnxruntime cannot load it: {first_fault(error)}", where=path, hint=HINT) from error
    return ExportedModel(session, class_names, image_size, metadata, content)


def _check_parts(model: onnx.ModelProto) -> None:
    """Raise ValueError if a part of the file, at any depth, is one that `export` never writes."""
    for part in _parts(model):
        if isinstance(part, onnx.TensorProto) and (part.data_location or part.external_data):
            raise ValueError("its weights are in another file")
        if isinstance(part, onnx.NodeProto) and part.domain:
            raise ValueError(f"the operator {part.op_type[:50]!r} of {part.domain[:50]!r} is not in the ONNX standard")
        if isinstance(part, onnx.AttributeProto) and (part.HasField("g") or part.graphs):
            raise ValueError("it has control flow")
        if isinstance(part, onnx.FunctionProto | onnx.TrainingInfoProto | onnx.SparseTensorProto):
            raise ValueError(f"it has a {type(part).__name__}")


def _parts(message: Message) -> Iterator[Message]:
    """The message, then all messages inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in [value] if isinstance(value, Message) else value:
                yield from _parts(part)


def _check_version(model: onnx.ModelProto) -> None:
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets.keys() != {""}:
        raise ValueError("its operators are not those of the ONNX standard alone")
    if opsets[""] > OPSET or model.ir_version > IR_VERSION:
        what = f"ONNX {model.ir_version}, operator set {opsets['']}"
        raise ValueError(f"{what} is newer than this program's {IR_VERSION}, {OPSET}: upgrade pocket-resnet")


def _check_signature(graph: onnx.GraphProto) -> int:
    """The number of classes. Raises ValueError if input and outputs are not those of an exported file."""
    inputs, outputs = (
        [(value.name, value.type.tensor_type.elem_type, _sizes(value)) for value in values]
        for values in (graph.input, graph.output)
    )
    if inputs != [("images", onnx.TensorProto.UINT8, (0, 0, 0, 3))]:
        raise ValueError("its input is not `images`, uint8 [batch, height, width, 3]")
    num_classes = outputs[0][2][-1] if outputs and outputs[0][2] else 0
    if outputs != [(name, onnx.TensorProto.FLOAT, (0, num_classes)) for name in ("logits", "probabilities")]:
        raise ValueError("its outputs are not `logits` and `probabilities`, float [batch, classes]")
    return num_classes


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The size of each axis; 0 if any size is possible."""
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)


def _image_size(graph: onnx.GraphProto) -> int:
    """The network's input size. Raises ValueError if the constant that `export` writes for it is missing."""
    sizes = [
        tuple(attribute.ints)
        for node in graph.node
        if node.op_type == "Constant" and list(node.output) == [NETWORK_SIZE]
        for attribute in node.attribute
    ]
    if len(sizes) != 1 or len(sizes[0]) != 2 or not 1 <= sizes[0][0] == sizes[0][1] <= MAX_IMAGE_SIZE:
        raise ValueError(f"its constant `{NETWORK_SIZE}` is not the height and width of the network's input")
    return int(sizes[0][0])


def _class_names(text: str, num_classes: int) -> tuple[str, ...]:
    try:
        names = TypeAdapter[tuple[str, ...]](ClassNames).validate_json(text)
    except ValidationError:
        raise ValueError("its metadata have no `class_names` as a JSON list of at least two names") from None
    if len(names) != num_classes or len(set(names)) != len(names):
        raise ValueError(f"{len(set(names))} different class names for {num_classes} classes")
    return names
