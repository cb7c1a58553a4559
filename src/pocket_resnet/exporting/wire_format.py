"""Limits the number of fields in a serialised ONNX model before it is parsed.

An empty message takes about 75 times its two bytes when parsed, so a few hundred megabytes could fill the memory.

Source: https://protobuf.dev/programming-guides/encoding
"""

import onnx

MAX_NUM_FIELDS = 300_000  # an int8 file has about 200 per convolution
VARINT, LENGTH_DELIMITED = 0, 2
NUM_FIXED_BYTES = {1: 8, 5: 4}  # of the other two wire types; ONNX has no groups


def check_num_fields(content: bytes) -> None:
    """Raise ValueError if the model has more than MAX_NUM_FIELDS fields, at any depth, or is not a protobuf."""
    num_fields, pending = 0, [(0, len(content), onnx.ModelProto.DESCRIPTOR)]
    while pending:
        position, end, message_type = pending.pop()
        while position < end:
            if (num_fields := num_fields + 1) > MAX_NUM_FIELDS:
                raise ValueError(f"more than {MAX_NUM_FIELDS:,} fields")
            key, position = _varint(content, position)
            wire_type = key & 7
            if wire_type == LENGTH_DELIMITED:
                num_bytes, position = _varint(content, position)
                field = message_type.fields_by_number.get(key >> 3)
                if field is not None and field.message_type is not None:
                    pending.append((position, min(position + num_bytes, end), field.message_type))
                position += num_bytes
            elif wire_type == VARINT:
                _, position = _varint(content, position)
            elif wire_type in NUM_FIXED_BYTES:
                position += NUM_FIXED_BYTES[wire_type]
            else:
                raise ValueError("not a valid ONNX file")


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """The number at the position, which has 7 bits in each byte, and the position after it."""
    value = shift = 0
    for index in range(position, min(position + 10, len(content))):
        value |= (content[index] & 0x7F) << shift
        if content[index] < 0x80:
            return value, index + 1
        shift += 7
    raise ValueError("not a valid ONNX file")
