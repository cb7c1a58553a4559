"""Trains on one GPU for as many epochs as fit before a deadline, and writes a model for release.

    python -m tools.gpu_run recipes/pocket-5m.toml --minutes 8 --out gpu/

First, steps are timed at every image size, which also compiles the network; then the epochs are trained. Their number
is computed for CIFAR's 45,000 training images; for other data, give `--epochs`. The averaged weights are written to
OUT/partial.safetensors every minute, in fp16. At the end, OUT/model is the model, and OUT/run.tar has the run's recipe,
metrics and result. A run that is not done by the deadline is stopped; only OUT/partial.safetensors remains of it.
"""

import argparse
import contextlib
import json
import os
import signal
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save as tensors_to_bytes

from pocket_resnet.data.loader import Loader, Steps
from pocket_resnet.data.source import Split
from pocket_resnet.device import Hardware, choose, machine
from pocket_resnet.errors import PocketError, Stopped
from pocket_resnet.io.files import json_bytes, write_bytes
from pocket_resnet.model.resnet import ResNet, initialise
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import load_recipe, override
from pocket_resnet.torch_settings import own_settings
from pocket_resnet.training import checkpoint
from pocket_resnet.training.flops import flops_per_image
from pocket_resnet.training.run import train
from pocket_resnet.training.trainer import Trainer
from tools import parser
from tools.release import in_short, release

RUN = "gpu"
NUM_IMAGES = 45_000
WARM_UP_STEPS, TIMED_STEPS = 20, 60
MATRIX = 8192
START_S = 45.0  # to read the data and to compile again from the cache
END_S = 25.0  # to save, and to measure the released model over one, two and six views
SAFETY = 0.9  # share of the remaining time to plan for: a run took 1.07 times the predicted time
PARTIAL_EVERY_S = 60.0


@dataclass(frozen=True)
class Timings:
    """Measurements before the run: seconds per step by image size, and the GPU's own rate."""

    machine: str
    step_s: dict[str, float]
    images_per_s: float
    flops_per_s: float
    matrix_flops_per_s: float

    @property
    def share(self) -> float:
        """The share of the GPU's bf16 matrix rate that training steps reach."""
        return self.flops_per_s / self.matrix_flops_per_s


@own_settings(benchmark=True)
def measure(recipe: Recipe, hardware: Hardware) -> Timings:
    """Time training steps of the recipe on random images, at every image size of the recipe."""
    hardware.use_threads()
    model = ResNet(recipe.model)
    initialise(model, recipe.init, torch.Generator().manual_seed(0))
    images_NCHW = torch.randint(0, 256, (NUM_IMAGES, 3, *2 * (recipe.model.image_size,)), dtype=torch.uint8)
    labels_N = torch.randint(0, recipe.model.num_classes, (NUM_IMAGES,))
    model.normalize.set_statistics([0.5] * 3, [0.25] * 3)
    loader = Loader(Split(images_NCHW, labels_N), recipe, hardware, model.normalize.mean)
    trainer = Trainer(hardware.place(model), loader)
    shares = _shares(recipe)
    step_s = {}
    for size in shares:
        trainer.step = next(step for step in range(trainer.steps.total) if trainer.steps.image_size(step) == size)
        started_s = time.monotonic()
        _steps(trainer, WARM_UP_STEPS)
        compiled_s = time.monotonic() - started_s
        step_s[str(size)] = _steps(trainer, TIMED_STEPS)
        print(f"{size} px: {step_s[str(size)] * 1e3:.2f} ms per step, first steps {compiled_s:.1f} s", flush=True)
    mean_s = sum(share * step_s[str(size)] for size, share in shares.items())
    flops = sum(share * flops_per_image(model, size) for size, share in shares.items())
    images_per_s = recipe.batch_size / mean_s
    return Timings(machine(hardware), step_s, images_per_s, images_per_s * flops, _matrix_flops_per_s(hardware))


def _shares(recipe: Recipe) -> dict[int, float]:
    """The share of the run at each image size in pixels."""
    sizes = recipe.train_image_sizes or (recipe.model.image_size,)
    return {size: count / len(sizes) for size, count in Counter(sizes).items()}


def _steps(trainer: Trainer, count: int) -> float:
    """Mean seconds per step over `count` steps."""
    trainer.hardware.synchronize()
    started_s = time.monotonic()
    for _ in range(count):
        trainer.train_step()
    trainer.hardware.synchronize()
    return (time.monotonic() - started_s) / count


def _matrix_flops_per_s(hardware: Hardware) -> float:
    """The rate of one large bf16 matrix product of random numbers, the median of five."""
    size = MATRIX if hardware.is_asynchronous else MATRIX // 8
    a = torch.randn(size, size, device=hardware.device, dtype=torch.bfloat16)
    times = []
    for _ in range(8):
        hardware.synchronize()
        started_s = time.monotonic()
        a @ a
        hardware.synchronize()
        times.append(time.monotonic() - started_s)
    return 2 * size**3 / sorted(times[3:])[2]


def epochs_that_fit(recipe: Recipe, timings: Timings, seconds: float, num_images: int = NUM_IMAGES) -> int:
    """The number of training epochs that fit into `seconds`; at least one."""
    mean_s = sum(share * timings.step_s[str(size)] for size, share in _shares(recipe).items())
    epoch_s = mean_s * Steps(num_images, recipe).per_epoch
    return max(1, int(SAFETY * (seconds - START_S - END_S) / epoch_s))


def write_partial(run: Path, out: Path) -> None:
    """Write the averaged weights of the run's newest checkpoint to `out`/partial.safetensors, in fp16."""
    try:
        newest = checkpoint.load_newest(run / "checkpoints")
    except (PocketError, OSError):  # it is just being pruned
        return
    if newest is not None:
        state, tensors = newest
        part = "ema." if any(name.startswith("ema.") for name in tensors) else "model."
        halves = {name.removeprefix(part): value.half() for name, value in tensors.items() if name.startswith(part)}
        write_bytes(out / "partial.safetensors", tensors_to_bytes(halves, {"step": str(state.step)}))


@contextlib.contextmanager
def watched(run: Path, out: Path, deadline_s: float) -> Iterator[None]:
    """Inside the block, write partial weights every minute, and send SIGTERM at the deadline.

    The signal raises Stopped, also while data are read and after the last step.
    """
    stopping = threading.Event()

    def watch() -> None:
        while not stopping.wait(max(0.0, min(PARTIAL_EVERY_S, deadline_s - time.monotonic()))):
            if time.monotonic() >= deadline_s:
                os.kill(os.getpid(), signal.SIGTERM)
                break
            write_partial(run, out)

    def stop(number: int, _frame: object) -> None:
        raise Stopped(number, "stopped while no step was trained")

    before = signal.signal(signal.SIGTERM, stop)  # `train` has its own handler while it trains
    watcher = threading.Thread(target=watch, daemon=True)
    try:
        watcher.start()  # may raise Stopped, if the deadline has already passed
        yield
    finally:
        stopping.set()
        watcher.join()
        signal.signal(signal.SIGTERM, before)


def train_until(deadline_s: float, recipe: Recipe, data_dir: Path | None, runs_dir: Path, out: Path) -> None:
    """Train, save partial results, and release the model into `out`. Raises Stopped at the deadline."""
    run = runs_dir / RUN
    try:
        with watched(run, out, deadline_s - END_S):
            train(recipe, data_dir=data_dir, runs_dir=runs_dir, run=RUN)
    finally:
        write_partial(run, out)
        with tarfile.open(out / "run.tar", "w") as archive:
            for name in ("recipe.toml", "metrics.jsonl", "result.json"):
                if (run / name).exists():
                    archive.add(run / name, name)
    card = release(run, out / "model", data_dir)
    (out / "partial.safetensors").unlink(missing_ok=True)
    print(f"{out / 'model'}: {in_short(card)}", flush=True)


def parsed() -> argparse.Namespace:
    options = parser(__doc__, "data", "data_dir", "runs_dir")
    options.add_argument("recipe", help="a recipe's name or file, with an explicit network: no dial")
    options.add_argument("--minutes", type=float, default=8.0, help="from the start to the released model")
    options.add_argument("--epochs", type=int, help="number of epochs, without timing steps; otherwise as many as fit")
    options.add_argument("--seed", type=int, default=0, help="seed of the run (default: 0)")
    options.add_argument("--teacher", help="a trained model whose predictions the network learns")
    options.add_argument("--out", type=Path, required=True, help="folder of the model, run.tar and partial weights")
    options.add_argument("--timings", type=Path, help="file to store the timings in, or to read them from if it exists")
    options.add_argument("--only-time", action="store_true", help="end after the timings, which need no data")
    options.add_argument("--no-compile", action="store_true", help="do not compile the network")
    return options.parse_args()


def main() -> None:
    started_s, arguments = time.monotonic(), parsed()
    deadline_s = started_s + 60 * arguments.minutes
    changes = {"data.name": arguments.data, "hardware.compile": not arguments.no_compile, "seed": arguments.seed}
    recipe = override(load_recipe(arguments.recipe), changes)
    epochs = arguments.epochs or _timed_epochs(recipe, arguments, deadline_s)
    if arguments.only_time:
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    recipe = override(recipe, {"epochs": epochs, "teacher.model": arguments.teacher})
    train_until(deadline_s, recipe, arguments.data_dir, arguments.runs_dir, arguments.out)


def _timed_epochs(recipe: Recipe, arguments: argparse.Namespace, deadline_s: float) -> int:
    """Time the recipe's steps, and return the number of epochs that fit before the deadline."""
    hardware = choose(**recipe.hardware.choices())
    if arguments.timings is not None and arguments.timings.exists():
        timings = Timings(**json.loads(arguments.timings.read_text()))
    else:
        timings = measure(recipe, hardware)
        if arguments.timings is not None:
            write_bytes(arguments.timings, json_bytes(asdict(timings)))
    print(
        f"{timings.machine}: {timings.images_per_s:,.0f} images/s, {timings.flops_per_s / 1e12:.1f} TFLOP/s, "
        f"{timings.share:.1%} of the matrix rate of {timings.matrix_flops_per_s / 1e12:.0f}",
        flush=True,
    )
    epochs = epochs_that_fit(recipe, timings, deadline_s - time.monotonic())
    print(f"{epochs} epochs fit", flush=True)
    return epochs


if __name__ == "__main__":
    main()
