"""Downloads from a server on this machine that simulates network faults."""

import hashlib
import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.io import download
from pocket_resnet.io.download import Patience, fetch, is_reachable

GOOD = bytes(range(256)) * 2_000
MD5 = hashlib.md5(GOOD).hexdigest()
QUICK = Patience(connect_s=1, stall_s=0.3, deadline_s=5, num_rounds=2, backoff_s=0.05)


class FaultyHandler(BaseHTTPRequestHandler):
    """The path selects the fault; the class counts requests."""

    num_requests: ClassVar[dict[str, int]] = {}

    def do_HEAD(self) -> None:
        self.start(200, "text/html" if "html" in self.path else "application/x-gzip")

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.num_requests[name] = self.num_requests.get(name, 0) + 1
        getattr(self, name)()

    def start(self, status: int, kind: str = "application/x-gzip", length: int | None = len(GOOD)) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def good(self) -> None:
        self.start(200)
        self.wfile.write(GOOD)

    def good_without_length(self) -> None:
        self.start(200, length=None)
        self.wfile.write(GOOD)

    def second_time_good(self) -> None:
        if self.num_requests["second_time_good"] > 1:
            self.good()
        else:
            self.cut()

    def slow_but_good(self) -> None:
        self.start(200)
        for start in range(0, len(GOOD), 64_000):
            self.wfile.write(GOOD[start : start + 64_000])
            time.sleep(0.1)

    def missing(self) -> None:
        self.start(404, "text/html", 0)

    def broken(self) -> None:
        self.start(503, length=0)

    def html(self) -> None:
        self.start(200, "text/html; charset=utf-8", 20)
        self.wfile.write(b"<html>Log in!</html>")

    def wrong(self) -> None:
        self.start(200)
        self.wfile.write(GOOD[:-1] + b"\0")

    def cut(self) -> None:
        self.start(200)
        self.wfile.write(GOOD[:1000])
        self.wfile.flush()
        self.connection.close()

    def cut_without_length(self) -> None:
        self.start(200, length=None)
        self.wfile.write(GOOD[:1000])

    def stall(self) -> None:
        self.start(200)
        self.wfile.write(GOOD[:1000])
        self.wfile.flush()
        time.sleep(0.8)

    def silent(self) -> None:
        time.sleep(0.8)

    def drip(self) -> None:
        self.start(200)
        for byte in GOOD:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.05)

    def huge(self) -> None:
        self.start(200, length=10**12)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    FaultyHandler.num_requests = {}
    http = ThreadingHTTPServer(("127.0.0.1", 0), FaultyHandler)
    http.handle_error = lambda *_: None
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{http.server_port}", num_requests=FaultyHandler.num_requests)
    http.shutdown()
    http.server_close()


def visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]


@pytest.mark.threat(27)
@pytest.mark.parametrize("fault", ["good", "good_without_length", "slow_but_good", "second_time_good"])
def test_downloads_succeed(server: Any, tmp_path: Path, fault: str) -> None:
    """Tried again after a cut."""
    target = tmp_path / "new" / "file.gz"
    assert fetch([f"{server.url}/{fault}"], target, MD5, QUICK) is True
    assert target.read_bytes() == GOOD
    assert visible(target.parent) == ["file.gz"]
    assert fetch(["http://127.0.0.1:9/nothing"], target, MD5, QUICK) is False


@pytest.mark.threat(27)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", "HTTP status 404"),
        ("broken", "HTTP status 503"),
        ("html", "the server sent a web page"),
        ("wrong", f"wrong file: its MD5 is [0-9a-f]{{32}} instead of {MD5}"),
        ("cut", "cut"),
        ("cut_without_length", "wrong file"),
        ("stall", "the server did not answer in time"),
        ("silent", "the server did not answer in time"),
        ("huge", "over the limit"),
    ],
)
def test_fault_is_named_retried_and_leaves_no_file(server: Any, tmp_path: Path, fault: str, reason: str) -> None:
    """Exit code 5."""
    url, target = f"{server.url}/{fault}", tmp_path / "file.gz"
    with pytest.raises(EnvironmentFault, match=reason) as raised:
        fetch([url], target, MD5, QUICK)
    assert raised.value.exit_code == 5
    assert raised.value.where == target
    assert f"download {url} yourself and put it in {tmp_path}" in str(raised.value)
    assert server.num_requests[fault] == 2
    assert visible(tmp_path) == []


@pytest.mark.threat(27)
def test_mirrors_are_tried_in_turn_and_named_if_all_fail(server: Any, tmp_path: Path) -> None:
    target = tmp_path / "file.gz"
    urls = [f"{server.url}/missing", "http://127.0.0.1:9/closed", f"{server.url}/good"]
    with pytest.raises(EnvironmentFault, match=r"missing: HTTP status 404; .*closed: cannot be reached"):
        fetch(urls[:2], target, MD5, QUICK)
    assert fetch(urls, target, MD5, QUICK)
    assert target.read_bytes() == GOOD


@pytest.mark.threat(27)
@pytest.mark.timeout(60)
def test_deadline_ends_a_drip_that_never_stalls(server: Any, tmp_path: Path) -> None:
    """It would take seven hours."""
    with pytest.raises(EnvironmentFault, match="too slow"):
        fetch([f"{server.url}/drip"], tmp_path / "file.gz", MD5, QUICK._replace(deadline_s=0.6))


@pytest.mark.threat(27)
def test_remains_of_a_killed_download_are_removed(server: Any, tmp_path: Path) -> None:
    """Those of this file alone."""
    foreign = {".tmp-7-other.gz", ".tmp-7-my-file.gz", ".tmp-x-file.gz"}
    for name in (".tmp-7-file.gz", ".tmp-123456-file.gz", *foreign):
        (tmp_path / name).write_bytes(b"half")
    fetch([f"{server.url}/good"], tmp_path / "file.gz", MD5, QUICK)
    assert set(visible(tmp_path)) == {"file.gz", *foreign}


@pytest.mark.threat(27)
def test_failure_leaves_an_older_file(server: Any, tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(b"half of it")
    with pytest.raises(EnvironmentFault):
        fetch([f"{server.url}/wrong"], tmp_path / "file.gz", MD5, QUICK)
    assert (tmp_path / "file.gz").read_bytes() == b"half of it"


@pytest.mark.threat(27)
def test_two_at_once_make_one_download(server: Any, tmp_path: Path) -> None:
    """Both succeed."""
    target, results = tmp_path / "file.gz", []
    url = f"{server.url}/slow_but_good"
    threads = [threading.Thread(target=lambda: results.append(fetch([url], target, MD5, QUICK))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, True]
    assert server.num_requests == {"slow_but_good": 1}
    assert target.read_bytes() == GOOD


def test_folder_that_cannot_be_made(server: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="cannot write"):
        fetch([f"{server.url}/good"], tmp_path / "file" / "file.gz", MD5, QUICK)
    assert not server.num_requests


def test_is_reachable(server: Any) -> None:
    assert is_reachable(f"{server.url}/good")
    assert not is_reachable(f"{server.url}/html")
    assert not is_reachable("http://127.0.0.1:9/closed")


def test_progress_goes_to_standard_error(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_LINE_EVERY_S", 0.0)
    fetch([f"{server.url}/good"], tmp_path / "file.gz", MD5, QUICK)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"downloading {server.url}/good" in captured.err
    assert "1 of 1 MB" in captured.err
    monkeypatch.setattr("sys.stderr", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    fetch([f"{server.url}/good"], tmp_path / "again.gz", MD5, QUICK)
    assert "good" in terminal.getvalue()
