"""What `fast` reaches beside its ceilings and its peer, measured in one run on one machine.

    python benchmarks/speed.py --seeds 5

In every round: this machine's convolution rate on the recipe's own shapes, a step of the original recipe as the course
project computed it (contiguous, fp32, batches of 128), and one whole training with the round's seed in a process of its
own, whose peak memory is asked of the operating system. Ratios, medians and n go to the terminal, or with `--json` to
standard output as one object. No single absolute time is a result.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from original_step import build, images_per_s
from peak import flops_per_s

from pocket_resnet.data.source import open_source
from pocket_resnet.device import choose, machine
from pocket_resnet.recipe_toml import load_recipe
from pocket_resnet.show import as_json
from pocket_resnet.training.prepare import untrained

PEER_IMAGES = 50_000  # an epoch of the course project


def run_training(recipe: str, data: str, seed: int, runs_dir: Path) -> dict[str, Any]:
    """A whole `pocket-resnet train`, with its peak resident set in GiB as `peak_gib`."""
    command = [sys.executable, "-m", "pocket_resnet", "train", recipe, "--data", data, "--seed", str(seed)]
    process = subprocess.Popen(
        [*command, "--runs-dir", str(runs_dir), "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    result: dict[str, Any] = json.load(process.stdout)
    _, _, usage = os.wait4(process.pid, 0)
    return result | {"peak_gib": usage.ru_maxrss / 2**20}


def measure(recipe_name: str, data: str, num_seeds: int) -> list[dict[str, float]]:
    """One row a round."""
    recipe, source = load_recipe(recipe_name), open_source(data)
    train_split = source.split("train")
    hardware = choose()
    model = hardware.place(untrained(recipe, source, train_split))
    reference = build(source, "fp32", channels_last=False)
    rows = []
    with tempfile.TemporaryDirectory() as runs_dir:
        for seed in range(num_seeds):
            ceiling = flops_per_s(model, recipe, len(train_split), hardware)
            peer_epoch_s = PEER_IMAGES / images_per_s(reference, 1)
            found = run_training(recipe_name, data, seed, Path(runs_dir))
            rows.append(
                {
                    "accuracy": found["accuracy"],
                    "seconds": found["seconds"],
                    "tflop": found["train_flops"] / 1e12,
                    "share_of_peer_epoch": found["seconds"] / peer_epoch_s,
                    "share_of_convolution_rate": found["train_flops"] / found["seconds"] / ceiling,
                    "peak_gib": found["peak_gib"],
                }
            )
            print(f"round {seed + 1}: " + ", ".join(f"{k} {v:.4g}" for k, v in rows[-1].items()), file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments.recipe, arguments.data, arguments.seeds)
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    accuracies = [row["accuracy"] for row in rows]
    spread = statistics.stdev(accuracies) if len(rows) > 1 else 0.0
    found = {"recipe": arguments.recipe, "n": len(rows), "machine": machine(choose()), "medians": medians}
    if arguments.json:
        as_json(found | {"accuracy_mean": statistics.mean(accuracies), "accuracy_sd": spread, "rounds": rows})
        return
    print(f"{arguments.recipe} on {found['machine']}, medians of {len(rows)}")
    print(f"accuracy                        {statistics.mean(accuracies):.2%} ± {spread:.2%} (mean ± sd)")
    print(f"operations                      {medians['tflop']:.2f} TFLOP")
    print(f"time, of the peer's epoch       1/{1 / medians['share_of_peer_epoch']:.1f}")
    print(f"rate, of the convolution rate   {medians['share_of_convolution_rate']:.0%}")
    print(f"peak memory                     {medians['peak_gib']:.2f} GiB")


if __name__ == "__main__":
    main()
