"""Measures the latency of one picture, in one thread, of a model in torch and of its exported files, which take turns.

python -m tools.pte_latency pocket-1m exports/pocket-1m-int8.onnx exports/pocket-1m-fp32.pte exports/pocket-1m-int8.pte
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pocket_resnet.data.augment import to_float
from pocket_resnet.device import choose, instructions, machine
from pocket_resnet.exporting.pte.program import Program
from pocket_resnet.exporting.session import Session
from pocket_resnet.inference.latency import NUM_WARM_UPS, Latency, latencies
from pocket_resnet.model.artifact import load_model
from pocket_resnet.model.resnet import ResNet
from tools import parser


def measure(model: ResNet, files: list[Path], num_rounds: int) -> dict[str, Latency]:
    """The latency of the model, named torch, and of each file."""
    from executorch.extension.pybindings import portable_lib

    torch.set_num_threads(1)
    portable_lib._unsafe_reset_threadpool(1)
    size = model.spec.image_size
    image_BSSC = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    calls: dict[str, Callable[[], object]] = {"torch": partial(_run_torch, model, image_BSSC)}
    for file in files:
        runnable = Program(file.read_bytes()) if file.suffix == ".pte" else Session(file.read_bytes())
        calls[file.name] = partial(runnable.logits, image_BSSC, 1)
    return latencies(calls, range(NUM_WARM_UPS + num_rounds))


@torch.inference_mode()
def _run_torch(model: ResNet, image_BSSC: NDArray[np.uint8]) -> None:
    model(to_float(torch.from_numpy(image_BSSC).permute(0, 3, 1, 2), torch.channels_last))


def main() -> None:
    """Print a table: median, 90th percentile and median as a share of torch's."""
    options = parser(__doc__, "rounds", rounds=100)
    options.add_argument("model", type=Path, help="a model or run")
    options.add_argument("files", type=Path, nargs="+", help="its exported .onnx and .pte files")
    arguments = options.parse_args()
    model, _ = load_model(arguments.model)
    measured = measure(model, arguments.files, arguments.rounds)
    print(machine(choose("cpu", "fp32")), *instructions())
    for name, each in measured.items():
        share = each.median_s / measured["torch"].median_s
        print(f"{name:24} {1e3 * each.median_s:8.2f} {1e3 * each.p90_s:8.2f} ms {share:6.2f} of torch")


if __name__ == "__main__":
    main()
