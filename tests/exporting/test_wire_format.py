"""The count of fields agrees with protobuf's own parser, and stops early."""

import contextlib

import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from pocket_resnet.exporting import wire_format
from pocket_resnet.exporting.wire_format import check_num_fields


def small_model() -> onnx.ModelProto:
    """Fields of every wire type that ONNX has, nested four deep."""
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [2], [1.0, 2.0])
    node = helper.make_node("Constant", [], ["y"], value=weights)
    alpha = helper.make_node("LeakyRelu", ["y"], ["z"], alpha=0.5)
    return helper.make_model(helper.make_graph([node, alpha], "graph", [], []))


def num_fields(message: object) -> int:
    """Counted in the parsed message: each element of a repeated field is one, packed numbers together are one."""
    count = 0
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        values = list(value) if field.is_repeated and not field.is_packed else [value]
        count += len(values)
        if field.message_type is not None:
            count += sum(num_fields(part) for part in values)
    return count


def test_the_limit_counts_all_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    count = num_fields(model)
    assert count > 20
    monkeypatch.setattr(wire_format, "MAX_NUM_FIELDS", count)
    check_num_fields(model.SerializeToString())
    monkeypatch.setattr(wire_format, "MAX_NUM_FIELDS", count - 1)
    with pytest.raises(ValueError, match=f"more than {count - 1} fields"):
        check_num_fields(model.SerializeToString())


@pytest.mark.threat(31)
def test_a_bomb_is_not_parsed() -> None:
    """Two bytes for each of 4 million empty operators, which take 600 MB when parsed."""
    num_operators = 4 * 2**20
    content = b"\x3a\x80\x80\x80\x04" + b"\x0a\x00" * num_operators
    with pytest.raises(ValueError, match="more than 300,000 fields"):
        check_num_fields(content)


@pytest.mark.threat(31)
def test_damaged() -> None:
    """What the count refuses as damaged, protobuf refuses too."""
    content = small_model().SerializeToString()
    for end in range(len(content)):
        for damaged in (content[:end], content[:end] + bytes([content[end] ^ 0xFF]) + content[end + 1 :]):
            with contextlib.suppress(ValueError):
                check_num_fields(damaged)
                continue
            with pytest.raises(DecodeError):
                onnx.ModelProto.FromString(damaged)
