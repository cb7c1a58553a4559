"""A disk that is full, folders that cannot be written: exit 5, path and need named, earlier files whole."""

import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.cli import main
from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.recipe import Recipe
from pocket_resnet.recipe_toml import to_toml
from pocket_resnet.training import checkpoint
from pocket_resnet.training.run import train

NOBODY = 65_534


@pytest.fixture
def arguments(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> list[str]:  # noqa: ARG001
    (tmp_path / "tiny.toml").write_text(to_toml(make_recipe()))
    return ["train", str(tmp_path / "tiny.toml"), "--run", "r", "--resume", "--runs-dir"]


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (1_000, "r/recipe.toml: the disk is full ("),
        (20_000, "r/checkpoints/step-000003: the disk is full ("),
    ],
)
def test_disk_full(
    limit: int, told: str, arguments: list[str], tmp_path: Path, start_child: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Row 5: the checkpoints from before stay, and with space again the run goes on."""
    main([*arguments, str(tmp_path), "--max-steps", "2"])
    capfd.readouterr()

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        main([*arguments, str(tmp_path)])

    assert start_child(work).wait() == 5
    said = capfd.readouterr().err
    assert told in said
    assert "bytes needed" in said
    assert "Traceback" not in said
    found = checkpoint.load_newest(tmp_path / "r" / "checkpoints") or pytest.fail("nothing left")
    assert (found[0].step, found[2]) == (2, [])
    assert (tmp_path / "r" / "model" / "config.json").exists()
    main([*arguments, str(tmp_path)])


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that everyone may read and nobody write."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o555)
        yield path
        path.chmod(0o755)


def test_read_only_folder(
    make_recipe: Callable[..., Recipe],
    synthetic: Any,  # noqa: ARG001
    read_only: Path,
    start_child: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Row 13: exit 5 before any work."""

    def work() -> None:
        if os.getuid() == 0:
            os.setuid(NOBODY)
        try:
            train(make_recipe(), runs_dir=read_only / "runs", run="r")
        except EnvironmentFault as error:
            print(error)
            sys.exit(error.exit_code)

    assert start_child(work).wait() == 5
    said = capfd.readouterr()
    assert f"{read_only}/runs/r/.lock: cannot write: Permission denied" in said.out
    assert "choose a folder that can be written" in said.out
    assert said.err == ""
