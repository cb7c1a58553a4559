"""The memory that a program needs to classify one image, measured in a separate process.

Imports what it measures inside the functions: a program that runs an exported file does not load torch.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from pocket_resnet.io.processes import hidden_main

PROCESS_STATUS = Path("/proc/self/status")


def peak_bytes(classify: Callable[[Path], None], path: Path) -> int | None:
    """Peak resident memory in bytes of a Python process that calls `classify(path)`, interpreter included.

    None if the system does not have Linux's /proc.
    """
    if not PROCESS_STATUS.exists():
        return None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with hidden_main():
            peak = pool.submit(_peak, classify, path)
        return peak.result()


def _peak(classify: Callable[[Path], None], path: Path) -> int:
    classify(path)
    # getrusage's ru_maxrss would include the parent, whose memory the process shared before its own program started.
    lines = PROCESS_STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def classify_with_torch(path: Path) -> None:
    """Load the model directory and classify one random image of the network's size."""
    import torch

    from pocket_resnet.model.artifact import load_model

    torch.set_num_threads(1)
    model, card = load_model(path)
    with torch.inference_mode():
        model(torch.rand(1, 3, card.spec.image_size, card.spec.image_size))


def classify_with_onnxruntime(path: Path) -> None:
    """Load the exported file and classify one image, as a program without this package does.

    The image is black, 32 x 32 pixels; the file resizes it to the network's size.
    """
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(["probabilities"], {"images": np.zeros((1, 32, 32, 3), np.uint8)})
