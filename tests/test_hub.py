"""Pushing models to a hub on this machine: what is sent, what is read back, and what is refused first."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pocket_resnet
from hub_server import TOKEN, Handler, Hub, at
from pocket_resnet.errors import ArtifactError, EnvironmentFault, UsageError
from pocket_resnet.hub import push
from pocket_resnet.io.files import SUMS_NAME
from pocket_resnet.model.artifact import CARD_NAME, FILES, load_model


@pytest.mark.threat(61)
def test_round_trip(hub: Hub, trained: Path) -> None:
    """Push and load: equal weights, only the run's files, weights through LFS."""
    (trained / "model" / "notes.txt").write_text("mine")
    pushed = push(trained, "ann/tiny")
    files = hub.files("ann/tiny")
    assert files is not None
    assert files.keys() == {*FILES, SUMS_NAME} == pushed.num_bytes.keys()
    assert pushed.num_bytes == {name: len(content) for name, content in files.items()}
    assert pushed.address == "hf://ann/tiny"
    assert pushed.url == f"{hub.endpoint}/ann/tiny"
    assert pushed.commit in hub.commits["ann/tiny"]
    assert files["model.safetensors"] in hub.objects.values()
    for name in FILES:
        assert files[name] == (trained / "model" / name).read_bytes()
    loaded, original = pocket_resnet.load(pushed.address).model, load_model(trained)[0]
    assert all(loaded.state_dict()[key].equal(value) for key, value in original.state_dict().items())


@pytest.mark.threat(63)
def test_digests_of_a_folder_are_not_pushed(hub: Hub, run_folder: Path) -> None:
    """They would reveal to owners of an image that it was trained on."""
    assert (run_folder / "model" / "train_digests.u64").exists()
    push(run_folder, "ann/tiny")
    files = hub.files("ann/tiny") or {}
    assert files.keys() == {*FILES, SUMS_NAME} - {"train_digests.u64"}
    assert b"digests" not in files[SUMS_NAME]
    pocket_resnet.load("hf://ann/tiny")


@pytest.mark.threat(63)
@pytest.mark.slow
def test_the_real_command(hub: Hub, trained: Path, picture: Path, tmp_path: Path) -> None:
    """In a process of its own, with the hub's address in HF_ENDPOINT."""
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "pocket_resnet", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout

    assert f"page    {hub.endpoint}/ann/tiny, commit " in run("push", str(trained), "ann/tiny")
    [predicted] = json.loads(run("predict", "hf://ann/tiny", str(picture), "--json"))["predictions"]
    [original] = pocket_resnet.load(trained).predict(str(picture))
    assert predicted["top"][0] == {"label": original.label, "probability": pytest.approx(original.probability)}


@pytest.mark.threat(63)
def test_dry_run(hub: Hub, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Works without the hub, a token and the library."""
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("pocket_resnet.extras.find_spec", lambda _: None)
    pushed = push(trained, "ann/tiny", dry_run=True)
    assert pushed.num_bytes["model.safetensors"] == (trained / "model" / "model.safetensors").stat().st_size
    assert (pushed.url, pushed.commit) == (None, None)
    assert hub.requests == []


@pytest.mark.threat(63)
def test_private(hub: Hub, trained: Path) -> None:
    """A new repository is private; one that is public already gets nothing."""
    push(trained, "ann/secret", private=True)
    assert hub.private == {"ann/secret"}
    push(trained, "ann/secret", private=True)
    push(trained, "ann/open")
    hub.requests.clear()
    with pytest.raises(UsageError, match="exists and is public"):
        push(trained, "ann/open", private=True)
    assert not any("commit" in request or "objects" in request for request in hub.requests)


def test_card(hub: Hub, trained: Path, logged: Any) -> None:
    """Unchanged if it has front matter, completed if it has none, and created if it is missing."""
    path = trained / "model" / CARD_NAME
    own = "---\nlicense: mit\n---\n# Mine\n\nlicense: unknown\n"
    for text, expected, warns in (
        (own, own, False),
        ("# Mine\n", "# Mine\n", True),
        (None, "# tiny on synthetic\n", True),
    ):
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        logged.clear()
        push(trained, "ann/tiny")
        sent = (hub.files("ann/tiny") or {})[CARD_NAME].decode()
        assert sent.startswith("---\nlicense: ")
        assert expected in sent
        assert ("names no licence" in logged.text) == warns
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="not a text"):
        push(trained, "ann/tiny")
    path.write_bytes(b"x" * (FILES[CARD_NAME] + 1))
    with pytest.raises(ArtifactError, match="1,048,576 bytes"):
        push(trained, "ann/tiny")


@pytest.mark.parametrize("name", ["tiny", "ann/tiny/more", "hf://ann/tiny", "ann/tiny@v1", "../tiny", ""])
def test_invalid_names(name: str, hub: Hub, trained: Path) -> None:
    with pytest.raises(UsageError, match="give user/name"):
        push(trained, name)
    assert hub.requests == []


@pytest.mark.threat(63)
def test_damaged_model_is_not_pushed(hub: Hub, trained: Path) -> None:
    weights = trained / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArtifactError, match="damaged"):
        push(trained, "ann/tiny")
    assert hub.requests == []


@pytest.mark.threat(63)
def test_no_token(hub: Hub, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(EnvironmentFault, match="no token for the hub"):
        push(trained, "ann/tiny")
    assert hub.requests == []


def page(request: Handler) -> None:
    request.send(200, "<html>Log in!</html>", "text/html")


FAULTS = {
    "wrong token": (at("repos/create", lambda r: r.refuse(401, "", f"bad {TOKEN}")), "does not accept the token"),
    "no permission": (at("repos/create", lambda r: r.refuse(403, "", TOKEN)), "does not permit this"),
    "no permission to write": (at("preupload", lambda r: r.refuse(403, "", TOKEN)), "does not permit this"),
    "page": (at("repos/create", page), "a web page"),
    "page for the card": (at("validate-yaml", page), "a web page"),
    "LFS": (at("info/lfs", lambda r: r.refuse(404, "RepoNotFound")), "does not know this repository"),
    "upload": (at("/objects/", lambda r: r.refuse(403, "", TOKEN)), "does not permit this"),
    "verify": (at("/verify", lambda r: r.send(422)), "HTTP status 422"),
    "commit": (at("/commit/", lambda r: r.send(500)), "HTTP status 500"),
    "commit answer": (at("/commit/", lambda r: r.send_json({"success": True})), "cannot be read"),
    "connection": (at("repos/create", lambda r: r.connection.close()), "cannot be reached"),
}


@pytest.mark.threat(61, 63)
@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str, hub: Hub, trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line, without the token; the model is unchanged."""
    hub.fault, what = FAULTS[name]
    with pytest.raises(EnvironmentFault, match=what) as caught:
        push(trained, "ann/tiny")
    assert str(caught.value).startswith("ann/tiny: ")
    assert TOKEN not in str(caught.value) + caplog.text
    assert caught.value.__suppress_context__
    load_model(trained)


@pytest.mark.threat(61)
def test_front_matter_that_the_hub_refuses(hub: Hub, trained: Path) -> None:
    answer = '{"errors": [{"message": "\\"license\\" must be one of [...]"}], "warnings": []}'
    hub.fault = at("validate-yaml", lambda r: r.send(400, answer, "application/json"))
    with pytest.raises(UsageError, match=r"front matter"):
        push(trained, "ann/tiny")
