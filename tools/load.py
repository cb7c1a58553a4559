"""Measures the server's requests per second and their latency, with and without its queue.

    python -m tools.load exports/pocket-1m-int8.onnx

Both servers run at the same time, and the load goes to one, then to the other, in rounds. Without the queue, each
request decodes and classifies its picture by itself in FastAPI's pool of threads, as a plain program would.
"""

import argparse
import http.client
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image
from starlette.concurrency import run_in_threadpool

from pocket_resnet.data.image import decode
from pocket_resnet.device import choose, machine
from pocket_resnet.serving import app as serving
from pocket_resnet.serving.batching import ProbabilitiesOrError
from pocket_resnet.serving.served_model import Classify, open_served
from pocket_resnet.serving.server import configuration, listen
from tools import parser

VARIANTS = ("queue", "alone")
NUM_CONNECTIONS = (8, 32)
NUM_PICTURES, PICTURE_SIZE_PX = 16, 128
HEADERS = {"Content-Type": "image/jpeg"}


@dataclass(frozen=True)
class Target:
    """A running server."""

    port: int
    pid: int

    def processor_s(self) -> float:
        """The processor time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Alone:
    """Replaces the batcher: no queue, no batches."""

    def __init__(self, classify: Classify, image_size: int, num_workers: int, on_batch: Callable[[int], None]) -> None:
        del num_workers
        self._classify, self._image_size, self._on_batch = classify, image_size, on_batch
        self.num_waiting = 0

    async def outcomes(self, contents: Sequence[bytes]) -> list[ProbabilitiesOrError]:
        """The outcome of each picture."""
        return [await run_in_threadpool(self._outcome, content) for content in contents]

    def stop(self) -> None:
        """Nothing to stop."""

    def _outcome(self, content: bytes) -> ProbabilitiesOrError:
        self._on_batch(1)
        probabilities_1K = self._classify(decode(content, self._image_size)[None])
        return probabilities_1K.squeeze(0)


@dataclass
class Measured:
    """The requests of all rounds."""

    latencies_s: list[float] = field(default_factory=list)
    processor_s: float = 0.0
    """The server's processor time, over all threads: other work on the machine hardly changes it."""
    rates: list[float] = field(default_factory=list)
    num_errors: int = 0


def main() -> None:
    """Start both servers, load them in turn, and print a line for each and their ratio."""
    options = parser(__doc__, "rounds", rounds=5)
    options.add_argument("model", type=Path, help="a model, a run, or an exported file")
    options.add_argument("--seconds", type=float, default=5.0, help="length of a round")
    options.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.variant:
        run_server(arguments.model, arguments.variant)
        return
    print(machine(choose("cpu", "fp32")))
    with ExitStack() as stack:
        targets = {variant: start_server(stack, arguments.model, variant) for variant in VARIANTS}
        for num_connections in NUM_CONNECTIONS:
            measured = {variant: Measured() for variant in VARIANTS}
            for target in targets.values():
                load(target, num_connections, 1.0, Measured())  # to warm up
            for _ in range(arguments.rounds):
                for variant, target in targets.items():
                    load(target, num_connections, arguments.seconds, measured[variant])
            report(num_connections, measured)
        for variant, target in targets.items():
            print(f"{variant:6} pictures per batch: {mean_batch(target.port):.1f}")


def run_server(model: Path, variant: str) -> None:
    """Serve on a free port, whose number is printed, until the process is ended."""
    if variant == "alone":
        vars(serving)["Batcher"] = Alone
    with listen("127.0.0.1", 0, public=False) as listener:
        print(listener.getsockname()[1], flush=True)
        uvicorn.Server(configuration(serving.create_app(open_served(model)))).run(sockets=[listener])


def start_server(stack: ExitStack, model: Path, variant: str) -> Target:
    """A server in a separate process, which ends with the stack."""
    command = [sys.executable, "-m", "tools.load", str(model), "--variant", variant]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.terminate)
    assert process.stdout is not None
    return Target(int(process.stdout.readline()), process.pid)


def load(target: Target, num_connections: int, seconds: float, measured: Measured) -> None:
    """Send requests over this many connections, each as soon as the last one has its response."""
    pictures, end_s = make_pictures(), time.perf_counter() + seconds
    latencies_s: list[float] = []
    failed: list[int] = []

    def send(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", target.port)
        number = first
        while time.perf_counter() < end_s:
            start_s = time.perf_counter()
            connection.request("POST", "/v1/predict", pictures[number % NUM_PICTURES], HEADERS)
            response = connection.getresponse()
            response.read()
            latencies_s.append(time.perf_counter() - start_s)
            if response.status != http.HTTPStatus.OK:
                failed.append(response.status)
            number += 1
        connection.close()

    start_s, processor_s = time.perf_counter(), target.processor_s()
    threads = [threading.Thread(target=send, args=(number,)) for number in range(num_connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    measured.rates.append(len(latencies_s) / (time.perf_counter() - start_s))
    measured.latencies_s += latencies_s
    measured.processor_s += target.processor_s() - processor_s
    measured.num_errors += len(failed)


def make_pictures() -> list[bytes]:
    """JPEGs of smooth noise."""
    draws, contents = np.random.default_rng(0), []
    for _ in range(NUM_PICTURES):
        pixels_HWC = draws.integers(0, 256, (8, 8, 3), np.uint8)
        picture = Image.fromarray(pixels_HWC).resize((PICTURE_SIZE_PX, PICTURE_SIZE_PX))
        picture.save(file := io.BytesIO(), "JPEG", quality=90)
        contents.append(file.getvalue())
    return contents


def report(num_connections: int, measured: dict[str, Measured]) -> None:
    """Print the figures of both, and the median over rounds of their ratio."""
    for variant, requests in measured.items():
        median_s, slow_s = np.quantile(requests.latencies_s, (0.5, 0.99))
        print(
            f"{variant:6} {num_connections:2} connections: {np.median(requests.rates):6.1f} requests/s, "
            f"median {median_s * 1e3:.0f} ms, p99 {slow_s * 1e3:.0f} ms, "
            f"processor {requests.processor_s / len(requests.latencies_s) * 1e3:.2f} ms per request, "
            f"{len(requests.latencies_s):,} requests, {requests.num_errors} errors"
        )
    with_queue, alone = (np.array(measured[variant].rates) for variant in VARIANTS)
    ratios = with_queue / alone
    print(f"ratio of requests/s: median {np.median(ratios):.2f}, {ratios.min():.2f} to {ratios.max():.2f}")


def mean_batch(port: int) -> float:
    """The mean size of a batch, from /metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return float(values["pocket_resnet_batch_size_sum"]) / float(values["pocket_resnet_batch_size_count"])


if __name__ == "__main__":
    main()
