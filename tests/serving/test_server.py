"""The command `serve`: where it listens, what it refuses at start, and how it ends."""

import asyncio
import io
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

import pocket_resnet
from pocket_resnet import extras
from pocket_resnet.cli import console
from pocket_resnet.errors import UsageError
from pocket_resnet.serving import server
from pocket_resnet.serving.server import listen

from .conftest import GOLDEN, PREDICT, Process, is_loopback_only, picture

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Process]:
    process = Process(str(GOLDEN), home=tmp_path)
    yield process
    process.process.kill()


@pytest.mark.threat(34)
def test_sigterm(started: Process) -> None:
    """Pending requests are answered; idle and slow clients do not delay the exit; exit code 0."""
    assert started.predict(picture()).status == 200
    idle, slow = started.connect(), started.connect()
    slow.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\n".encode())
    slow.sendall(b"Content-Type: image/png\r\nContent-Length: 9\r\n\r\nx")
    large = picture(size=1500)
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(started.predict, large)
        time.sleep(0.1)
        started_s = time.monotonic()
        assert started.stop() == 0
        assert time.monotonic() - started_s < 10
        assert response.result().status == 200
    for connection in (idle, slow):
        connection.close()
    assert "Traceback" not in started.log


def test_ctrl_c(started: Process) -> None:
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(10) == 0


def test_the_terminal_shows_each_request(process: Process) -> None:
    for _ in range(2):
        process.send("GET", "/health")
    deadline_s, lines = time.monotonic() + 10, []
    while len(lines) < 2 and time.monotonic() < deadline_s:
        lines = re.findall(r"^\d{4}-\d\d-\d\d [\d:,]+ 127\.0\.0\.1 GET /health 200 ", process.log, re.MULTILINE)
    assert len(lines) >= 2


def test_connections_set_tcp_nodelay() -> None:
    """Without TCP_NODELAY, each response came 40 ms late."""

    async def option_of_a_connection(listener: socket.socket) -> int:
        connected: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            del reader
            of_server = writer.get_extra_info("socket")
            connected.set_result(of_server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(accept, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            return await connected

    assert asyncio.run(option_of_a_connection(listen("127.0.0.1", 0, public=False)))


@pytest.mark.threat(35)
def test_listens_only_on_this_machine(process: Process) -> None:
    assert is_loopback_only(process.port)


@pytest.mark.threat(35)
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_need_a_flag(host: str, run: Run) -> None:
    code, out, err = run("serve", GOLDEN, "--host", host, "--port", 0)
    assert (code, out) == (2, "")
    assert f"other machines could connect to {host}\n  allow that with --public" in err
    with listen("0.0.0.0", 0, public=True) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


@pytest.mark.threat(37)
def test_port_in_use(process: Process, run: Run) -> None:
    code, out, err = run("serve", GOLDEN, "--port", process.port)
    assert (code, out) == (5, "")
    assert f"port {process.port}: Address already in use" in err
    assert "--port 8001" in err


@pytest.mark.threat(37)
@pytest.mark.parametrize("name", ["none", "none.onnx"])
def test_no_model(name: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before anything listens."""
    monkeypatch.setattr(server, "listen", lambda *_, **__: pytest.fail("it listened"))
    code, out, err = run("serve", tmp_path / name)
    assert (code, out) == (2, "")
    assert str(tmp_path / name) in err


@pytest.mark.threat(37)
def test_damaged_model(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server, "listen", lambda *_, **__: pytest.fail("it listened"))
    (tmp_path / "model.onnx").write_bytes(b"no")
    assert run("serve", tmp_path / "model.onnx")[0] == 4


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("no.such.host.invalid", 0, "no such host"),
        ("127.0.0.1", -1, "port -1 is out of range\n  use 1 to 65535"),
        ("127.0.0.1", 65_536, "port 65536 is out of range\n  use 1 to 65535"),
    ],
)
def test_invalid_addresses(host: str, port: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        listen(host, port, public=False)


def test_privileged_port(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """Ports below 1024 need root."""

    def bind(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    code, _, err = run("serve", GOLDEN, "--port", 80)
    assert code == 5
    assert "port 80: Permission denied" in err


def test_an_unavailable_device(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = run("serve", GOLDEN, "--device", "cuda")
    assert code == 2
    assert "the device cuda is not available" in err


def test_without_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "uvicorn" else name)
    code, _, err = run("serve", GOLDEN)
    assert code == 5
    assert err == "pocket-resnet: serve needs uvicorn, which is not installed\n  pip install 'pocket-resnet[serve]'\n"


def test_requests_are_logged_for_each_server_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with console.log_requests_to_terminal():
        console.logging.getLogger("pocket_resnet.requests").warning("here")
    console.logging.getLogger("pocket_resnet.requests").info("not here")
    assert capsys.readouterr().err.endswith(" here\n")


def documented(language: str) -> str:
    """The program in this language in the section "Serve it" of docs/deploy.md."""
    section = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").split("## Serve it\n")[1]
    [program] = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(program)


@pytest.mark.parametrize(("language", "interpreter"), [("sh", ["sh", "-ec"]), ("python", [sys.executable, "-c"])])
def test_examples_of_the_documentation(language: str, interpreter: list[str], process: Process, tmp_path: Path) -> None:
    if language == "sh" and not shutil.which("curl"):
        pytest.skip("no curl here")
    Image.open(io.BytesIO(picture(size=40))).save(tmp_path / "cat.jpg")
    [expected] = pocket_resnet.load(GOLDEN, "cpu").predict(tmp_path / "cat.jpg")
    program = documented(language).replace("127.0.0.1:8000", process.host)
    done = subprocess.run([*interpreter, program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if language == "python":
        label, probability = done.stdout.split()
        assert (label, float(probability)) == (expected.label, pytest.approx(expected.probability, abs=1e-5))
    else:
        assert done.stdout.count(f'{{"label":"{expected.label}","probability":') == 2 * 3
        assert done.stdout.count('"top":') == 3
