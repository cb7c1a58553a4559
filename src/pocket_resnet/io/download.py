"""Fetch one file over the network: the right one or none.

A file takes its place only after its hash is right, so what is there can be believed. Every address is tried
in turn, several rounds long, until a deadline. Of two processes that want the same file, one waits.

requests and not pooch, whose downloader knows neither a deadline nor a connection that drips: a read there
returns only once a whole piece has come, here (`read1`) after whatever has.
"""

import contextlib
import hashlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import requests
import urllib3

from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.io import files, locks

CONNECT_TIMEOUT_S = 10.0
STALL_TIMEOUT_S = 30.0
DEADLINE_S = 3600.0
NUM_ROUNDS = 3
BACKOFF_S = 2.0  # doubled after every round
MAX_BYTES = 512 * 2**20
_PIECE_BYTES = 2**16
_LINE_EVERY_S = 10.0

Progress = Callable[[int], None]


class Patience(NamedTuple):
    """How long to wait for what, in seconds, and how many rounds over all addresses to make."""

    connect_s: float = CONNECT_TIMEOUT_S
    stall_s: float = STALL_TIMEOUT_S
    deadline_s: float = DEADLINE_S
    num_rounds: int = NUM_ROUNDS
    backoff_s: float = BACKOFF_S


PATIENCE = Patience()


class _AttemptError(Exception):
    """Why one attempt at one address gave no good file."""


def fetch(urls: Sequence[str], target: Path, md5: str, patience: Patience = PATIENCE) -> bool:
    """Have the file with this MD5 at the target; True where it was downloaded, False where it was there.

    Raises EnvironmentFault naming addresses, reasons, target and how to do it by hand.
    """
    deadline = time.monotonic() + patience.deadline_s
    with exclusive(target, patience.deadline_s):
        if target.is_file() and files.digest(target, "md5") == md5:
            return False
        reasons: dict[str, str] = {}
        for round_number in range(patience.num_rounds):
            for url in urls:
                try:
                    _download(url, target, md5, patience, deadline)
                    return True
                except _AttemptError as failure:
                    reasons[url] = str(failure)
            if time.monotonic() >= deadline or round_number == patience.num_rounds - 1:
                break
            time.sleep(max(0.0, min(patience.backoff_s * 2**round_number, deadline - time.monotonic())))
    said = "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
    raise EnvironmentFault(
        f"cannot be downloaded ({said})",
        where=target,
        hint=f"download {urls[0]} yourself and put it in {target.parent}",
    )


@contextlib.contextmanager
def exclusive(path: Path, wait_s: float = DEADLINE_S) -> Iterator[None]:
    """Hold the path against other processes and threads; the kernel lets go of it when a process dies.

    What a killed process left of this file, under a temporary name, is removed first. Raises EnvironmentFault
    where the folder cannot be written or another process holds it for too long.
    """
    lock = path.with_name(f".{path.name}.lock")
    deadline = time.monotonic() + wait_s
    with files.explain_os_errors(lock, hint="choose a writable --data-dir"):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    with file:
        while True:
            try:
                if not locks.lock(file):
                    files.warn_once(locks.NO_LOCKS, path)
                break
            except locks.HeldError:
                if time.monotonic() >= deadline:
                    raise EnvironmentFault(
                        "another process has held this for too long",
                        where=path,
                        hint="wait, or stop that process",
                    ) from None
                time.sleep(0.1)
        _remove_temporaries(path)
        yield


def _remove_temporaries(path: Path) -> None:
    name = re.compile(rf"{re.escape(files.TEMPORARY_PREFIX)}\d+-{re.escape(path.name)}")
    with files.explain_os_errors(path):
        for beside in path.parent.iterdir():
            if name.fullmatch(beside.name) and beside.is_file():
                beside.unlink()


def is_reachable(url: str, timeout_s: float = 3.0) -> bool:
    """Whether the address answers as a file does: without an error, a login page or a long wait."""
    try:
        with requests.head(url, timeout=timeout_s, allow_redirects=True) as response:
            return response.ok and not _is_page(response)
    except requests.RequestException:
        return False


def _download(url: str, target: Path, md5: str, patience: Patience, deadline: float) -> None:
    """Raises _AttemptError; a full disk is an EnvironmentFault of `files.replacing`: no mirror helps."""
    with contextlib.closing(_open(url, patience)) as response:
        num_bytes: int = response.raw.length_remaining or 0  # as Content-Length says
        if num_bytes > MAX_BYTES:
            raise _AttemptError(f"{num_bytes:,} bytes, over the limit of {MAX_BYTES:,}")
        found, received = hashlib.md5(usedforsecurity=False), 0
        with files.replacing(target, num_bytes or None) as file, _progress(url, num_bytes) as advance:
            for piece in _pieces(response, deadline):
                file.write(piece)
                found.update(piece)
                received += len(piece)
                advance(len(piece))
                if received > MAX_BYTES:
                    raise _AttemptError(f"more than the limit of {MAX_BYTES:,} bytes")
            if received < num_bytes:
                raise _AttemptError(f"cut off after {received:,} of {num_bytes:,} bytes")
            if found.hexdigest() != md5:
                raise _AttemptError(f"wrong file: its MD5 is {found.hexdigest()} instead of {md5}")


def _open(url: str, patience: Patience) -> requests.Response:
    try:
        response = requests.get(
            url,
            stream=True,
            timeout=(patience.connect_s, patience.stall_s),
            headers={"Accept-Encoding": "identity"},
        )
    except requests.RequestException as error:
        raise _AttemptError(_plainly(error)) from error
    if response.ok and not _is_page(response):
        return response
    response.close()
    raise _AttemptError(
        f"HTTP status {response.status_code}"
        if not response.ok
        else "the server sent a web page instead of the file (a login page or proxy?)"
    )


def _is_page(response: requests.Response) -> bool:
    return "html" in response.headers.get("Content-Type", "").lower()


def _pieces(response: requests.Response, deadline: float) -> Iterator[bytes]:
    try:
        while piece := response.raw.read1(_PIECE_BYTES):
            if time.monotonic() > deadline:
                raise _AttemptError("too slow: the download ran out of time")
            yield piece
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _AttemptError(_plainly(error)) from error


def _plainly(error: Exception) -> str:
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return "the server did not answer in time"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "the connection broke"
    return "cannot be reached" if isinstance(error, requests.ConnectionError) else str(error)


@contextlib.contextmanager
def _progress(url: str, num_bytes: int) -> Iterator[Progress]:
    """A bar on a terminal, else a line now and then; on standard error, as standard output may be JSON."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(url, num_bytes)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(url.rpartition("/")[2], total=num_bytes or None)
        yield lambda count: bar.update(task, advance=count)


def _lines(url: str, num_bytes: int) -> Progress:
    total = f" of {num_bytes / 1e6:.0f} MB" if num_bytes else ""
    print(f"downloading {url}", file=sys.stderr)
    received, next_line = 0, time.monotonic() + _LINE_EVERY_S

    def advance(count: int) -> None:
        nonlocal received, next_line
        received += count
        if time.monotonic() >= next_line:
            print(f"  {received / 1e6:.0f}{total or ' MB'}", file=sys.stderr)
            next_line = time.monotonic() + _LINE_EVERY_S

    return advance
