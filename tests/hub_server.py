"""A Hugging Face hub on this machine: what huggingface_hub 2.4 calls to create, upload and look up a repository.

Small files arrive inside the commit, weights through Git LFS, as on the real hub without Xet.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "secret" * 5
Fault = Callable[[Any], bool]


class Hub:
    """The state of the hub: repositories, requests, and the fault to simulate."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}  # repository -> commit -> file -> content
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}  # of Git LFS, by SHA-256
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        self.fault: Fault | None = None
        """Called with each request; True where it has answered."""
        self.endpoint = ""

    def add(self, repository: str, files: dict[str, bytes]) -> str:
        """A new commit with these files and no others."""
        commit = hashlib.sha1(repr((repository, sorted(files.items()))).encode()).hexdigest()
        self.commits.setdefault(repository, {}).pop(commit, None)
        self.commits[repository][commit] = files
        return commit

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes] | None:
        commits = self.commits.get(repository, {})
        return commits.get(revision) if revision != "main" else next(reversed(commits.values()), {})


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.url = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {self.url}")
        self.hub.tokens.append(self.headers.get("Authorization"))
        if self.hub.fault is not None and self.hub.fault(self):
            return
        for pattern, handle in ROUTES.items():
            if match := re.fullmatch(pattern, f"{self.command} {self.url}"):
                handle(self, *match.groups())
                return
        self.send(404)

    def send(self, status: int, content: bytes | str = b"", kind: str = "application/octet-stream") -> None:
        data = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_json(self, value: Any) -> None:
        self.send(200, json.dumps(value), "application/json")

    def refuse(self, status: int, code: str, message: str = "") -> None:
        """Like the hub, with the reason in the headers."""
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def validate(self) -> None:
        """POST /api/validate-yaml"""
        has_front_matter = json.loads(self.body)["content"].startswith("---\n")
        warnings = [] if has_front_matter else [{"message": "empty or missing yaml metadata in repo card"}]
        self.send_json({"errors": [], "warnings": warnings})

    def create(self) -> None:
        requested = json.loads(self.body)
        name = f"{requested['organization']}/{requested['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif name in self.hub.commits:
            self.send(409, json.dumps({"url": f"{self.hub.endpoint}/{name}"}), "application/json")
        else:
            self.hub.commits[name] = {}
            if requested.get("visibility") == "private":
                self.hub.private.add(name)
            self.send_json({"url": f"{self.hub.endpoint}/{name}"})

    def preupload(self, _: str) -> None:
        files = json.loads(self.body)["files"]
        self.send_json({"files": [self._mode(file["path"]) for file in files]})

    def _mode(self, path: str) -> dict[str, Any]:
        is_large = path.endswith((".safetensors", ".u64"))
        return {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}

    def batch(self, _: str) -> None:
        objects = []
        for requested in json.loads(self.body)["objects"]:
            actions = {"upload": {"href": f"{self.hub.endpoint}/objects/{requested['oid']}"}}
            actions["verify"] = {"href": f"{self.hub.endpoint}/verify"}
            objects.append({"oid": requested["oid"], "size": requested["size"], "actions": actions})
        self.send_json({"transfer": "basic", "objects": objects})

    def put_object(self, oid: str) -> None:
        self.hub.objects[oid] = self.body
        self.send(200)

    def verify(self) -> None:
        requested = json.loads(self.body)
        content = self.hub.objects[requested["oid"]]
        is_whole = len(content) == requested["size"] and hashlib.sha256(content).hexdigest() == requested["oid"]
        self.send(200 if is_whole else 422)

    def commit(self, repository: str) -> None:
        files = dict(self.hub.files(repository) or {})
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        commit = self.hub.add(repository, files)
        url = f"{self.hub.endpoint}/{repository}/commit/{commit}"
        self.send_json({"success": True, "commitOid": commit, "commitUrl": url})

    def info(self, repository: str, _: str | None = None, revision: str = "main") -> None:
        if self._is_hidden(repository):
            self.refuse(401, "RepoNotFound")
            return
        commits = self.hub.commits[repository]
        revision = next(reversed(commits), "") if revision in ("main", None) else revision
        if revision not in commits and commits:
            self.refuse(404, "RevisionNotFound")
            return
        siblings = [{"rfilename": name, "size": len(content)} for name, content in commits.get(revision, {}).items()]
        private = repository in self.hub.private
        self.send_json({"id": repository, "sha": revision, "private": private, "siblings": siblings})

    def resolve(self, repository: str, commit: str, name: str) -> None:
        files = None if self._is_hidden(repository) else self.hub.files(repository, commit)
        if files is None or name not in files:
            self.refuse(404, "EntryNotFound")
        else:
            self.send(200, files[name])

    def _is_hidden(self, repository: str) -> bool:
        is_known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        return repository not in self.hub.commits or (repository in self.hub.private and not is_known)

    def log_message(self, format: str, *args: object) -> None:
        pass


def at(path: str, answer: Callable[[Handler], Any]) -> Fault:
    """A fault: `answer` handles requests whose path contains this text."""
    return lambda request: path in request.url and (answer(request), True)[1]


ROUTES: dict[str, Callable[..., None]] = {
    "POST /api/validate-yaml": Handler.validate,
    "POST /api/repos/create": Handler.create,
    "POST /api/models/([^/]+/[^/]+)/preupload/main": Handler.preupload,
    r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch": Handler.batch,
    "PUT /objects/([0-9a-f]+)": Handler.put_object,
    "POST /verify": Handler.verify,
    "POST /api/models/([^/]+/[^/]+)/commit/main": Handler.commit,
    "GET /api/models/([^/]+/[^/]+)(/revision/(.+))?": Handler.info,
    "GET /([^/]+/[^/]+)/resolve/([^/]+)/(.+)": Handler.resolve,
}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers at its `endpoint` until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
