"""Size, memory, latency and throughput of networks on this machine, in torch and in onnxruntime.

Shapes: B images, N images, S x S pixels of the network.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pocket_resnet.data.augment import to_float
from pocket_resnet.device import choose, instructions, machine, num_cores
from pocket_resnet.errors import UsageError
from pocket_resnet.exporting.export import is_exported
from pocket_resnet.exporting.memory import classify_with_onnxruntime, classify_with_torch, peak_bytes
from pocket_resnet.extras import missing_packages, require_extra
from pocket_resnet.inference.latency import NUM_WARM_UPS, Latency, latencies
from pocket_resnet.io.files import expanded, write_bytes
from pocket_resnet.model.artifact import find_model, load_model, model_name
from pocket_resnet.model.card import stated_accuracy
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.torch_settings import own_settings, set_num_threads

Runtime = Literal["torch fp32", "onnxruntime fp32", "onnxruntime fp16", "onnxruntime int8", "onnxruntime"]
TimedCall = Callable[[int], object]  # classifies that many images

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
    """Size of the weights (torch) or the file (onnxruntime)."""
    peak_bytes: int | None
    """Peak memory of a process that loads the model and classifies one image, interpreter included; None without
    Linux's /proc."""
    latency: Latency
    """Latency of one decoded image of the network's size."""
    images_per_s: float
    """Throughput in batches of BATCH_SIZE."""

    def to_json(self) -> dict[str, Any]:
        """One flat row; times are in milliseconds."""
        times = {"median_ms": 1e3 * self.latency.median_s, "p90_ms": 1e3 * self.latency.p90_s}
        counts = {"spread": self.latency.spread, "num_rounds": self.latency.num_rounds}
        return {key: value for key, value in vars(self).items() if key != "latency"} | times | counts


@dataclass(frozen=True)
class Facts:
    """The known figures of a model or an exported file; an exported file does not state its sizes."""

    num_params: int | None = None
    num_macs: int | None = None
    accuracy: float | None = None
    split: str | None = None
    num_images: int | None = None


@dataclass(frozen=True)
class BenchmarkResult:
    """All timings of a call, and the machine and models that were measured."""

    machine: str
    instructions: tuple[str, ...]
    """Instruction sets of the processor that determine the speed of small networks, such as avx512_vnni."""
    models: dict[str, Facts]
    """The known figures by name of the model or file."""
    timings: tuple[Timing, ...]

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints; times are in milliseconds."""
        return {
            "machine": self.machine,
            "instructions": list(self.instructions),
            "models": {name: vars(facts) for name, facts in self.models.items()},
            "timings": [timing.to_json() for timing in self.timings],
        }

    def points(self) -> list[tuple[str, str, float, float]]:
        """Model, runtime, seconds and accuracy (0 to 1) of the timings with the fewest threads, for a plot.

        Raises UsageError if no accuracy is known.
        """
        fewest = min(timing.num_threads for timing in self.timings)
        points: list[tuple[str, str, float, float]] = [
            (timing.model, timing.runtime, timing.latency.median_s, accuracy)
            for timing in self.timings
            if timing.num_threads == fewest and (accuracy := self.models[timing.model].accuracy) is not None
        ]
        if not points:
            raise UsageError("the files do not state their accuracy, which the plot shows", hint="omit --plot")
        return points


@dataclass(frozen=True)
class _Program:
    """A model in a runtime, with a classifier for each number of threads."""

    model: str
    runtime: Runtime
    num_bytes: int
    peak_bytes: int | None
    classify: dict[int, TimedCall]


@own_settings()
def benchmark(
    models: str | Path | Sequence[str | Path],
    *,
    threads: Sequence[int] = (),
    rounds: int = 50,
    track: Callable[[range], Iterable[int]] = iter,
) -> BenchmarkResult:
    """Measure size, memory, latency and throughput of models on this machine, in torch and in onnxruntime.

    `models` are as in `load`, or .onnx files that `export` wrote; `threads` are the numbers of threads (default: 1 and
    all cores). Models and runtimes take turns, with single images for `rounds` rounds, then with batches. A model is
    timed in every runtime, a file only in onnxruntime. Without the extra `export`, models are timed only in torch.
    `track` may show the progress over a range of rounds. Raises UsageError for models of the same name or fewer than 2
    rounds, EnvironmentFault for a file without the extra.

    Example:

        measured = pocket_resnet.benchmark(["pocket-5m", "pocket-1m"], threads=[1])
        print({(each.model, each.runtime): each.latency.median_s for each in measured.timings})
    """
    threads = sorted({*threads} or {1, num_cores()})
    if rounds < 2:
        raise UsageError(f"{rounds} rounds are too few", where="rounds", hint="use 2 or more")
    if threads[0] < 1:
        raise UsageError(f"{threads[0]} threads cannot compute", where="threads", hint="use 1 or more")
    given = [_file_or_model_dir(path) for path in ([models] if isinstance(models, str | Path) else models)]
    paths = {_name(path): path for path in given}
    if len(paths) < len(given):
        raise UsageError("two of the models have the same name", hint="give each once, and rename files")
    facts: dict[str, Facts] = {}
    programs: list[_Program] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, path in paths.items():
            _log.info("preparing %s", name)
            open_path = _open_file if is_exported(path) else _open_model
            facts[name], runnable = open_path(path, threads, Path(folder))
            programs += runnable
        timings = _time(programs, rounds, track)
    return BenchmarkResult(machine(choose("cpu", "fp32")), instructions(), facts, tuple(timings))


def _file_or_model_dir(path: str | Path) -> Path:
    """The exported file, or the model's directory."""
    return full if is_exported(full := expanded(path)) else find_model(full)


def _name(path: Path) -> str:
    return path.name if is_exported(path) else model_name(path)


def _time(programs: list[_Program], rounds: int, track: Callable[[range], Iterable[int]]) -> list[Timing]:
    keys = [(program, number) for program in programs for number in program.classify]
    calls = {index: partial(program.classify[number], 1) for index, (program, number) in enumerate(keys)}
    batches = {index: partial(program.classify[number], BATCH_SIZE) for index, (program, number) in enumerate(keys)}
    single = latencies(calls, track(range(NUM_WARM_UPS + rounds)))
    batched = latencies(batches, track(range(NUM_WARM_UPS + max(2, rounds // 10))))
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


def _open_model(path: Path, threads: Sequence[int], folder: Path) -> tuple[Facts, list[_Program]]:
    """The model in every runtime that is installed."""
    name, (model, card) = model_name(path), load_model(path)
    model = choose("cpu", "fp32").place(model)  # filters are channels last, as where the package predicts
    images_NCSS = _random_images(card.spec.image_size)
    in_torch: dict[int, TimedCall] = {number: partial(_run_torch, model, images_NCSS, number) for number in threads}
    peak = peak_bytes(classify_with_torch, path)
    programs = [_Program(name, "torch fp32", 4 * card.num_params, peak, in_torch)]
    facts = Facts(card.num_params, card.num_macs, card.accuracy, card.split, card.num_images)
    if missing_packages("export"):
        _log.warning("onnxruntime is not timed: it needs pip install 'pocket-resnet[export]'")
        return facts, programs
    for runtime, content in _exported(model).items():
        programs.append(_in_onnxruntime(name, runtime, content, folder, images_NCSS, threads))
    return facts, programs


def _open_file(path: Path, threads: Sequence[int], folder: Path) -> tuple[Facts, list[_Program]]:
    """The exported file in onnxruntime. Raises UsageError and ArtifactError as `open_exported`."""
    require_extra("export")
    from pocket_resnet.exporting.exported_model import open_exported

    exported = open_exported(path)
    precision = exported.metadata.get("precision", "").partition(",")[0]
    runtime: Any = f"onnxruntime {precision}"
    if runtime not in get_args(Runtime):
        runtime = "onnxruntime"
    stated = stated_accuracy(exported.metadata.get("accuracy", ""))
    facts = Facts() if stated is None else Facts(None, None, *stated)
    images_NCSS = _random_images(exported.image_size)
    return facts, [_in_onnxruntime(path.name, runtime, exported.content, folder, images_NCSS, threads)]


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


def _in_onnxruntime(
    name: str, runtime: Runtime, content: bytes, folder: Path, images_NCSS: Tensor, threads: Sequence[int]
) -> _Program:
    """The exported file in onnxruntime; `folder` is for temporary files."""
    from pocket_resnet.exporting.session import Session

    file = folder / "measured.onnx"
    write_bytes(file, content)
    peak = peak_bytes(classify_with_onnxruntime, file)
    sessions = {number: Session(content, number) for number in threads}
    images_NSSC = images_NCSS.permute(0, 2, 3, 1).contiguous().numpy()

    def classify(session: Session, count: int) -> object:
        return session.probabilities(images_NSSC[:count], count)

    calls: dict[int, TimedCall] = {number: partial(classify, session) for number, session in sessions.items()}
    return _Program(name, runtime, len(content), peak, calls)


@torch.inference_mode()
def _run_torch(model: ResNet, images_NCSS: Tensor, num_threads: int, count: int) -> None:
    if torch.get_num_threads() != num_threads:
        set_num_threads(num_threads)
    model(to_float(images_NCSS[:count], torch.channels_last)).softmax(1)


def _random_images(size: int) -> Tensor:
    return torch.randint(0, 256, (BATCH_SIZE, 3, size, size), dtype=torch.uint8, generator=torch.Generator())
