"""Measures the latency of one image in one thread: exported files and the model in torch, in turn.

python -m tools.export_latency models/pocket-5m exports/pocket-5m-*.onnx
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from pocket_resnet.device import choose, machine
from pocket_resnet.exporting.exported_model import open_exported
from pocket_resnet.model.artifact import load_model

NUM_WARM_UP = 5


def main() -> None:
    """Print the median and the fastest tenth of each, and their share of torch's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seconds = measure(runners(arguments.model, arguments.files), arguments.rounds)
    print(f"{machine(choose('cpu', 'fp32'))}, onnxruntime {onnxruntime.__version__}")
    of_torch = seconds["torch"]
    for name, found in seconds.items():
        median, fast = np.median(found), np.quantile(found, 0.1)
        shares = f"{median / np.median(of_torch):.2f} and {fast / np.quantile(of_torch, 0.1):.2f} of torch"
        print(f"{name:32} median {median * 1e3:7.2f} ms, fastest tenth {fast * 1e3:7.2f} ms, {shares}")


def runners(model_path: Path, files: list[Path]) -> dict[str, Callable[[], object]]:
    """Functions that classify one image of the network's size: torch from floats, files from uint8."""
    model, card = load_model(model_path)
    size = card.spec.image_size
    image_1HWC = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    image_1CHW = torch.from_numpy(image_1HWC).permute(0, 3, 1, 2) / 255
    found: dict[str, Callable[[], object]] = {"torch": lambda: model(image_1CHW)}
    for file in files:
        found[file.name] = partial(open_exported(file).session.logits, image_1HWC, 1)
    return found


@torch.inference_mode()
def measure(run: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call; all take turns in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in run}
    for index in range(rounds + NUM_WARM_UP):
        for name, call in run.items():
            start = time.perf_counter()
            call()
            if index >= NUM_WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
