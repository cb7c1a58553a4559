"""Size, memory, latency and throughput of networks on this machine, in torch and in onnxruntime.

Shapes: B images, N images, S x S pixels of the network.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pocket_resnet.data.augment import to_float
from pocket_resnet.device import choose, instructions, machine, num_cores
from pocket_resnet.errors import UsageError
from pocket_resnet.exporting.memory import classify_with_onnxruntime, classify_with_torch, peak_bytes
from pocket_resnet.exporting.requirements import missing_packages
from pocket_resnet.inference.latency import NUM_WARM_UPS, Latency, latencies
from pocket_resnet.io.files import expanded, write_bytes
from pocket_resnet.model.artifact import find_model, load_model, model_name
from pocket_resnet.model.card import Card
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.torch_settings import own_settings

Runtime = Literal["torch fp32", "onnxruntime fp32", "onnxruntime int8"]
Classify = Callable[[int], object]  # classifies that many images

BATCH_SIZE = 64  # for throughput
NUM_RANDOM_IMAGES = 50

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """One model in one runtime with a number of threads."""

    model: str
    runtime: Runtime
    num_threads: int
    num_bytes: int
    """Of the weights (torch) or the file (onnxruntime)."""
    peak_bytes: int
    """Peak memory of a process that loads the model and classifies one image, interpreter included."""
    latency: Latency
    """Of one image of the network's size, already decoded."""
    images_per_s: float
    """In batches of BATCH_SIZE."""

    def to_json(self) -> dict[str, Any]:
        """One flat row; times are in milliseconds."""
        times = {"median_ms": 1e3 * self.latency.median_s, "p90_ms": 1e3 * self.latency.p90_s}
        counts = {"spread": self.latency.spread, "num_rounds": self.latency.num_rounds}
        return {key: value for key, value in vars(self).items() if key != "latency"} | times | counts


@dataclass(frozen=True)
class Benchmark:
    """All timings of a call, and what they were measured on."""

    machine: str
    instructions: tuple[str, ...]
    """Instruction sets of the processor that decide the speed of small networks, such as avx512_vnni."""
    cards: dict[str, Card]
    timings: tuple[Timing, ...]

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints; times are in milliseconds."""
        keys = ("num_params", "num_macs", "accuracy", "split", "num_images")
        return {
            "machine": self.machine,
            "instructions": list(self.instructions),
            "models": {name: {key: getattr(card, key) for key in keys} for name, card in self.cards.items()},
            "timings": [timing.to_json() for timing in self.timings],
        }

    def points(self) -> list[tuple[str, str, float, float]]:
        """Model, runtime, seconds and accuracy (0 to 1) of the timings with the fewest threads, for a plot."""
        fewest = min(timing.num_threads for timing in self.timings)
        return [
            (timing.model, timing.runtime, timing.latency.median_s, self.cards[timing.model].accuracy)
            for timing in self.timings
            if timing.num_threads == fewest
        ]


@dataclass(frozen=True)
class _Program:
    """A model in a runtime, with a classifier for each number of threads."""

    model: str
    runtime: Runtime
    num_bytes: int
    peak_bytes: int
    classify: dict[int, Classify]


@own_settings()
def benchmark(
    models: Sequence[str | Path],
    *,
    threads: Sequence[int] = (),
    num_rounds: int = 50,
    track: Callable[[range], Iterable[int]] = iter,
) -> Benchmark:
    """Time the models one image at a time and in batches, all taking turns.

    `models` are as in `load`; `threads` are the numbers of threads (default: 1 and all cores). Without the extra
    `export`, only torch is timed. `track` may show the progress over a range of rounds. Raises UsageError for models of
    the same name or fewer than 2 rounds.
    """
    threads = sorted({*threads} or {1, num_cores()})
    if num_rounds < 2:
        raise UsageError(f"{num_rounds} rounds are too few", where="rounds", hint="use 2 or more")
    if threads[0] < 1:
        raise UsageError(f"{threads[0]} threads cannot compute", where="threads", hint="use 1 or more")
    loaded = {model_name(expanded(path)): (find_model(expanded(path)), *load_model(expanded(path))) for path in models}
    if len(loaded) < len(models):
        raise UsageError("two of the models have the same name", hint="name each model once")
    with tempfile.TemporaryDirectory() as folder:
        programs = [
            program
            for name, (path, model, card) in loaded.items()
            for program in _programs(name, path, model, card, threads, Path(folder))
        ]
        timings = _time(programs, num_rounds, track)
    cards = {name: card for name, (_, _, card) in loaded.items()}
    return Benchmark(machine(choose("cpu", "fp32")), instructions(), cards, tuple(timings))


def _time(programs: list[_Program], num_rounds: int, track: Callable[[range], Iterable[int]]) -> list[Timing]:
    keys = [(program, number) for program in programs for number in program.classify]
    calls = {index: partial(program.classify[number], 1) for index, (program, number) in enumerate(keys)}
    batches = {index: partial(program.classify[number], BATCH_SIZE) for index, (program, number) in enumerate(keys)}
    single = latencies(calls, track(range(NUM_WARM_UPS + num_rounds)))
    batched = latencies(batches, track(range(NUM_WARM_UPS + max(2, num_rounds // 10))))
    return [
        Timing(
            model=program.model,
            runtime=program.runtime,
            num_threads=number,
            num_bytes=program.num_bytes,
            peak_bytes=program.peak_bytes,
            latency=single[index],
            images_per_s=BATCH_SIZE / batched[index].median_s,
        )
        for index, (program, number) in enumerate(keys)
    ]


def _programs(name: str, path: Path, model: ResNet, card: Card, threads: Sequence[int], folder: Path) -> list[_Program]:
    """The model in every runtime that is installed."""
    _log.info("preparing %s", name)
    images_NCSS = _random_images(model)
    in_torch: dict[int, Classify] = {number: partial(_run_torch, model, images_NCSS, number) for number in threads}
    peak = peak_bytes(classify_with_torch, path)
    programs = [_Program(name, "torch fp32", 4 * card.num_params, peak, in_torch)]
    if missing_packages("export"):
        _log.warning("onnxruntime is not timed: it needs pip install 'pocket-resnet[export]'")
        return programs
    for runtime, content in _exported(model).items():
        file = folder / f"{name}-{runtime.split()[1]}.onnx"
        write_bytes(file, content)
        peak = peak_bytes(classify_with_onnxruntime, file)
        programs.append(_Program(name, runtime, len(content), peak, _in_onnxruntime(content, images_NCSS, threads)))
    return programs


def _exported(model: ResNet) -> dict[Runtime, bytes]:
    """The files that `export` writes, but calibrated on random images: their speed is the same, their accuracy not."""
    from pocket_resnet.exporting.graph import network_graph, with_preprocessing
    from pocket_resnet.exporting.quantization import quantized

    size, draws = model.spec.image_size, np.random.default_rng(0)
    network = network_graph(model)
    images_NCSS = draws.random((2 * NUM_RANDOM_IMAGES, 3, size, size), np.float32)
    calibration_NCSS, choice_NCSS = np.split(images_NCSS, 2)
    in_int8 = quantized(network, calibration_NCSS, choice_NCSS, reduce_range=True, num_threads=num_cores())
    networks: dict[Runtime, Any] = {"onnxruntime fp32": network, "onnxruntime int8": in_int8}
    return {runtime: with_preprocessing(each, size, {}).SerializeToString() for runtime, each in networks.items()}


def _in_onnxruntime(content: bytes, images_NCSS: Tensor, threads: Sequence[int]) -> dict[int, Classify]:
    from pocket_resnet.exporting.session import Session

    sessions = {number: Session(content, number) for number in threads}
    images_NSSC = images_NCSS.permute(0, 2, 3, 1).contiguous().numpy()

    def classify(session: Session, count: int) -> object:
        return session.probabilities(images_NSSC[:count], count)

    return {number: partial(classify, session) for number, session in sessions.items()}


@torch.inference_mode()
def _run_torch(model: ResNet, images_NCSS: Tensor, num_threads: int, count: int) -> None:
    if torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)
    model(to_float(images_NCSS[:count], torch.channels_last)).softmax(1)


def _random_images(model: ResNet) -> Tensor:
    size = model.spec.image_size
    return torch.randint(0, 256, (BATCH_SIZE, 3, size, size), dtype=torch.uint8, generator=torch.Generator())
