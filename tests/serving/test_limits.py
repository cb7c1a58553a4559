"""Uploads and clients beyond the limits, by raw sockets: refused in time and memory, while others are served."""

import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pocket_resnet.serving import protocol, uploads
from pocket_resnet.serving.uploads import MAX_BODY_BYTES

from .conftest import PNG, PREDICT, Process, Response, Server, picture, read_response

HEAD = (f"POST {PREDICT} HTTP/1.1", "Host: localhost", "Content-Type: image/png")
CHUNK = b"10000\r\n" + bytes(0x10000) + b"\r\n"
SENT_BYTES = 12 * MAX_BODY_BYTES


def head(*lines: str) -> bytes:
    return "\r\n".join((*HEAD, *lines, "", "")).encode()


@pytest.fixture
def flat(process: Process) -> Iterator[None]:
    """The server's memory grows by a few copies of the largest body at most, and it stays up."""
    process.predict(picture())
    process.forget_peak()
    before_kb = process.memory_kb("VmRSS")
    yield
    assert process.memory_kb("VmHWM") - before_kb < 3 * MAX_BODY_BYTES / 1024
    assert process.predict(picture()).status == 200


@pytest.mark.threat(33)
@pytest.mark.usefixtures("flat")
def test_oversized_with_its_length(process: Process) -> None:
    """Refused before anything is read."""
    for stated in (MAX_BODY_BYTES + 1, 10**18):
        started_s = time.monotonic()
        response = process.raw(*HEAD, f"Content-Length: {stated}")
        assert (response.status, json.loads(response.body)["error"]) == (413, "over the limit of 16,777,216 bytes")
        assert time.monotonic() - started_s < 2


@pytest.mark.threat(33)
@pytest.mark.usefixtures("flat")
@pytest.mark.parametrize("kind", ["chunked", "length"])
def test_oversized_and_sent_to_the_end(kind: str, process: Process) -> None:
    """413 after the limit; the rest is dropped, and the client can read the response."""
    with process.connect() as connection:
        if kind == "chunked":
            connection.sendall(head("Transfer-Encoding: chunked"))
            for _ in range(SENT_BYTES // 0x10000):
                connection.sendall(CHUNK)
            connection.sendall(b"0\r\n\r\n")
        else:
            connection.sendall(head(f"Content-Length: {SENT_BYTES}"))
            for _ in range(SENT_BYTES // 0x10000):
                connection.sendall(bytes(0x10000))
        assert read_response(connection).status == 413


@pytest.mark.threat(33)
def test_garbage_after_the_answer(process: Process) -> None:
    """A body over the limit that then breaks the chunked encoding."""
    with process.connect() as connection:
        connection.sendall(head("Transfer-Encoding: chunked") + CHUNK * (MAX_BODY_BYTES // 0x10000 + 1))
        assert read_response(connection).status == 413
        connection.sendall(b"no chunk\r\n")
        assert is_closed(connection)
    assert process.predict(picture()).status == 200
    assert "Traceback" not in process.log


@pytest.mark.threat(33)
def test_the_largest_body(process: Process) -> None:
    """A picture with trailing bytes up to the limit is taken."""
    content = picture()
    assert process.predict(content + bytes(MAX_BODY_BYTES - len(content))).status == 200


@pytest.mark.threat(33)
def test_wrong_content_lengths(process: Process) -> None:
    """Too short, too long, and contradictory lengths."""
    content = picture()
    with process.connect() as connection:
        connection.sendall(head("Content-Length: 10") + content)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert received.count(b"HTTP/1.1 400 ") == 2  # one for the rest; then it is closed
    with process.connect() as connection:
        connection.sendall(head(f"Content-Length: {len(content) + 1}") + content)
    for lines in (
        ("Content-Length: -1",),
        ("Content-Length: 1e3",),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: " + "9" * 30,),
        ("Transfer-Encoding: gzip, chunked",),
    ):
        assert 400 <= process.raw(*HEAD, *lines).status < 502
    assert process.predict(content).status == 200


@pytest.mark.threat(33)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", "", "image"])
def test_wrong_types(kind: str, process: Process) -> None:
    response = process.send("POST", PREDICT, picture(), {"Content-Type": kind})
    assert response.status == 415
    assert "image/jpeg" in json.loads(response.body)["hint"]


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BAD = {
    "empty": b"",
    "text": b"<html>" * 100_000,
    "cut": picture(size=64)[:-100],
    "header of 400 megapixels": png(20_000, 20_000),
    "decode bomb": png(10_000, 10_000, zlib.compress(bytes(30_001 * 1_000), 9)),
    "metadata bomb": picture()[:33] + b"\x00\x00\x00\x10zTXt" + bytes(20),
    "zeros": bytes(MAX_BODY_BYTES),
}


@pytest.mark.threat(33)
@pytest.mark.usefixtures("flat")
@pytest.mark.parametrize("case", BAD)
def test_bad_pictures(case: str, process: Process) -> None:
    """400 in under a second of the server's time."""
    ticks = process_seconds(process)
    response = process.predict(BAD[case])
    assert response.status == 400
    assert set(json.loads(response.body)) == {"error", "hint"}
    assert process_seconds(process) - ticks < 1.0


def process_seconds(process: Process) -> float:
    """The processor time that the server has used: other work on the machine does not count."""
    fields = Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def is_closed(connection: socket.socket, within_s: float = 10.0) -> bool:
    connection.settimeout(within_s)
    try:
        return connection.recv(65_536) == b""
    except ConnectionError:
        return True


@pytest.mark.threat(34)
@pytest.mark.parametrize(
    "begun",
    [b"", b"POST /v1/pre", head("Content-Length: 1000") + b"x", head("Transfer-Encoding: chunked") + b"fff\r\nab"],
)
def test_slow_clients(begun: bytes, start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed at the deadline, although bytes keep coming; others are served meanwhile."""
    monkeypatch.setattr(protocol, "REQUEST_DEADLINE_S", 1.0)
    server = start()
    with server.connect() as connection:
        started_s = time.monotonic()
        connection.sendall(begun)
        assert server.predict(picture()).status == 200
        while begun and time.monotonic() - started_s < 0.5:
            connection.sendall(b"a")
            time.sleep(0.1)
        assert is_closed(connection)
        assert time.monotonic() - started_s > 0.9
    assert server.predict(picture()).status == 200


@pytest.mark.threat(34)
def test_a_slow_request_behind_a_whole_one(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both arrive together; the second never ends."""
    monkeypatch.setattr(protocol, "REQUEST_DEADLINE_S", 1.0)
    server = start()
    with server.connect() as connection:
        whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(whole + head("Content-Length: 1000") + b"x")
        assert read_response(connection).status == 200
        assert is_closed(connection)


@pytest.mark.threat(34)
def test_a_client_that_never_reads(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses fill the buffers; the connection is closed at the deadline."""
    monkeypatch.setattr(protocol, "REQUEST_DEADLINE_S", 1.0)
    server = start()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", server.port))
        with pytest.raises(ConnectionError):  # not a timeout: the server has closed
            connection.sendall(b"GET /static/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1_000_000)
    assert server.predict(picture()).status == 200


@pytest.mark.threat(34)
def test_connections_beyond_the_limit(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_NUM_CONNECTIONS", 3)
    server = start()
    held = [server.connect() for _ in range(3)]
    time.sleep(0.5)
    with server.connect() as connection:
        response = read_response(connection)
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
    for connection in held:
        connection.close()
    time.sleep(0.5)
    assert server.predict(picture()).status == 200


@pytest.mark.threat(33)
def test_memory_of_all_bodies_together(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """A body beyond the total memory limit is refused; after the others end there is room again."""
    monkeypatch.setattr(uploads, "MAX_BUFFERED_BYTES", 5_000)
    server = start()
    with server.connect() as connection:
        connection.sendall(head("Content-Length: 6000") + bytes(4_900))
        time.sleep(0.5)
        assert server.predict(picture()).status == 503
    time.sleep(0.5)
    assert server.predict(picture()).status == 200


@pytest.mark.threat(34)
def test_a_hundred_concurrent_requests(start: Callable[..., Server]) -> None:
    """The same predictions as one by one; requests over the limit get a retry hint and succeed later."""
    contents = [picture(seed) for seed in range(100)]
    golden = start()
    one_by_one = [golden.predict(content) for content in contents]
    classify, all_sent = golden.app.state.service.model.classify, threading.Event()

    def slow(images_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        all_sent.wait(2)  # so that many wait
        probabilities_BK: NDArray[np.float32] = classify(images_BSSC)
        return probabilities_BK

    server = start(slow)
    with ThreadPoolExecutor(len(contents)) as pool:
        at_once = list(pool.map(server.predict, contents))
    all_sent.set()
    assert {response.status for response in at_once} == {200, 503}
    for response, expected, content in zip(at_once, one_by_one, contents, strict=True):
        if response.status == 503:
            assert response.headers["Retry-After"] == "1"
            response = server.predict(content)
        assert ranking(response) == pytest.approx(ranking(expected), abs=1e-5)
    assert golden.send("POST", PREDICT, picture(), PNG).status == 200


def ranking(response: Response) -> dict[str, Any]:
    assert response.status == 200
    [prediction] = json.loads(response.body)["predictions"]
    return {ranked["label"]: ranked["probability"] for ranked in prediction["top"]}
