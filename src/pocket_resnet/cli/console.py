"""The terminal output of the commands: plain tables."""

import contextlib
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from pocket_resnet.data.listing import printable
from pocket_resnet.errors import PocketError, counted
from pocket_resnet.io.progress import print_line
from pocket_resnet.model.card import epochs_text
from pocket_resnet.model.counts import FP32_BYTES, layers, num_macs, num_params, operations, peak_activation_values

if TYPE_CHECKING:
    from pocket_resnet.data.source import Description, Verification
    from pocket_resnet.exporting.benchmark import BenchmarkResult
    from pocket_resnet.inference.evaluation import Evaluation
    from pocket_resnet.inference.predict import FilePrediction
    from pocket_resnet.model.design import Design
    from pocket_resnet.model.spec import NetworkSpec
    from pocket_resnet.training.result import Result
    from pocket_resnet.tuning.record import SearchRecord

WIDEST = 10_000  # characters, for pipes, which have no width


class _TerminalHandler(logging.Handler):
    """Prints messages as plain text and marks warnings; those about data only once, as a command may open it twice."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = ("warning: " if record.levelno >= logging.WARNING else "") + self.format(record)
        if record.name.startswith("pocket_resnet.data"):
            if text in self._shown:
                return
            self._shown.add(text)
        print_line(text)


class _RequestHandler(logging.StreamHandler[TextIO]):
    """Prints every message, including repeated ones."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Keep serving after the terminal was closed."""


@contextlib.contextmanager
def log_to_terminal() -> Iterator[None]:
    """Within this context, standard error shows the package's log messages of level INFO and above."""
    logger, handler = logging.getLogger("pocket_resnet"), _TerminalHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


@contextlib.contextmanager
def log_requests_to_terminal() -> Iterator[None]:
    """Within this context, standard error shows each request to the server with its time of day, repeats included."""
    logger, handler = logging.getLogger("pocket_resnet.requests"), _RequestHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


def print_overview(commands: Mapping[str, str]) -> None:
    """Print the help of the whole command."""
    print("Give it a parameter budget, get the most accurate residual network that fits.\n")
    print("usage: pocket-resnet COMMAND ...     (pocket-resnet COMMAND --help explains one, with an example)\n")
    for name, does in commands.items():
        print(f"  {name:9} {does}")
    print("\n  --debug   show the traceback of an error\n  --version show the version")
    print("\nFor example:\n\n  pocket-resnet train fast --data digits      # works offline")


def print_result(result: "Result") -> None:
    """Print the result of a training run."""
    low, high = result.interval
    print(f"parameters  {result.num_params:,} ({result.num_macs:,} multiply-adds per image)")
    unseen = "validation" if result.train_on == "train" else "validation images that it was trained on (no estimate)"
    print(f"accuracy    {result.accuracy:.2%} on {unseen}, last epoch, single view (95%: {low:.2%} to {high:.2%})")
    if result.caveat and result.train_on == "train":
        print(f"            {result.caveat}")
    epochs = epochs_text(result.epochs, result.epochs_done)
    print(
        f"training    {result.seconds:.1f} s for {counted(result.steps, 'step')}, {epochs}, "
        f"{result.images_per_s:,.0f} images/s, {operations(result.train_flops)} ({result.seconds_total:.1f} s in total)"
    )
    print(f"model       {result.model}", flush=True)


def print_no_report(error: Exception, run: Path, *, debug: bool) -> None:
    """Print on standard error why a finished run has no report; `debug` adds the traceback."""
    if debug:
        traceback.print_exception(error)
    what = str(error).partition("\n")[0]
    if not isinstance(error, PocketError):  # a bug
        what = f"{type(error).__name__}: {what} (--debug shows where)"
    print_line(f"no report: {what} (try again: pocket-resnet report {run})")


def print_next_steps(model: str, report: Path | None) -> None:
    """Print the path of the report, and the command to try next."""
    if report is not None:
        print(f"report      {report}")
    print(f"next        pocket-resnet evaluate {model}")


def print_search_front(record: "SearchRecord", recipes: Sequence[Path]) -> None:
    """Print one row per trial of the front, with the file of its recipe."""
    table = _table("recipe", "accuracy", record.trade_unit or "", "parameters")
    for trial, path in zip(map(record.trial, record.front), recipes, strict=True):
        cells = f"{trial.rungs[-1].accuracy:.2%}", trial.trade_text, f"{trial.cost.num_params:,}"
        table.add_row(str(path), *cells)
    _print(table)


def print_evaluation(evaluation: "Evaluation") -> None:
    """Print accuracy and calibration, then a row per class with its most frequent mistake."""
    low, high = evaluation.interval
    views = "single view" if evaluation.views == 1 else f"{evaluation.views} views"
    print(
        f"accuracy {evaluation.accuracy:.2%} (95%: {low:.2%} to {high:.2%}) of {evaluation.num_images:,} images, "
        f"split {evaluation.split}, {views}, {evaluation.precision}"
    )
    if evaluation.caveat:
        print(evaluation.caveat)
    print(f"negative log-likelihood {evaluation.nll:.4f}, expected calibration error {evaluation.ece:.4f}")
    taken_for: dict[str, str] = {}
    for mistake in evaluation.confusions(count=None):
        taken_for.setdefault(mistake.true, f"{printable(mistake.predicted)} ({mistake.num_images})")
    table = _table("class", "images", "accuracy", "95% interval", "most often mistaken for")
    for each in evaluation.per_class:
        accuracy, interval = "-", "-"
        if each.accuracy is not None and each.interval is not None:
            low, high = each.interval
            accuracy, interval = f"{each.accuracy:.1%}", f"{low:.1%} to {high:.1%}"
        table.add_row(printable(each.name), str(each.num_images), accuracy, interval, taken_for.get(each.name, "-"))
    _print(table)


def print_predictions(rows: "Sequence[FilePrediction]") -> None:
    """Print one line per image, most probable classes first."""
    for image, prediction in rows:
        ranking = ", ".join(f"{printable(label)} {probability:.1%}" for label, probability in prediction.top)
        print(f"{printable(image)}: {ranking}")


def print_summary(name: str, spec: "NetworkSpec") -> None:
    """Print one row per layer, then the totals."""
    table = _table("layer", "kind", "output", "parameters", "multiply-adds")
    for layer in layers(spec):
        shape = " x ".join(str(size) for size in layer.out_shape)
        table.add_row(layer.name, layer.kind, shape, f"{layer.num_params:,}", f"{layer.num_macs:,}")
    _print(table)
    print(f"{name}: {num_params(spec):,} parameters, {num_macs(spec):,} multiply-adds per image")
    num_bytes, num_activation_bytes = FP32_BYTES * num_params(spec), FP32_BYTES * peak_activation_values(spec)
    print(f"{num_bytes:,} bytes of fp32 weights, {num_activation_bytes:,} bytes of fp32 activations")


def print_design(design: "Design", flags: Mapping[str, str]) -> None:
    """Print the network chosen for a budget, its costs compared with the limits, the reasons, and `train`'s flags."""
    spec, limits = design.spec, design.budget.given()
    widths, num_blocks = ("-".join(map(str, values)) for values in (spec.widths, spec.num_blocks))
    print(f"network        {num_blocks} {spec.block} blocks, {widths} channels, {spec.stem} stem")
    costs = {"parameters": design.num_params, "multiply-adds": design.num_macs, "bytes": design.num_bytes}
    units = {"parameters": "", "multiply-adds": " per image", "bytes": " of fp32 weights"}
    for what, count in costs.items():
        most = limits.get(what)
        share = f" ({count / most:.1%} of {most:,})" if most else ""
        print(f"{what:14} {count:,}{units[what]}{share}")
    for reason in design.reasons:
        print(f"why            {reason}")
    words = " ".join(f"--{key.replace('_', '-')} {text}" for key, text in flags.items())
    print(f"next           pocket-resnet train best {words}")


def print_description(description: "Description") -> None:
    """Print the contents of a data set."""
    counts = {which: count for which, count in description.num_images.items() if count is not None}
    is_folder = "/" in description.name
    size = f"{'resized to ' if is_folder else ''}{description.image_size} x {description.image_size} pixels"
    print(f"{description.name}: {counted(len(description.classes), 'class')}, {size}")
    print(f"images       {', '.join(f'{count:,} {which}' for which, count in counts.items())}")
    print(f"stored in    {description.where}")
    mean, std = _decimals(description.mean), _decimals(description.std)
    print(f"mean, std    {mean} and {std} (R G B, 0 to 1, training images)")
    print(f"fingerprint  {description.fingerprint[:16]}…")
    if description.verified:
        print(f"verified     {_verified(description.verified)}")
    table = _table("class", *counts)
    for name, row in description.per_class.items():
        table.add_row(printable(name), *(str(row.get(which, "-")) for which in counts))
    _print(table)


def _verified(verification: "Verification") -> str:
    recorded = (
        f"; {verification.num_recorded:,} new or changed (hash recorded now)" if verification.num_recorded else ""
    )
    return f"files: {verification.num_files:,} read, none damaged{recorded}"


def print_benchmark(benchmark: "BenchmarkResult") -> None:
    """Print the processor, the networks' sizes, and a row for each runtime and number of threads."""
    print(f"processor  {benchmark.machine}; {' '.join(benchmark.instructions) or 'no vector instructions known'}")
    for name, facts in benchmark.models.items():
        known = []
        if facts.num_params is not None:
            known += [f"{facts.num_params:,} parameters", f"{facts.num_macs:,} multiply-adds per image"]
        if facts.accuracy is not None:
            of = "" if known else " of the model in fp32"
            known.append(f"accuracy{of} {facts.accuracy:.2%} ({facts.split}, n = {facts.num_images:,})")
        print(f"{printable(name)}: {', '.join(known) or 'an exported file that states no accuracy'}")
    table = _table("model", "runtime", "threads", "bytes", "peak memory", "median", "p90", "spread", "images/s")
    for timing in benchmark.timings:
        latency = timing.latency
        times = (f"{1e3 * latency.median_s:.2f} ms", f"{1e3 * latency.p90_s:.2f} ms", f"{latency.spread:.0%}")
        memory = "unknown" if timing.peak_bytes is None else f"{timing.peak_bytes / 1e6:,.0f} MB"
        sizes = (str(timing.num_threads), f"{timing.num_bytes:,}", memory)
        table.add_row(printable(timing.model), timing.runtime, *sizes, *times, f"{timing.images_per_s:,.0f}")
    _print(table)


def _decimals(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _table(*headers: str) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _print(table: Table) -> None:
    """Print the table; in a terminal that is too narrow, print two lines per row: its name, then the rest."""
    console = Console(markup=False, emoji=False)  # class names are not markup
    whole = Console(width=WIDEST, markup=False, emoji=False)
    if console.is_terminal and whole.measure(table).maximum > console.width:
        headers = [str(column.header) for column in table.columns[1:]]
        for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
            print(f"{name}\n  {', '.join(f'{header} {cell}' for header, cell in zip(headers, cells, strict=True))}")
        return
    with whole.capture() as captured:
        whole.print(table)
    print(captured.get(), end="")  # rich itself would exit with 1 if the reader has gone
