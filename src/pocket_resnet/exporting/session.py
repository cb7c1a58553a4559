"""An ONNX graph, run by onnxruntime on the processor.

Shapes: N images, B images a batch, K classes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

LOG_ERRORS = 3  # onnxruntime's severities: warnings say what its optimiser does with a graph

Session = onnxruntime.InferenceSession


def open_session(content: onnx.ModelProto | bytes, num_threads: int = 1, *, exact_int8: bool = False) -> Session:
    """The graph, ready to run on so many threads.

    `exact_int8`: without VNNI too, 8-bit products are added without saturating, as VNNI does, only slower.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = LOG_ERRORS
    if exact_int8:
        options.add_session_config_entry("session.x64quantprecision", "1")
    serialized = content if isinstance(content, bytes) else content.SerializeToString()
    return Session(serialized, options, providers=["CPUExecutionProvider"])


def outputs(session: Session, images: NDArray[Any], batch_size: int) -> NDArray[np.float32]:
    """The graph's first output, the logits, for all images: float [N, K]."""
    [name] = (entry.name for entry in session.get_inputs())
    [first, *_] = (entry.name for entry in session.get_outputs())
    return np.concatenate([session.run([first], {name: batch})[0] for batch in batches(images, batch_size)])


def batches(images: NDArray[Any], batch_size: int) -> Iterator[NDArray[Any]]:
    """The images in order, `batch_size` at a time; the last batch may be smaller."""
    for start in range(0, len(images), batch_size):
        yield images[start : start + batch_size]
