"""Compares training steps with the machine's fastest convolution, and lists the slowest kernels.

    python -m tools.steps                                   # fast, best at 1M and at 5M, about 2 minutes on two cores
    python -m tools.steps --recipes cpu94 best:270k         # a recipe's name or file, and after a colon its budget

A step trains 128 images at the network's full size and is a complete training step. The limit is torch's fastest
3 x 3 convolution of 128 or 256 channels on maps of 16 x 16, forward and backward, measured before and after the steps
of each network. Rates count the operations of torch's convolutions, so Winograd's algorithm may exceed the limit. The
kernels are those of oneDNN, by their share of its convolutions' time; a GPU and Winograd's algorithm have none. The
share of the convolutions leaves out the copies that put small images side by side.
"""

import ctypes
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.source import Source
from pocket_resnet.device import Hardware, choose, instructions, machine
from pocket_resnet.model.counts import num_params
from pocket_resnet.model.winograd import WinogradConvolution
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import load_recipe, with_choices
from pocket_resnet.training.flops import flops_per_image
from pocket_resnet.training.prepare import fit_to_data, new_trainer
from pocket_resnet.training.trainer import Trainer
from tools import parser

RECIPES = ("fast", "best:1M", "best:5M")
BATCH_SIZE = 128
NUM_STEPS = 2
LIMIT_CHANNELS = (128, 256)
LIMIT_IMAGE_SIZE = 16
LIMIT_REPEATS = 3
NUM_KERNELS = 3
WINOGRAD = WinogradConvolution.__name__


@dataclass(frozen=True)
class Measured:
    """Steps of one network."""

    name: str
    num_params: int
    images_per_s: float
    gflops_per_s: float
    share_of_limit: float
    convolution_share: float
    """Share of a step's processor time; the rest is norms, activations, augmentation and the optimizer."""
    kernels: tuple[str, ...]


def measure(name: str, source: Source, hardware: Hardware) -> Measured:
    """Time steps of one recipe between two measurements of the limit."""
    trainer = new_trainer(at_full_size(name, source), source, source.split("train"), hardware)
    trainer.train_step()  # to warm up
    limits, times_s = [limit(hardware)], []
    for _ in range(NUM_STEPS):
        started_s = time.perf_counter()
        trainer.train_step()
        hardware.synchronize()
        times_s.append(time.perf_counter() - started_s)
    limits.append(limit(hardware))
    images_per_s = trainer.recipe.batch_size / statistics.median(times_s)
    flops_per_s = images_per_s * flops_per_image(trainer.model, trainer.model.spec.image_size)
    return Measured(
        name=name,
        num_params=num_params(trainer.model.spec),
        images_per_s=images_per_s,
        gflops_per_s=flops_per_s / 1e9,
        share_of_limit=flops_per_s / statistics.mean(limits),
        convolution_share=convolution_share(trainer),
        kernels=kernels(trainer),
    )


def at_full_size(name: str, source: Source) -> Recipe:
    """The recipe, changed to train all images of a batch, at the network's own size only."""
    recipe, _, budget = name.partition(":")
    changes = {"batch_size": BATCH_SIZE, "train_image_sizes": (), "hard_fraction": 1.0, "min_steps": 0}
    chosen = with_choices(load_recipe(recipe), changes | ({"budget": budget} if budget else {}))
    return fit_to_data(chosen, source, len(source.split("train")), quiet=True)


def limit(hardware: Hardware) -> float:
    """FLOP/s of the fastest of a few convolutions, forward and backward."""
    rates: list[float] = []
    for channels in LIMIT_CHANNELS:
        convolution = hardware.place(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        x_BCHW = torch.randn(BATCH_SIZE, channels, LIMIT_IMAGE_SIZE, LIMIT_IMAGE_SIZE, device=hardware.device)
        x_BCHW = x_BCHW.to(memory_format=hardware.memory_format).requires_grad_()
        with FlopCounterMode(display=False) as counter:
            _forward_and_backward(convolution, x_BCHW, hardware)  # also warms up
        times_s = [_forward_and_backward(convolution, x_BCHW, hardware) for _ in range(LIMIT_REPEATS)]
        rates.append(counter.get_total_flops() / statistics.median(times_s))
    return max(rates)


def _forward_and_backward(convolution: nn.Conv2d, x_BCHW: Tensor, hardware: Hardware) -> float:
    """Seconds of one forward and backward pass."""
    hardware.synchronize()
    started_s = time.perf_counter()
    with hardware.autocast():
        y_BCHW = convolution(x_BCHW)
    y_BCHW.backward(torch.ones_like(y_BCHW))
    hardware.synchronize()
    return time.perf_counter() - started_s


def convolution_share(trainer: Trainer) -> float:
    """The share of one step's time in its convolutions, forward and backward."""
    with profile() as profiled:
        trainer.train_step()
        trainer.hardware.synchronize()
    return share_of_convolutions(profiled.key_averages(), on_gpu=trainer.hardware.device.type == "cuda")


def share_of_convolutions(events: Iterable[Any], *, on_gpu: bool) -> float:
    """The share of the convolutions in the time of a profile's operations.

    The profile also lists a GPU's kernels, whose time is already that of the operations that started them. A
    convolution by Winograd's algorithm, which runs on the CPU, consists of many operations.
    """
    operations = [event for event in events if event.device_type.name == "CPU"]
    times = {each.key: each.self_device_time_total if on_gpu else each.self_cpu_time_total for each in operations}
    plain = sum(spent for name, spent in times.items() if "conv" in name)
    winograd = sum(each.cpu_time_total for each in operations if each.key in (WINOGRAD, f"{WINOGRAD}Backward"))
    return float((plain + winograd) / sum(times.values()))


def kernels(trainer: Trainer) -> tuple[str, ...]:
    """The implementations of convolutions that took the most time in one step, with oneDNN's names."""
    with tempfile.TemporaryFile("w+") as log:
        with redirected_stdout(log), torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):  # type: ignore[no-untyped-call]
            trainer.train_step()
        log.seek(0)
        return most_used(log)


def most_used(log: Iterator[str] | IO[str]) -> tuple[str, ...]:
    """The convolution kernels of a oneDNN log that took the most time, each with its share of the total."""
    times: dict[str, float] = defaultdict(float)
    for line in log:
        fields = line.split(",")
        if fields[2:4] == ["primitive", "exec"] and fields[5] == "convolution":
            times[fields[6]] += float(fields[-1])
    by_time = sorted(times.items(), key=lambda pair: -pair[1])[:NUM_KERNELS]
    return tuple(f"{name} {spent / sum(times.values()):.0%}" for name, spent in by_time)


@contextmanager
def redirected_stdout(file: IO[str]) -> Iterator[None]:
    """Inside the block, the standard output of this process, including its libraries, goes to the file."""
    libc = ctypes.CDLL(None)
    saved = os.dup(1)
    os.dup2(file.fileno(), 1)
    try:
        yield
    finally:
        libc.fflush(None)
        os.dup2(saved, 1)
        os.close(saved)


def table(measured: Sequence[Measured]) -> list[str]:
    """One row per network."""
    lines = [
        "| step of | parameters | images/s | GFLOP/s | of the limit | convolutions | kernels |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    return lines + [
        f"| `{each.name}` | {each.num_params:,} | {each.images_per_s:,.0f} | {each.gflops_per_s:,.0f} "
        f"| {each.share_of_limit:.0%} | {each.convolution_share:.0%} | {', '.join(each.kernels) or '-'} |"
        for each in measured
    ]


def report(names: Sequence[str], source: Source) -> list[str]:
    """The table of these recipes' steps below a line that names the machine."""
    hardware = choose()
    hardware.use_threads()
    measured = [measure(name, source, hardware) for name in names]
    on = f"{machine(hardware)}; {', '.join(instructions())}"
    return [f"Batches of {BATCH_SIZE}, medians of {NUM_STEPS} steps, on {on}.", "", *table(measured)]


def main() -> None:
    options = parser(__doc__, "data", "data_dir")
    options.add_argument("--recipes", nargs="+", default=RECIPES, metavar="NAME[:BUDGET]", help="recipes to measure")
    arguments = options.parse_args()
    print(*report(arguments.recipes, open_source(arguments.data, data_dir=arguments.data_dir)), sep="\n")


if __name__ == "__main__":
    main()
