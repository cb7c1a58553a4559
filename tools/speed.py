"""Compares our recipes with the original's training step and with peers, interleaved in one run on one machine.

    python -m tools.speed                                   # fast, about 6 minutes on two cores
    python -m tools.speed --recipes fast mine.toml --rounds 5
    python -m tools.speed --peer ../airbench/train.py       # another training script for comparison
    python -m tools.speed --only-step --rounds 7            # our step of the original recipe against the reference's

Every round measures, for each recipe in turn, a whole training with the round's seed in a separate process. Before and
after it, it measures a step of the original recipe as the course project computed it: contiguous, fp32, batches of 128.
A training is compared with the mean of the two steps around it, because the speed of a shared machine varies. Then
each peer's script is run. Results are ratios, medians and n over the rounds, never a single absolute time. First,
single steps are compared with the machine's fastest convolution (tools/steps.py). The tables are printed and, with
every round and a plot of accuracy against time and operations, written to the folder `--out`.
"""

import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.source import Source
from pocket_resnet.device import choose, machine
from pocket_resnet.io.files import json_bytes, write_bytes, write_text
from pocket_resnet.recipe.toml import load_recipe
from pocket_resnet.training.prepare import fit_to_data, new_trainer
from pocket_resnet.training.trainer import Trainer
from tools import parser, process, steps
from tools.scatter import Cost, cost_figure, save

PEER_EPOCH = 50_000  # images in an epoch of the course project
OURS = [sys.executable, "-m", "pocket_resnet"]


@dataclass(frozen=True)
class Round:
    """One whole training, compared with the reference's steps just before and after it."""

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
    """Data and reference that all rounds use."""

    def __init__(self, data: str, data_dir: Path | None, runs_dir: Path) -> None:
        self.data = ["--data", data, *([] if data_dir is None else ["--data-dir", str(data_dir)])]
        self.runs_dir = runs_dir
        self.reference = original(open_source(data, data_dir=data_dir), "fp32", channels_last=False)

    def round(self, name: str, seed: int) -> Round:
        """Train one recipe with one seed, between two measurements of the reference's step."""
        before = images_per_s(self.reference)
        result, peak_gib, run_dir = self._train(name, seed)
        reference = statistics.mean((before, images_per_s(self.reference)))
        return Round(
            seed=seed,
            accuracy=result["accuracy"],
            accuracy_six_views=self._six_views(run_dir),
            seconds=result["seconds"],
            seconds_total=result["seconds_total"],
            images_per_s=result["images_per_s"],
            pflop=result["train_flops"] / 1e15,
            share_of_reference_epoch=result["seconds"] * reference / PEER_EPOCH,
            peak_gib=peak_gib,
        )

    def _train(self, name: str, seed: int) -> tuple[dict[str, Any], float, Path]:
        run = f"{Path(name).stem}-seed{seed}"
        options = [*self.data, "--seed", str(seed), "--runs-dir", str(self.runs_dir), "--run", run, "--json"]
        finished = process.run([*OURS, "train", name, *options])
        return json.loads(finished.output), finished.peak_gib, self.runs_dir / run

    def _six_views(self, run_dir: Path) -> float:
        options = [*self.data, "--split", "val", "--views", "6", "--json"]
        return float(json.loads(process.run([*OURS, "evaluate", str(run_dir), *options]).output)["accuracy"])


def original(source: Source, precision: Literal["auto", "fp32"], *, channels_last: bool) -> Trainer:
    """A trainer of the original recipe in this precision and memory layout, after a step to warm up."""
    hardware = choose(precision=precision, channels_last=channels_last)
    hardware.use_threads()
    split = source.split("train")
    recipe = fit_to_data(load_recipe("original"), source, len(split), quiet=True)
    trainer = new_trainer(recipe, source, split, hardware)
    trainer.train_step()
    return trainer


def images_per_s(trainer: Trainer) -> float:
    """Throughput of the next step."""
    started_s = time.perf_counter()
    trainer.train_step()
    trainer.hardware.synchronize()
    return trainer.recipe.batch_size / (time.perf_counter() - started_s)


def compare_steps(source: Source, rounds: int) -> list[str]:
    """Medians over the rounds of the reference's and of our step of the original recipe, and their ratio."""
    ours = original(source, "auto", channels_last=True)
    trainers = {"reference": original(source, "fp32", channels_last=False), "ours": ours}
    rates: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(rounds):
        for name, trainer in trainers.items():
            rates[name].append(images_per_s(trainer))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    lines = [f"{name:10} {value:8.1f} images/s (median of {rounds})" for name, value in medians.items()]
    return [*lines, f"ratio      {medians['ours'] / medians['reference']:8.2f}", f"machine    {machine(ours.hardware)}"]


def measure(
    recipes: list[str], peers: list[Path], benchmark: Benchmark, num_rounds: int
) -> tuple[list[Measured], dict[str, Any]]:
    """All rounds of the recipes, and the wall-clock seconds and last line of each peer's runs."""
    measured = [Measured(name) for name in recipes]
    peer_rounds: dict[str, Any] = {str(peer): [] for peer in peers}
    for seed in range(num_rounds):
        for each in measured:
            each.rounds.append(benchmark.round(each.recipe, seed))
            print(f"{each.recipe}: {asdict(each.rounds[-1])}", file=sys.stderr)
        for peer in peers:
            finished = process.run([sys.executable, str(peer)])
            last_line = finished.output.strip().rpartition("\n")[2]
            peer_rounds[str(peer)].append({"seconds": finished.seconds, "last_line": last_line})
            print(f"{peer}: {finished.seconds:.1f} s, {last_line}", file=sys.stderr)
    return measured, peer_rounds


def recipes_table(measured: list[Measured], peers: dict[str, Any]) -> list[str]:
    """One row per recipe or peer; times are medians."""
    lines = [
        "| recipe | accuracy, single view | six views | PFLOP | images/s | time, of the original's epoch "
        "| peak memory | time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in measured:
        lines.append(
            f"| {each.recipe} | {each.accuracy()} | {each.accuracy('accuracy_six_views')} | {each.median('pflop'):.4f} "
            f"| {each.median('images_per_s'):,.0f} | 1/{1 / each.median('share_of_reference_epoch'):.1f} "
            f"| {each.median('peak_gib'):.2f} GiB | {each.median('seconds'):.0f} s |"
        )
    for peer, rounds in peers.items():
        seconds = statistics.median(each["seconds"] for each in rounds)
        lines.append(f"| {peer} | {rounds[-1]['last_line']} | | | | | | {seconds:.0f} s |")
    return lines


def main() -> None:
    options = parser(__doc__, "data", "data_dir", "rounds", rounds=3)
    options.add_argument("--recipes", nargs="+", default=["fast"], help="names or files")
    options.add_argument("--peer", type=Path, action="append", default=[], help="a script to run in each round")
    options.add_argument("--only-step", action="store_true", help="compare only steps of the original recipe")
    options.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder for tables, plot and rounds")
    arguments = options.parse_args()
    source = open_source(arguments.data, data_dir=arguments.data_dir)
    if arguments.only_step:
        print(*compare_steps(source, arguments.rounds), sep="\n")
        return
    if not source.flip_invariant:
        sys.exit(f"{arguments.data}: six views mirror the images, which changes their meaning here")
    of_steps = steps.report(steps.RECIPES, source)
    with tempfile.TemporaryDirectory() as runs_dir:
        benchmark = Benchmark(arguments.data, arguments.data_dir, Path(runs_dir))
        measured, peers = measure(arguments.recipes, arguments.peer, benchmark, arguments.rounds)
    title = f"Medians of {arguments.rounds} rounds, {arguments.data}, validation images."
    text = "\n".join([*of_steps, "", title, "", *recipes_table(measured, peers), ""])
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out / "table.md", text)
    write_bytes(arguments.out / "rounds.json", json_bytes({"recipes": [asdict(m) for m in measured], "peers": peers}))
    costs = [Cost(each.recipe, 100 * one.accuracy, one.pflop, one.seconds) for each in measured for one in each.rounds]
    save(cost_figure(costs, []), arguments.out / "accuracy.png")
    print(text)
    print(f"table, rounds and plot: {arguments.out}")


if __name__ == "__main__":
    main()
