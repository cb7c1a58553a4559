"""Downloads single files and verifies them.

A file is moved to its place only after its hash was checked. The addresses are tried in turn, for several rounds,
until a deadline. If two processes need the same file, one waits.

This uses requests because pooch has no deadline and does not detect a trickling connection: its reads return only
after a whole piece has arrived, `read1` returns what is there.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import requests
import urllib3
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.io import files
from pocket_resnet.io.locks import exclusive
from pocket_resnet.io.progress import Bar, print_line

CONNECT_TIMEOUT_S = 10.0
STALL_TIMEOUT_S = 30.0
DEADLINE_S = 3600.0
NUM_ROUNDS = 3
BACKOFF_S = 2.0  # doubled after every round
MAX_BYTES = 512 * 2**20
TEMPORARY_STATUSES = (408, 425, 429)  # too slow, too early, too many requests
_PIECE_BYTES = 2**16
_LINE_EVERY_S = 10.0

Progress = Callable[[int], None]


class Patience(NamedTuple):
    """Timeouts in seconds, and the number of rounds over all addresses."""

    connect_s: float = CONNECT_TIMEOUT_S
    stall_s: float = STALL_TIMEOUT_S
    deadline_s: float = DEADLINE_S
    num_rounds: int = NUM_ROUNDS
    backoff_s: float = BACKOFF_S


PATIENCE = Patience()


class _AttemptError(Exception):
    """The reason why one attempt at one address failed."""


class RefusedError(_AttemptError):
    """The server refused the request: HTTP status 401, 403, 404 or another that is not temporary."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


def fetch(urls: Sequence[str], target: Path, md5: str, patience: Patience = PATIENCE) -> bool:
    """Download the file with this MD5 to the target; False if it was already there.

    Raises EnvironmentFault naming addresses, reasons, target and how to download it by hand.
    """
    deadline = time.monotonic() + patience.deadline_s
    with exclusive(target, patience.deadline_s):
        if target.is_file() and files.digest(target, "md5") == md5:
            return False
        reasons: dict[str, str] = {}
        for _ in _rounds(patience, deadline):
            for url in urls:
                try:
                    _download(url, target, md5, patience, deadline)
                    return True
                except _AttemptError as failure:
                    reasons[url] = str(failure)
    reasons_text = "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
    raise EnvironmentFault(
        f"cannot be downloaded ({reasons_text})",
        where=target,
        hint=f"download {urls[0]} yourself and put it in {target.parent}, or name its folder with --data-dir or "
        "POCKET_RESNET_DATA",
    )


def fetch_bytes(
    url: str, num_bytes: int, headers: Mapping[str, str], advance: Progress, patience: Patience = PATIENCE
) -> bytes:
    """The content of the address, which has this many bytes; the caller verifies it.

    Raises RefusedError with the HTTP status if the server refuses, EnvironmentFault for all other failures.
    """
    deadline = time.monotonic() + patience.deadline_s
    reason = ""
    for _ in _rounds(patience, deadline):
        try:
            return _read(url, num_bytes, headers, advance, patience, deadline)
        except RefusedError:
            raise
        except _AttemptError as failure:
            reason = str(failure)
    raise EnvironmentFault(f"cannot be downloaded ({reason})", where=url, hint="check the network and try again")


def _rounds(patience: Patience, deadline: float) -> Iterator[None]:
    """Yields once per round of attempts until the deadline, after a wait that grows from round to round."""
    for round_number in range(patience.num_rounds):
        if round_number > 0:
            if time.monotonic() >= deadline:
                return
            time.sleep(max(0.0, min(patience.backoff_s * 2 ** (round_number - 1), deadline - time.monotonic())))
        yield


def is_reachable(url: str, timeout_s: float = 3.0) -> bool:
    """Whether the address seems to offer a file: no error, no login page, and a quick response."""
    try:
        with requests.head(url, timeout=timeout_s, allow_redirects=True) as response:
            return response.ok and not _is_page(response)
    except requests.RequestException:
        return False


def _download(url: str, target: Path, md5: str, patience: Patience, deadline: float) -> None:
    """Raises _AttemptError, but EnvironmentFault if the disk is full, as another address would not help."""
    with contextlib.closing(_open(url, patience)) as response:
        num_bytes: int = response.raw.length_remaining or 0  # from Content-Length
        if num_bytes > MAX_BYTES:
            raise _AttemptError(f"{num_bytes:,} bytes, over the limit of {MAX_BYTES:,}")
        md5_hash, received = hashlib.md5(usedforsecurity=False), 0
        with files.replacing(target, num_bytes or None) as file, progress(url, num_bytes) as advance:
            for piece in _pieces(response, deadline):
                file.write(piece)
                md5_hash.update(piece)
                received += len(piece)
                advance(len(piece))
                if received > MAX_BYTES:
                    raise _AttemptError(f"more than the limit of {MAX_BYTES:,} bytes")
            if received < num_bytes:
                raise _AttemptError(f"cut off after {received:,} of {num_bytes:,} bytes")
            if md5_hash.hexdigest() != md5:
                raise _AttemptError(f"wrong file: its MD5 is {md5_hash.hexdigest()} instead of {md5}")


def _read(
    url: str, num_bytes: int, headers: Mapping[str, str], advance: Progress, patience: Patience, deadline: float
) -> bytes:
    content = bytearray()
    try:
        with contextlib.closing(_open(url, patience, headers)) as response:
            for piece in _pieces(response, deadline):
                content += piece
                advance(len(piece))
                if len(content) > num_bytes:
                    raise _AttemptError(f"more than the stated {num_bytes:,} bytes")
        if len(content) < num_bytes:
            raise _AttemptError(f"cut off after {len(content):,} of {num_bytes:,} bytes")
    except _AttemptError:
        advance(-len(content))
        raise
    return bytes(content)


def _open(url: str, patience: Patience, headers: Mapping[str, str] | None = None) -> requests.Response:
    try:
        response = requests.get(
            url,
            stream=True,
            timeout=(patience.connect_s, patience.stall_s),
            headers={"Accept-Encoding": "identity", **(headers or {})},
        )
    except requests.RequestException as error:
        raise _AttemptError(_in_words(error)) from error
    if response.ok and not _is_page(response):
        return response
    response.close()
    if response.ok:
        raise _AttemptError("the server sent a web page instead of the file (a login page or proxy?)")
    if response.status_code < 500 and response.status_code not in TEMPORARY_STATUSES:
        raise RefusedError(response.status_code)
    raise _AttemptError(f"HTTP status {response.status_code}")


def _is_page(response: requests.Response) -> bool:
    return "html" in response.headers.get("Content-Type", "").lower()


def _pieces(response: requests.Response, deadline: float) -> Iterator[bytes]:
    try:
        while piece := response.raw.read1(_PIECE_BYTES):
            if time.monotonic() > deadline:
                raise _AttemptError("too slow: the download ran out of time")
            yield piece
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _AttemptError(_in_words(error)) from error


def _in_words(error: Exception) -> str:
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return "the server did not answer in time"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "the connection broke"
    return "cannot be reached" if isinstance(error, requests.ConnectionError) else str(error)


@contextlib.contextmanager
def progress(url: str, num_bytes: int) -> Iterator[Progress]:
    """Yields a function that counts bytes: a bar on a terminal, otherwise occasional lines; on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(url.rpartition("/")[2], num_bytes or None, columns=columns, transient=False) as bar:
        yield bar.advance if bar.is_drawn else _lines(url, num_bytes)


def _lines(url: str, num_bytes: int) -> Progress:
    total = f" of {num_bytes / 1e6:.0f} MB" if num_bytes else ""
    print_line(f"downloading {url}")
    received, next_line = 0, time.monotonic() + _LINE_EVERY_S

    def advance(count: int) -> None:
        nonlocal received, next_line
        received += count
        if time.monotonic() >= next_line:
            print_line(f"  {received / 1e6:.0f}{total or ' MB'}")
            next_line = time.monotonic() + _LINE_EVERY_S

    return advance
