"""An ONNX graph, run by onnxruntime on the processor.

Shapes: N images, B images per batch, K classes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

LOG_ERRORS = 3  # onnxruntime's severity; its warnings are about its own optimiser


class Session:
    """A graph, ready to run."""

    def __init__(self, content: onnx.ModelProto | bytes, num_threads: int = 1, *, exact_int8: bool = False) -> None:
        """Load the graph.

        With `exact_int8`, sums of 8-bit products do not saturate on processors without VNNI; they take longer there.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = LOG_ERRORS
        if exact_int8:
            options.add_session_config_entry("session.x64quantprecision", "1")
        serialized = content if isinstance(content, bytes) else content.SerializeToString()
        self._session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
        [self._input] = (entry.name for entry in self._session.get_inputs())

    def logits(self, images: NDArray[Any], batch_size: int) -> NDArray[np.float32]:
        """The logits of all images, float [N, K]."""
        return self._run("logits", images, batch_size)

    def probabilities(self, images: NDArray[Any], batch_size: int) -> NDArray[np.float32]:
        """The probabilities of all images, float [N, K]; a network without preprocessing does not compute them."""
        return self._run("probabilities", images, batch_size)

    def _run(self, output: str, images: NDArray[Any], batch_size: int) -> NDArray[np.float32]:
        parts = (self._session.run([output], {self._input: part})[0] for part in batches(images, batch_size))
        return np.concatenate(list(parts))


def batches(images: NDArray[Any], batch_size: int) -> Iterator[NDArray[Any]]:
    """The images in order, `batch_size` at a time; the last batch may be smaller."""
    for start in range(0, len(images), batch_size):
        yield images[start : start + batch_size]
