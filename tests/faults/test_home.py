"""Users without a home folder, as in containers with an arbitrary user id."""

import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither HOME nor an entry in /etc/passwd."""

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("POCKET_RESNET_DATA")
    monkeypatch.setenv("POCKET_RESNET_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.threat(52)
def test_commands_without_a_cache_work(run: Run, recipe_path: Path, tmp_path: Path) -> None:
    recipe_path.write_text(recipe_path.read_text().replace("image_size = 8", "image_size = 32"))
    words = ("--max-steps", 1, "--no-report", "--runs-dir", tmp_path / "runs", "--run", "r")
    for arguments in (
        ("train", recipe_path, "--data", "digits", *words),
        ("evaluate", tmp_path / "runs/r"),
        ("data", "digits"),
        ("summary", tmp_path / "runs/r"),
    ):
        code, _, err = run(*arguments)
        assert code == 0, err


@pytest.mark.threat(52)
def test_auto_uses_the_digits(run: Run) -> None:
    code, _, err = run("data", "auto")
    assert code == 0
    assert "there is no home folder for data: using digits instead of CIFAR-10" in err


@pytest.mark.threat(52)
@pytest.mark.parametrize("name", ["cifar10", "pictures"])
def test_commands_with_a_cache_name_the_flag(
    name: str, run: Run, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the flag, the command works."""
    for file in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        path = picture.parent / "pictures" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.read_bytes())
    monkeypatch.chdir(picture.parent)
    code, out, err = run("data", name)
    assert (code, out) == (5, "")
    assert err.startswith("pocket-resnet: there is no home folder for data\n")
    assert "--data-dir" in err
    if name == "pictures":
        assert run("data", name, "--data-dir", picture.parent / "data")[0] == 0


@pytest.mark.threat(52)
def test_a_home_that_cannot_be_written_names_the_flag(run: Run, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("a/1.png", "a/2.png"):
        path = picture.parent / "pictures" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.read_bytes())
    monkeypatch.setenv("HOME", str(picture))  # a file
    code, out, err = run("data", picture.parent / "pictures")
    assert (code, out) == (5, "")
    assert "--data-dir" in err
