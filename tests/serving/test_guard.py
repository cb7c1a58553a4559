"""Foreign hosts, origins and paths; headers of every response; bugs; the log of requests."""

import json
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from pocket_resnet.serving import app
from pocket_resnet.serving.guard import Hosts
from pocket_resnet.version import __version__

from .conftest import PREDICT, Process, Server, picture

OWN = ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "[::1]:8000"]
FOREIGN = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0", "", "localhost:x"]
FOREIGN += ["localhost@evil.example", "evil.example#localhost", "[::2]", "::1", "localhost.", "localhost, evil.example"]


@pytest.mark.parametrize("host", OWN)
def test_own_hosts(host: str, process: Process) -> None:
    for origin in (f"http://{host}", f"https://{host}"):
        assert process.raw("GET /health HTTP/1.1", f"Host: {host}", f"Origin: {origin}").status == 200
    assert process.raw("GET /health HTTP/1.1", f"Host: {host}").status == 200


@pytest.mark.threat(35)
@pytest.mark.parametrize("host", FOREIGN)
def test_foreign_hosts(host: str, process: Process) -> None:
    for target in ("/health", "/metrics", "/", "/nothing"):
        assert process.raw(f"GET {target} HTTP/1.1", f"Host: {host}").status == 403


@pytest.mark.threat(35)
def test_no_host_or_two(process: Process) -> None:
    assert process.raw("GET /health HTTP/1.0").status == 403
    assert process.raw("GET /health HTTP/1.1").status == 400
    assert process.raw("GET /health HTTP/1.1", "Host: localhost", "Host: evil.example").status == 400


ORIGINS = ["http://evil.example", "null", "http://localhost:9999", "http://127.0.0.1:8000", "file://", "", "localhost"]


@pytest.mark.threat(35)
@pytest.mark.parametrize("origin", ORIGINS)
def test_foreign_origins(origin: str, process: Process) -> None:
    """Also another port of this machine; nothing is classified."""
    lines = ("Host: localhost:8000", f"Origin: {origin}", "Content-Type: image/png")
    content = picture()
    response = process.raw(f"POST {PREDICT} HTTP/1.1", *lines, f"Content-Length: {len(content)}", body=content)
    assert (response.status, json.loads(response.body)["error"]) == (403, "a request from a page of another server")
    assert response.headers["Access-Control-Allow-Origin"] is None
    assert process.raw("OPTIONS / HTTP/1.1", *lines[:2]).status == 403


@pytest.mark.threat(35)
def test_a_server_for_other_machines(start: Callable[..., Server]) -> None:
    """Addresses are allowed, because DNS rebinding needs a name; of names only those given."""
    server = start(hosts=Hosts(("localhost", "pictures.example"), any_address=True))
    statuses = {
        host: server.raw("GET /health HTTP/1.1", f"Host: {host}").status
        for host in ("192.168.1.5:8000", "[fe80::1]", "pictures.example", "evil.example", "999.1.1.1")
    }
    assert list(statuses.values()) == [200, 200, 200, 403, 403]


PATHS = [
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/static/../app.py",
    "/static/%2e%2e%2fapp.py",
    "//etc/passwd",
]
PATHS += ["/static/%00page.js", "/page.js%00", "/%00", "/static/", "/static/page.js/", "/static/..%5capp.py", "/%ff%fe"]
PATHS += ["/static//page.js", "http://evil.example/etc/passwd", "/v1/predict/", "/docs/", "*"]


@pytest.mark.threat(35)
@pytest.mark.parametrize("path", PATHS)
def test_paths(path: str, process: Process) -> None:
    """404, and nothing is read."""
    response = process.raw(f"GET {path} HTTP/1.1", "Host: localhost")
    assert (response.status, json.loads(response.body)) == (404, {"error": "not found", "hint": "see /docs"})


@pytest.mark.parametrize("path", ["/", "/docs", "/health", "/static/page.js", "/nothing", PREDICT, "/openapi.json"])
def test_headers_of_every_answer(path: str, process: Process) -> None:
    response = process.send("GET", path)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert response.headers["Server"] is None


@pytest.fixture
def bug(monkeypatch: pytest.MonkeyPatch) -> str:
    """A bug in a route, and one in the model's code; its text must not get out."""
    secret = "/secret/path"

    def fail(*_: Any) -> Any:
        raise RuntimeError(secret)

    monkeypatch.setattr(app.pages, "classify", fail)
    return secret


@pytest.mark.threat(36)
def test_internal_errors(start: Callable[..., Server], bug: str, caplog: pytest.LogCaptureFixture) -> None:
    """Status 500 and an id that the log has with the traceback; the server stays up."""

    def fail(_: Any) -> Any:
        raise RuntimeError(bug)

    server = start(fail)
    for response in (server.send("GET", "/"), server.predict(picture())):
        assert response.status == 500
        body = json.loads(response.body)
        assert set(body) == {"error", "hint", "id"}
        everything = response.body.decode() + str(response.headers)
        for secret in (bug, "Traceback", "RuntimeError", ".py", __version__, "uvicorn"):
            assert secret not in everything
        [record] = [record for record in caplog.records if body["id"] in record.getMessage()]
        assert record.levelno == logging.ERROR
        assert bug in str(record.exc_info)
    assert server.send("GET", "/health").status == 200


def test_one_line_a_request(start: Callable[..., Server], logged: pytest.LogCaptureFixture) -> None:
    """Also for equal requests; without query, picture or control characters."""
    server = start()
    for _ in range(2):
        server.send("GET", "/health?secret=1")
    server.raw("GET /%0d%0aforged HTTP/1.1", "Host: localhost")
    server.raw("not http")
    server.predict(picture())
    server.stop()  # a line is written after its response
    lines = [record.getMessage() for record in logged.records if record.name == "pocket_resnet.requests"]
    assert [re.sub(r" [\d.]+ ms$", "", line) for line in lines] == [
        "127.0.0.1 GET /health 200",
        "127.0.0.1 GET /health 200",
        "127.0.0.1 GET /%0d%0aforged 404",
        "127.0.0.1 not an HTTP request 400",
        "127.0.0.1 POST /v1/predict 200",
    ]
