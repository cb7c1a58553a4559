"""Servers to send requests to: one in its own process, and ones in this process with replaceable parts."""

import http.client
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

from pocket_resnet.serving.app import create_app
from pocket_resnet.serving.guard import Hosts
from pocket_resnet.serving.served_model import ServedModel, open_served
from pocket_resnet.serving.server import configuration, listen

GOLDEN = Path(__file__).parents[1] / "faults" / "golden" / "model-0.1.0"
PREDICT = "/v1/predict"
PNG = {"Content-Type": "image/png"}


@dataclass(frozen=True)
class Response:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Client:
    """Sends requests to a port of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, headers or {})
        received = connection.getresponse()
        response = Response(received.status, received.headers, received.read())
        connection.close()
        return response

    def predict(self, content: bytes) -> Response:
        return self.send("POST", PREDICT, content, PNG)

    def raw(self, *lines: str, body: bytes = b"") -> Response:
        """The response to a request of exactly these lines."""
        with self.connect() as connection:
            connection.sendall("\r\n".join((*lines, "", "")).encode("latin-1") + body)
            return read_response(connection)


class Server(Client):
    """A server in a thread."""

    def __init__(self, model: ServedModel, hosts: Hosts | None) -> None:
        self._listener = listen("127.0.0.1", 0, public=False)
        super().__init__(self._listener.getsockname()[1])
        self.app = create_app(model, hosts)
        self._uvicorn = uvicorn.Server(configuration(self.app))
        self._thread = threading.Thread(target=lambda: self._uvicorn.run(sockets=[self._listener]), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()


class Process(Client):
    """`pocket-resnet serve` in a process."""

    def __init__(self, *arguments: str, home: Path) -> None:
        command = [sys.executable, "-m", "pocket_resnet", "serve", *arguments, "--port", "0"]
        environment = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"}
        self.log = ""
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:(\d+)", first)
        assert address, first + self.process.stderr.read()
        super().__init__(int(address[1]))
        threading.Thread(target=self._read, daemon=True).start()

    def memory_kb(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{name}:\s+(\d+) kB", text)[1])

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.log += line


def read_response(connection: socket.socket) -> Response:
    received = http.client.HTTPResponse(connection)
    received.begin()
    return Response(received.status, received.headers, received.read())


def is_loopback_only(port: int) -> bool:
    """Whether the sockets that listen on this port have the address 127.0.0.1."""
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table]
    listening = [line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")]
    return listening == [f"0100007F:{port:04X}"]


def picture(seed: int = 0, size: int = 8) -> bytes:
    """A PNG."""
    pixels_HWC = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels_HWC).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    started = Process(str(GOLDEN), home=tmp_path_factory.mktemp("home"))
    yield started
    if started.process.poll() is None:
        started.stop()


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """start(classify=...) starts a server for the golden model, with another function to classify if one is given."""
    servers: list[Server] = []

    def make(classify: Any = None, hosts: Hosts | None = None, names: tuple[str, ...] = ()) -> Server:
        golden = open_served(GOLDEN)
        model = ServedModel(
            classify or golden.classify, names or golden.class_names, golden.image_size, golden.runtime, golden.facts
        )
        servers.append(Server(model, hosts))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
