"""Compares our recipes with their upper limits and with peers, interleaved in one run on one machine.

    python -m tools.speed                                   # fast, about 6 minutes on two cores
    python -m tools.speed --recipes fast mine.toml --seeds 3
    python -m tools.speed --peer ../airbench/train.py       # another training script for comparison

Every round measures, for each recipe in turn, a whole training with the round's seed in a separate process. Before and
after it, it measures this machine's convolution rate on the recipe's shapes, and a step of the original recipe as the
course project computed it (contiguous, fp32, batches of 128). Then each peer's script is run. A training is compared
with the mean of the two measurements around it, because the speed of a shared machine varies. Results are ratios,
medians and n over the rounds, never a single absolute time. First, single steps are compared with the machine's
fastest convolution (tools/steps.py). The tables are printed and, with every round and a plot of accuracy against time
and operations, written to the folder `--out`.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pocket_resnet.data.datasets import open_source
from pocket_resnet.device import choose
from pocket_resnet.io.files import json_bytes, write_bytes, write_text
from pocket_resnet.recipe.toml import load_recipe
from pocket_resnet.training.prepare import fit_to_data, untrained
from tools import process, steps
from tools.original_step import build, images_per_s
from tools.peak import flops_per_s
from tools.scatter import Cost, cost_figure, save

PEER_EPOCH = 50_000  # images in an epoch of the course project
OURS = [sys.executable, "-m", "pocket_resnet"]


@dataclass(frozen=True)
class Round:
    """One whole training, compared with the measurements just before and after it."""

    seed: int
    accuracy: float
    accuracy_six_views: float
    seconds: float
    """Training only."""
    seconds_total: float
    images_per_s: float
    pflop: float
    """Counted operations of forward and backward passes, 1e15."""
    share_of_reference_epoch: float
    share_of_convolution_rate: float
    peak_gib: float


@dataclass
class Measured:
    """All rounds of one recipe."""

    recipe: str
    rounds: list[Round] = field(default_factory=list)

    def median(self, name: str) -> float:
        return float(statistics.median(getattr(each, name) for each in self.rounds))

    def accuracy(self, name: str = "accuracy") -> str:
        """Mean ± sample standard deviation (n)."""
        values = [100 * getattr(each, name) for each in self.rounds]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.2f}%{spread} (n={len(values)})"


class Benchmark:
    """Data, hardware and reference that all rounds use."""

    def __init__(self, data: str, runs_dir: Path) -> None:
        self.data, self.runs_dir = data, runs_dir
        self.source, self.hardware = open_source(data), choose()
        self.reference = build(self.source, "fp32", channels_last=False)

    def round(self, name: str, seed: int) -> Round:
        """Train one recipe with one seed, between two measurements of its upper limit and of the reference's step."""
        before = self._speeds(name)
        result, peak_gib, run_dir = self._train(name, seed)
        ceiling, reference = (statistics.mean(pair) for pair in zip(before, self._speeds(name), strict=True))
        return Round(
            seed=seed,
            accuracy=result["accuracy"],
            accuracy_six_views=self._six_views(run_dir),
            seconds=result["seconds"],
            seconds_total=result["seconds_total"],
            images_per_s=result["images_per_s"],
            pflop=result["train_flops"] / 1e15,
            share_of_reference_epoch=result["seconds"] * reference / PEER_EPOCH,
            share_of_convolution_rate=result["train_flops"] / result["seconds"] / ceiling,
            peak_gib=peak_gib,
        )

    def _speeds(self, name: str) -> tuple[float, float]:
        """Current FLOP/s of the recipe's convolutions, and images/s of the reference's step."""
        split = self.source.split("train")
        recipe = fit_to_data(load_recipe(name), self.source, len(split))
        model = self.hardware.place(untrained(recipe, self.source, split))
        return flops_per_s(model, recipe, len(split), self.hardware), images_per_s(self.reference, 1)

    def _train(self, name: str, seed: int) -> tuple[dict[str, Any], float, Path]:
        run = f"{Path(name).stem}-seed{seed}"
        options = ["--data", self.data, "--seed", str(seed), "--runs-dir", str(self.runs_dir), "--run", run, "--json"]
        finished = process.run([*OURS, "train", name, *options])
        return json.loads(finished.output), finished.peak_gib, self.runs_dir / run

    def _six_views(self, run_dir: Path) -> float:
        options = ["--data", self.data, "--split", "val", "--views", "6", "--json"]
        return float(json.loads(process.run([*OURS, "evaluate", str(run_dir), *options]).output)["accuracy"])


def measure(recipes: list[str], peers: list[Path], data: str, num_seeds: int) -> tuple[list[Measured], dict[str, Any]]:
    """All rounds of the recipes, and the wall-clock seconds and last line of each peer's runs."""
    measured = [Measured(name) for name in recipes]
    peer_rounds: dict[str, Any] = {str(peer): [] for peer in peers}
    with tempfile.TemporaryDirectory() as runs_dir:
        benchmark = Benchmark(data, Path(runs_dir))
        for seed in range(num_seeds):
            for each in measured:
                each.rounds.append(benchmark.round(each.recipe, seed))
                print(f"{each.recipe}: {asdict(each.rounds[-1])}", file=sys.stderr)
            for peer in peers:
                finished = process.run([sys.executable, str(peer)])
                last_line = finished.output.strip().rpartition("\n")[2]
                peer_rounds[str(peer)].append({"seconds": finished.seconds, "last_line": last_line})
                print(f"{peer}: {finished.seconds:.1f} s, {last_line}", file=sys.stderr)
    return measured, peer_rounds


def goals_table(measured: list[Measured]) -> list[str]:
    """The project's four speed goals and the measurements."""
    by_name = {Path(each.recipe).stem: each for each in measured}
    lines = ["| what | measured | at least | goal |", "| --- | ---: | ---: | ---: |"]
    if fast := by_name.get("fast"):
        share = 1 / fast.median("share_of_reference_epoch")
        rate = fast.median("share_of_convolution_rate")
        lines += [
            f"| `fast` ({fast.accuracy()}): time, of the original's epoch | 1/{share:.1f} | 1/30 | 1/48 |",
            f"| `fast`: its rate, of the convolution rate on its shapes | {rate:.0%} | 80% | 90% |",
            f"| `fast`: peak memory of the process | {fast.median('peak_gib'):.2f} GiB | 1.6 GiB | 1.0 GiB |",
        ]
    if cpu94 := by_name.get("cpu94"):
        what = f"`cpu94`: operations for {cpu94.accuracy('accuracy_six_views')}, six views ({cpu94.accuracy()}, single)"
        lines.append(f"| {what} | {cpu94.median('pflop'):.3f} PFLOP | 0.24 PFLOP | 0.13 PFLOP |")
    return lines


def recipes_table(measured: list[Measured], peers: dict[str, Any]) -> list[str]:
    """One row per recipe or peer; times are medians."""
    lines = [
        "| recipe | accuracy, single view | six views | PFLOP | images/s | time, of the original's epoch "
        "| of the convolution rate | peak memory | time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in measured:
        lines.append(
            f"| {each.recipe} | {each.accuracy()} | {each.accuracy('accuracy_six_views')} | {each.median('pflop'):.4f} "
            f"| {each.median('images_per_s'):,.0f} | 1/{1 / each.median('share_of_reference_epoch'):.1f} "
            f"| {each.median('share_of_convolution_rate'):.0%} | {each.median('peak_gib'):.2f} GiB "
            f"| {each.median('seconds'):.0f} s |"
        )
    for peer, rounds in peers.items():
        seconds = statistics.median(each["seconds"] for each in rounds)
        lines.append(f"| {peer} | {rounds[-1]['last_line']} | | | | | | | {seconds:.0f} s |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["fast"], help="names or files")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--seeds", type=int, default=3, help="rounds; each has its own seed")
    parser.add_argument(
        "--peer", type=Path, action="append", default=[], help="a script to run in each round; repeatable"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder for table.md, plot and rounds")
    arguments = parser.parse_args()
    of_steps = steps.report(steps.RECIPES, arguments.data)
    measured, peers = measure(arguments.recipes, arguments.peer, arguments.data, arguments.seeds)
    title = f"Medians of {arguments.seeds} rounds, {arguments.data}, validation images."
    text = "\n".join([*of_steps, "", title, "", *goals_table(measured), "", *recipes_table(measured, peers), ""])
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out / "table.md", text)
    write_bytes(arguments.out / "rounds.json", json_bytes({"recipes": [asdict(m) for m in measured], "peers": peers}))
    costs = [Cost(each.recipe, 100 * one.accuracy, one.pflop, one.seconds) for each in measured for one in each.rounds]
    save(cost_figure(costs, []), arguments.out / "accuracy.png")
    print(text)
    print(f"table, rounds and plot: {arguments.out}")


if __name__ == "__main__":
    main()
