"""A disk that is full, folders that cannot be written: exit 5, path and need named, earlier files whole."""

import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pocket_resnet.cli.main import main
from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import to_toml
from pocket_resnet.training import callbacks, checkpoint, run_folder
from pocket_resnet.training.metrics import read_metrics
from pocket_resnet.training.result import read_result
from pocket_resnet.training.run import train

NOBODY = 65_534


@pytest.fixture
def arguments(make_recipe: Callable[..., Recipe], synthetic: Any, tmp_path: Path) -> list[str]:  # noqa: ARG001
    (tmp_path / "tiny.toml").write_text(to_toml(make_recipe()))
    return ["train", str(tmp_path / "tiny.toml"), "--run", "r", "--resume", "--no-report", "--runs-dir"]


@pytest.mark.threat(5)
@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (1_000, "r/recipe.toml: the disk is full ("),
        (20_000, "r/checkpoints/step-000003: the disk is full ("),
    ],
)
def test_disk_full(
    limit: int, message: str, arguments: list[str], tmp_path: Path, start_child: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Earlier checkpoints stay, and with space again the run resumes."""
    main([*arguments, str(tmp_path), "--max-steps", "2"])
    capfd.readouterr()

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        main([*arguments, str(tmp_path)])

    assert start_child(work).wait() == 5
    printed = capfd.readouterr().err
    assert message in printed
    assert "bytes needed" in printed
    assert "Traceback" not in printed
    newest = checkpoint.load_newest(tmp_path / "r" / "checkpoints") or pytest.fail("nothing left")
    assert newest[0].step == 2
    assert (tmp_path / "r" / "model" / "config.json").exists()
    main([*arguments, str(tmp_path)])


MOMENTS = {
    "metrics": (callbacks, "append_line", "r/metrics.jsonl"),
    "model": (run_folder, "save_model", "r/model"),
    "result": (run_folder, "json_bytes", "r/result.json"),
    "digests": (run_folder, "write_bytes", "r/train_digests.u64"),
}


@pytest.mark.threat(5)
@pytest.mark.parametrize("moment", MOMENTS)
def test_disk_full_when(
    moment: str,
    arguments: list[str],
    tmp_path: Path,
    start_child: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At metrics, model, result, digests; earlier files stay, and with space again the run finishes."""
    owner, name, path = MOMENTS[moment]
    main([*arguments, str(tmp_path), "--max-steps", "2"])
    model = (tmp_path / "r/model/model.safetensors").read_bytes()
    whole, (readable, writable) = getattr(owner, name), os.pipe()

    def full(*values: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        return whole(*values)

    def work() -> None:
        os.dup2(writable, sys.stderr.fileno())  # the limit holds for a file that standard error is captured in, too
        main([*arguments, str(tmp_path)])

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, full)
        assert start_child(work).wait() == 5
    printed = os.read(readable, 100_000).decode()
    assert f"{path}: the disk is full (" in printed
    assert "bytes needed" in printed
    assert "Traceback" not in printed
    kept = (tmp_path / "r/model/model.safetensors").read_bytes()
    assert kept == model or moment == "result"
    assert not list(tmp_path.rglob(".tmp-*"))
    main([*arguments, str(tmp_path)])
    assert [record["step"] for record in read_metrics(tmp_path / "r/metrics.jsonl")] == [2, 4]
    assert read_result(tmp_path / "r/result.json").steps == 4


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that everyone may read and no one may write."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o555)
        yield path
        path.chmod(0o755)


@pytest.mark.threat(13)
def test_read_only_folder(
    make_recipe: Callable[..., Recipe],
    synthetic: Any,  # noqa: ARG001
    read_only: Path,
    start_child: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Exit 5 before any work."""

    def work() -> None:
        if os.getuid() == 0:
            os.setuid(NOBODY)
        try:
            train(make_recipe(), runs_dir=read_only / "runs", run="r")
        except EnvironmentFault as error:
            print(error)
            sys.exit(error.exit_code)

    assert start_child(work).wait() == 5
    captured = capfd.readouterr()
    assert f"{read_only}/runs/r/.lock: cannot write: Permission denied" in captured.out
    assert "choose a writable folder" in captured.out
    assert captured.err == ""


@pytest.mark.threat(13)
def test_read_only_cache_folder(
    make_recipe: Callable[..., Recipe], start_child: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit 5 before any work, where the pixels of one's own images are to be kept."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for class_name in ("a", "b"):
            (root / "pictures" / class_name).mkdir(parents=True)
            for number in range(3):
                picture = Image.new("RGB", (8, 8), (number, ord(class_name), 0))
                picture.save(root / "pictures" / class_name / f"{number}.png")
        (root / "cache").mkdir()
        (root / "cache").chmod(0o555)
        (root / "runs").mkdir()
        root.chmod(0o755)
        (root / "runs").chmod(0o777)
        recipe = make_recipe(data={"name": str(root / "pictures")}, batch_size=2)

        def work() -> None:
            if os.getuid() == 0:
                os.setuid(NOBODY)
            try:
                train(recipe, data_dir=root / "cache", runs_dir=root / "runs")
            except EnvironmentFault as error:
                print(error)
                sys.exit(error.exit_code)

        assert start_child(work).wait() == 5
        assert "cannot write: Permission denied" in capfd.readouterr().out
        assert list((root / "runs").iterdir()) == []
