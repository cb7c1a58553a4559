"""Compares our training step of the original recipe with the reference's, interleaved in one run.

    python -m tools.original_step --data cifar10 --rounds 5

Both train the same network on the same batches of 128 with the same optimizer. The reference's step keeps images and
filters contiguous and multiplies in fp32, as the course project did; ours uses the choices of `--hardware.* auto` on
this machine. Prints images/s (medians over the rounds) and their ratio, as JSON with `--json`.
"""

import argparse
import json
import statistics
import time
from typing import Literal

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.loader import Loader
from pocket_resnet.data.source import Source
from pocket_resnet.device import choose, machine
from pocket_resnet.model.resnet import ResNet, initialise
from pocket_resnet.recipe.toml import load_recipe
from pocket_resnet.seeds import generator
from pocket_resnet.training.trainer import Trainer

WARM_UP_STEPS = 1


def build(source: Source, precision: Literal["auto", "fp32", "bf16"], *, channels_last: bool) -> Trainer:
    """A trainer of the original recipe in the given number format and memory layout."""
    recipe = load_recipe("original")
    hardware = choose(precision=precision, channels_last=channels_last)
    hardware.use_threads()
    model = ResNet(recipe.model)
    initialise(model, recipe.init, generator(recipe.seed, "weights"))
    model.normalize.set_statistics(source.mean, source.std)
    loader = Loader(source.split("train"), recipe, hardware, model.normalize.mean)
    trainer = Trainer(hardware.place(model), loader)
    for _ in range(WARM_UP_STEPS):
        trainer.train_step()
    return trainer


def images_per_s(trainer: Trainer, num_steps: int) -> float:
    """Throughput of the next steps."""
    started_s = time.perf_counter()
    for _ in range(num_steps):
        trainer.train_step()
    return num_steps * trainer.recipe.batch_size / (time.perf_counter() - started_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps of each kind in a round")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    source = open_source(arguments.data)
    trainers = {
        "reference": build(source, "fp32", channels_last=False),
        "ours": build(source, "auto", channels_last=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(arguments.rounds):
        for name, trainer in trainers.items():
            rates[name].append(images_per_s(trainer, arguments.steps))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    measured = {
        "images_per_s": medians,
        "ratio": medians["ours"] / medians["reference"],
        "rounds": arguments.rounds,
        "machine": machine(trainers["ours"].hardware),
    }
    if arguments.json:
        print(json.dumps(measured, indent=2))
    else:
        for name, value in medians.items():
            print(f"{name:10} {value:8.1f} images/s (median of {arguments.rounds})")
        print(f"ratio      {measured['ratio']:8.2f}\nmachine    {measured['machine']}")


if __name__ == "__main__":
    main()
