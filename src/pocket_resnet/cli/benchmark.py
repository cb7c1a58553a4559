"""The command `benchmark`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import Progress

from pocket_resnet.cli import console
from pocket_resnet.cli.command_output import CommandOutput
from pocket_resnet.cli.flags import Json, OutFile, flag, one_or_more
from pocket_resnet.io.progress import Bar


@dataclass
class Benchmark:
    """Measure size, memory, latency and throughput of models on this machine, in torch and in onnxruntime.

    pocket-resnet benchmark pocket-5m pocket-1m --plot speed.png

    pocket-resnet benchmark exports/pocket-5m-int8.onnx

    Latency is that of one decoded image of the network's size. All models and runtimes take turns, so a machine that
    slows down slows all of them. onnxruntime needs the extra `export`: pip install 'pocket-resnet[export]'
    """

    models: tyro.conf.Positional[
        Annotated[
            tuple[Path, ...],
            one_or_more(
                "Model directories, runs, names of released models, or .onnx files that `export` wrote.", "MODEL"
            ),
        ]
    ]
    threads: Annotated[tuple[int, ...], flag("Numbers of threads (default: 1 and all cores).", "N ...")] = ()
    rounds: Annotated[int, flag("Timed calls of each model, runtime and number of threads.", "N")] = 50
    plot: Annotated[Path | None, flag("Write a plot of accuracy against latency to this PNG file.", "FILE")] = None
    json: Json = False
    out: OutFile = None

    def execute(self) -> None:
        from pocket_resnet.exporting.benchmark import benchmark
        from pocket_resnet.io.files import write_through
        from pocket_resnet.plots import accuracy_latency
        from pocket_resnet.plots.style import png

        output = CommandOutput(self.json, self.out)
        measured = benchmark(self.models, threads=self.threads, rounds=self.rounds, track=_tracked)
        if self.plot is not None:
            write_through(self.plot, png(accuracy_latency(measured.points())))
        output.write(measured.to_json, lambda: console.print_benchmark(measured))


def _tracked(rounds: range) -> Iterator[int]:
    """The rounds, with a progress bar."""
    with Bar("timing", len(rounds), columns=Progress.get_default_columns()) as bar:
        for number in rounds:
            yield number
            bar.advance(1)
