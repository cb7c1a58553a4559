"""Models from a hub on this machine: the right files or a clear error, and the cached copy when offline."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import pocket_resnet
from hub_server import TOKEN, Handler, Hub, at
from pocket_resnet.errors import ArtifactError, EnvironmentFault, PocketError, UsageError
from pocket_resnet.io import hub as module
from pocket_resnet.io.files import SUMS_NAME
from pocket_resnet.model.artifact import FILES, find_model, load_model
from pocket_resnet.model.resnet import ResNet

ADDRESS = Path("hf://ann/tiny")
PICKLE = b"\x80\x04cposix\nsystem\n"


@pytest.fixture
def files(trained: Path) -> dict[str, bytes]:
    """The files of a model, as `push` uploads them."""
    return {path.name: path.read_bytes() for path in (trained / "model").iterdir()}


@pytest.fixture
def commit(hub: Hub, files: dict[str, bytes]) -> str:
    """The commit of the repository ann/tiny, which has the model and other files."""
    others = {"pytorch_model.bin": PICKLE, "../../escaped": b"x", "notes/plan.txt": b"x", ".gitattributes": b"x"}
    return hub.add("ann/tiny", files | others)


def same_weights(first: ResNet, second: ResNet) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(states[0][key].equal(states[1][key]) for key in states[0])


def data(tmp_path: Path) -> list[str]:
    """The files in the data folder, without locks."""
    names = (path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*"))
    return sorted(name for name in names if not name.endswith(".lock"))


@pytest.mark.threat(62)
def test_load(hub: Hub, commit: str, trained: Path, tmp_path: Path) -> None:
    """The known files are downloaded, other files are not requested, and the second time nothing is downloaded."""
    model = pocket_resnet.load("hf://ann/tiny").model
    assert same_weights(model, load_model(trained)[0])
    folder = tmp_path / "data" / "hub" / "ann" / "tiny" / commit
    assert {path.name for path in folder.iterdir()} == {*FILES, SUMS_NAME}
    assert not any("bin" in request or "escaped" in request or "notes" in request for request in hub.requests)
    num_requests = len(hub.requests)
    assert find_model(ADDRESS) == folder
    assert hub.requests[num_requests:] == ["GET /api/models/ann/tiny/revision/main"]


@pytest.mark.usefixtures("commit", "synthetic")
def test_evaluate_looks_up_once(hub: Hub) -> None:
    evaluation = pocket_resnet.evaluate("hf://ann/tiny", data="synthetic")
    assert evaluation.num_images == 6
    assert sum("/api/" in request for request in hub.requests) == 1


@pytest.mark.threat(61)
def test_revisions(hub: Hub, commit: str, files: dict[str, bytes]) -> None:
    """A cached commit needs no hub; a branch follows the hub."""
    pinned = Path(f"hf://ann/tiny@{commit}")
    assert find_model(pinned).name == commit
    newer = hub.add("ann/tiny", files | {"README.md": b"# Newer\n"})
    assert find_model(ADDRESS).name == newer
    num_requests = len(hub.requests)
    assert find_model(pinned).name == commit
    assert len(hub.requests) == num_requests
    with pytest.raises(EnvironmentFault, match="revision") as caught:
        find_model(Path("hf://ann/tiny@v2"))
    assert str(caught.value).startswith("hf://ann/tiny@v2: ")


ANSWERS: dict[str, Callable[[Handler], None]] = {
    "login page": lambda request: request.send(200, "<html>Log in!</html>", "text/html"),
    "list": lambda request: request.send_json(["no", "model"]),
    "commit that is a path": lambda request: request.send_json({"id": "ann/tiny", "sha": "../../..", "siblings": []}),
    "broken": lambda request: request.send(503),
    "busy": lambda request: request.send(429),
}
UNREACHABLE = {
    "nobody listens": "the hub cannot be reached",
    "offline": "HF_HUB_OFFLINE is set",
    "login page": "cannot be read: it may be a web page",
    "list": "cannot be read",
    "commit that is a path": "cannot be read",
    "broken": "HTTP status 503",
    "busy": "HTTP status 429",
}


@pytest.mark.threat(61)
@pytest.mark.parametrize("name", UNREACHABLE)
def test_without_the_hub_the_cached_copy_is_used(
    name: str, hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch, logged: Any
) -> None:
    """With a warning; without an intact copy, the hub's fault is the error."""
    folder = find_model(ADDRESS)
    if name == "nobody listens":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    elif name == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        hub.fault = at("/api/", ANSWERS[name])
    assert find_model(ADDRESS) == folder
    [line] = [record.getMessage() for record in logged.records if record.levelname == "WARNING"]
    assert line.startswith("hf://ann/tiny: ")
    assert f"using the copy of commit {commit[:12]} in {folder}" in line
    (folder / "model.safetensors").write_bytes(b"damaged")
    for address in (ADDRESS, Path("hf://ann/tiny@v1"), Path("hf://ann/other")):
        with pytest.raises(EnvironmentFault, match=UNREACHABLE[name]):
            find_model(address)


@pytest.mark.threat(61)
@pytest.mark.usefixtures("commit")
def test_damaged_copy_is_downloaded_again() -> None:
    weights = find_model(ADDRESS) / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    find_model(ADDRESS)
    assert weights.read_bytes() == content


SUM_OF_ANOTHER = b"0" * 64 + b"  config.json\n"
NO_MODELS: dict[str, tuple[dict[str, bytes | None], str]] = {
    "only a pickle": ({"model.safetensors": None, "model.pt": PICKLE}, r"its model is a pickle \(model.pt\)"),
    "nothing": (dict.fromkeys((*FILES, SUMS_NAME)), "missing"),
    "no sums": ({SUMS_NAME: None}, "no model of pocket-resnet: SHA256SUMS missing"),
    "other weights": ({"model.safetensors": b"x" * 1000}, "model.safetensors: damaged: SHA-256 is"),
    "other card": ({"config.json": b"{}"}, "config.json: damaged: SHA-256 is"),
    "no sum of the weights": ({SUMS_NAME: SUM_OF_ANOTHER}, r"model.safetensors, train_digests.u64: either .* missing"),
    "path in the sums": ({SUMS_NAME: b"0" * 64 + b"  ../config.json\n"}, "SHA256SUMS: line 1 is not"),
    "no digests": ({"train_digests.u64": None}, "train_digests.u64: either the file or its sum"),
}


@pytest.mark.threat(62)
@pytest.mark.parametrize("name", NO_MODELS)
def test_no_model(name: str, hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    """Refused in one line; nothing is kept, and a pickle is not downloaded."""
    changes, what = NO_MODELS[name]
    hub.add("ann/tiny", {key: value for key, value in (files | changes).items() if value is not None})
    with pytest.raises(ArtifactError, match=what) as caught:
        find_model(ADDRESS)
    assert str(caught.value).startswith("hf://ann/tiny: ")
    assert not any("config.json" in kept for kept in data(tmp_path))
    if name in ("only a pickle", "nothing", "no sums"):
        assert not any("resolve" in request for request in hub.requests)


@pytest.mark.threat(62)
@pytest.mark.parametrize("size", [FILES["config.json"] + 1, 10**15, -1, None, "9", True])
def test_sizes_are_limited_before_the_download(size: Any, hub: Hub, files: dict[str, bytes], commit: str) -> None:
    siblings = [{"rfilename": name, "size": size if name == "config.json" else len(files[name])} for name in files]
    answer = {"id": "ann/tiny", "sha": commit, "siblings": siblings}
    hub.fault = at("/api/", lambda request: request.send_json(answer))
    with pytest.raises(ArtifactError, match=r"config.json has .* bytes, the limit is 4,194,304"):
        find_model(ADDRESS)
    assert not any("resolve" in request for request in hub.requests)


def cut(request: Handler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "5000")
    request.end_headers()
    request.wfile.write(b"x" * 100)


def longer(request: Handler) -> None:
    request.send(200, b"x" * 10_000_000)


FILE_FAULTS: dict[str, tuple[Callable[[Handler], Any], str]] = {
    "cut": (cut, "connection broke|cut off after 100 of"),
    "shorter": (lambda request: request.send(200, b"x"), "cut off after 1 of"),
    "longer": (longer, "more than the stated"),
    "stall": (lambda _: time.sleep(0.8), "did not answer in time"),
    "html": (lambda request: request.send(200, "<html>", "text/html"), "a web page instead of the file"),
    "broken": (lambda request: request.send(502), "HTTP status 502"),
    "401": (lambda request: request.refuse(401, "RepoNotFound"), "does not accept the token"),
    "gated": (lambda request: request.refuse(403, "GatedRepo", TOKEN), "does not permit this"),
    "404": (lambda request: request.refuse(404, "EntryNotFound"), "does not know this"),
}


@pytest.mark.threat(61)
@pytest.mark.parametrize("name", FILE_FAULTS)
def test_faults_of_a_download(name: str, hub: Hub, commit: str, tmp_path: Path) -> None:
    """One line, without the token; nothing is kept, and the next attempt finds a whole model."""
    answer, what = FILE_FAULTS[name]
    hub.fault = at("model.safetensors", answer)
    with pytest.raises(EnvironmentFault, match=what) as caught:
        find_model(ADDRESS)
    assert TOKEN not in str(caught.value)
    assert not any(".safetensors" in kept or ".tmp" in kept for kept in data(tmp_path))
    hub.fault = None
    assert find_model(ADDRESS).name == commit


@pytest.mark.threat(61)
def test_two_at_once(hub: Hub, commit: str) -> None:
    """One downloads, the other waits for it."""
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(find_model(ADDRESS))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [folder.name for folder in folders] == [commit, commit]
    assert sum("model.safetensors" in request for request in hub.requests) == 1


@pytest.mark.threat(61)
def test_remains_of_a_killed_download_on_the_hub_are_removed(commit: str, tmp_path: Path) -> None:
    left = tmp_path / "data" / "hub" / "ann" / "tiny" / f".tmp-1-{commit}"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    find_model(ADDRESS)
    assert not left.exists()


@pytest.mark.threat(62)
@pytest.mark.parametrize(
    "name", ["ann", "ann/..", "../tiny", "ann/tiny/more", "ann/ti ny", "ann/tiny@../x", "ann/a--b"]
)
def test_invalid_addresses_on_the_hub(name: str, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        find_model(Path(f"hf://{name}"))
    assert hub.requests == []
    assert data(tmp_path) == []


@pytest.mark.threat(63)
@pytest.mark.usefixtures("commit")
def test_private_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token goes to the hub and nowhere else: it is in no file and no message."""
    hub.private.add("ann/tiny")
    folder = find_model(ADDRESS)
    assert set(hub.tokens) == {f"Bearer {TOKEN}"}
    assert not any(TOKEN.encode() in path.read_bytes() for path in folder.parent.rglob("*") if path.is_file())
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(EnvironmentFault, match="hf auth login"):
        find_model(ADDRESS)


@pytest.mark.threat(63)
@pytest.mark.parametrize("token", ["hf_sec\nret", "hf_sécret", "hf_sec ret", "hf_sec\x07ret"])
@pytest.mark.usefixtures("commit")
def test_token_that_cannot_be_sent(token: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: token)
    with pytest.raises(PocketError, match="characters that no token has") as caught:
        find_model(ADDRESS)
    assert "ret" not in str(caught.value)
    assert hub.requests == []


@pytest.mark.usefixtures("commit")
def test_data_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("POCKET_RESNET_DATA", str(tmp_path / "file"))
    with pytest.raises(EnvironmentFault, match=r"POCKET_RESNET_DATA"):
        find_model(ADDRESS)


@pytest.mark.threat(61)
@pytest.mark.usefixtures("hub")
def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocket_resnet.extras.find_spec", lambda _: None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'pocket-resnet\[hub\]'"):
        find_model(ADDRESS)


@pytest.mark.threat(62)
def test_model_of_a_newer_format(hub: Hub, files: dict[str, bytes]) -> None:
    """It is intact, so it is kept; loading it says what to do."""
    config = json.dumps(json.loads(files["config.json"]) | {"format": 99}).encode()
    contents = {name: content for name, content in (files | {"config.json": config}).items() if name != SUMS_NAME}
    hub.add("ann/tiny", contents | {SUMS_NAME: module.sums.of(contents)})
    with pytest.raises(ArtifactError, match="upgrade pocket-resnet"):
        pocket_resnet.load("hf://ann/tiny")
