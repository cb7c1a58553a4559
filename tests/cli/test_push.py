"""The command `push`: its text and JSON."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hub_server import TOKEN, Hub

Run = Callable[..., tuple[int, str, str]]


def test_push(run: Run, hub: Hub, trained: Path, tmp_path: Path) -> None:
    code, out, err = run("push", trained, "ann/tiny", "--private")
    assert code == 0
    [commit] = hub.commits["ann/tiny"]
    assert out.splitlines()[0].split() == ["model.safetensors", f"{(weights(trained)):,}", "bytes"]
    assert out.splitlines()[-2:] == [
        f"page    {hub.endpoint}/ann/tiny, commit {commit[:12]}",
        "next    pocket-resnet evaluate hf://ann/tiny",
    ]
    assert "the card names no licence" in err
    assert TOKEN not in out + err
    result = json.loads(run("push", trained, "ann/tiny", "--private", "--json", "--out", tmp_path / "output.json")[1])
    assert result == json.loads((tmp_path / "output.json").read_text())
    assert result["address"] == "hf://ann/tiny"
    assert result["num_bytes"]["model.safetensors"] == weights(trained)


def weights(run_folder: Path) -> int:
    return (run_folder / "model" / "model.safetensors").stat().st_size


def test_dry_run(run: Run, hub: Hub, trained: Path) -> None:
    code, out, _ = run("push", trained, "ann/tiny", "--dry-run")
    assert code == 0
    assert out.splitlines()[-1] == "nothing was sent (--dry-run)"
    assert hub.requests == []


@pytest.mark.usefixtures("synthetic", "hub")
def test_commands_take_addresses(run: Run, trained: Path, picture: Path) -> None:
    """`evaluate`, `predict` and `summary` give the same output for a model on the hub as for its original."""
    run("push", trained, "ann/tiny")
    for arguments in (("evaluate", "--data", "synthetic", "--json"), ("predict", picture), ("summary",)):
        (code, out, _), original = (run(arguments[0], model, *arguments[1:]) for model in ("hf://ann/tiny", trained))
        assert code == 0
        assert out.replace("hf://ann/tiny", str(trained)) == original[1]


@pytest.mark.threat(61)
@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (("evaluate", "hf://ann"), 2, "'ann' is not a name on the hub"),
        (("evaluate", "hf://ann/none"), 5, "hf://ann/none: the hub does not know this repository"),
        (("evaluate", "hf://ann/pickle"), 4, "hf://ann/pickle: its model is a pickle (pytorch_model.bin)"),
        (("push", "no-model", "ann/tiny"), 2, "no model here"),
        (("push", "no-model", "tiny"), 2, "'tiny' is not a name on the hub"),
    ],
)
def test_errors(arguments: tuple[str, ...], code: int, what: str, run: Run, hub: Hub) -> None:
    """One line and a hint."""
    hub.add("ann/pickle", {"pytorch_model.bin": b"\x80", "config.json": b"{}"})
    exit_code, out, err = run(*arguments)
    assert (exit_code, out) == (code, "")
    assert err.startswith("pocket-resnet: ")
    assert what in err
    assert len(err.splitlines()) == 2
    assert TOKEN not in run(*arguments, "--debug")[2]
