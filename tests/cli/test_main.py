"""The command line: help, exit codes, one JSON object, and errors without a traceback."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pocket_resnet.cli import commands, train_flags
from pocket_resnet.cli.commands import COMMANDS
from pocket_resnet.recipe.base import dotted
from pocket_resnet.recipe.schema import Recipe

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_with_an_example(name: str, run: Run) -> None:
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert f"\npocket-resnet {name} " in out.replace("│", "").replace("  ", "\n")
    assert f"usage: pocket-resnet {name}" in out
    assert not re.search("pocket-resnet .*pocket-resnet ", out)  # one example per line
    assert "(default: None)" not in out


def test_train_help_shows_common_flags_first(run: Run) -> None:
    flags: dict[str, list[str]] = {}
    title = ""
    for line in run("train", "--help")[1].splitlines():
        if match := re.fullmatch(r"[ ╭─]*((?:\w+ )?options)[ ─╮]*", line):
            title = match[1]
        elif match := re.match(r"[ │]*--(\w[\w.-]*)", line):
            flags.setdefault(title, []).append(match[1])
    assert list(flags)[:4] == ["common options", "other options", "recipe options", "model options"]
    common = train_flags.COMMON[train_flags.Train]
    assert flags["common options"] == ["from" if name == "from_model" else name.replace("_", "-") for name in common]
    keys = {
        key.replace("_", "-") for key in dotted(Recipe().model_dump()) if not key.endswith(train_flags.WITHOUT_FLAG)
    }
    assert keys <= {flag for box in flags.values() for flag in box}


def test_overview_names_every_command(run: Run) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        assert all(f"  {name} " in out for name in COMMANDS)
        assert "pocket-resnet train fast --data digits" in out
    assert run("--version")[1].startswith("pocket-resnet 0.")


def test_help_and_summary_do_without_torch() -> None:
    """They start fast because they import nothing heavy."""
    code = f"""
import sys
from pocket_resnet.cli.main import main
for arguments in [*([name, "--help"] for name in {list(COMMANDS)}), ["--help"], ["summary", "original", "--json"]]:
    try:
        main(arguments)
    except SystemExit as error:
        assert not error.code, error.code
    heavy = {{"torch", "numpy", "PIL", "matplotlib", "safetensors", "requests"}} & sys.modules.keys()
    assert not heavy, (arguments, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_flag_is_usage(name: str, run: Run) -> None:
    arguments = {"train": ["fast"], "search": ["fast"], "predict": ["x", "y"], "push": ["x", "y"]}.get(name, ["x"])
    code, out, err = run(name, *arguments, "--no-such-flag")
    assert code == 2
    assert out == ""
    assert "--no-such-flag" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("flag", "meant"), [("--batchsize", "--batch-size"), ("--optim.lrr", "--optim.lr")])
def test_flags_near_a_known_one_are_suggested(flag: str, meant: str, run: Run) -> None:
    code, _, err = run("train", "fast", flag, "1")
    assert code == 2
    assert err.splitlines()[0].endswith(f", did you mean `{meant}`?")


def test_flags_that_only_the_help_mentions_are_not_suggested(run: Run) -> None:
    code, _, err = run("search", "fast", "--from", "x")
    assert code == 2
    assert err.startswith("pocket-resnet: unknown option `--from`")
    assert "did you mean `--from`" not in err


USAGE = {
    "name": (("trian",), "unknown command `trian`, did you mean `train`?"),
    "recipe": (("train", "fsat"), "unknown recipe `fsat`, did you mean `fast`?"),
    "recipe file": (("train", "none.toml"), "none.toml: no such recipe file"),
    "budget": (("train", "fast", "--budget", "5X"), "budget '5X' is not a number of parameters"),
    "range": (("train", "fast", "--optim.lr", "-1"), "`optim.lr` = -1.0: input should be greater"),
    "network": (("train", "fast", "--model.widths", "1", "2"), "stages must agree in number"),
    "data": (("data", "cifar11"), "cifar11: no data set or folder has this name"),
    "data of train": (("train", "fast", "--data", "cifar11"), "cifar11: no data set"),
    "too small a budget": (("train", "fast", "--data", "digits", "--budget", "10"), "the smallest has"),
    "summary": (
        ("summary", "orignal"),
        "'orignal' is not a model directory, recipe or network, did you mean `original`?",
    ),
    "model": (("evaluate", "no-such-model"), "no-such-model: no model here"),
    "model to predict": (("predict", "no-such-model", "x.png"), "no-such-model: no model here"),
    "run name": (("train", "fast", "--data", "digits", "--run", "../x"), "not a plain folder name"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors(case: str, run: Run) -> None:
    """Exit code 2 and at most two lines: what and where, how to fix it. Notices about the data come first."""
    arguments, message = USAGE[case]
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    notices, _, error = err.rpartition("pocket-resnet: ")
    assert not notices or "digits" in arguments
    assert message in error
    assert error.count("\n") <= 2


def test_data_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    code, out, err = run("data", tmp_path / "pictures")
    assert (code, out) == (3, "")
    assert "cat" in err
    assert err.count("\n") == 2


def test_damaged_model(run: Run, trained: Path, picture: Path) -> None:
    weights = trained / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run("--version")  # discards the output of the training
    for arguments in (("evaluate", trained), ("predict", trained, picture), ("summary", trained)):
        code, out, err = run(*arguments)
        assert (code, out) == (4, "")
        assert "model.safetensors: damaged" in err
        assert err.endswith("\n  use an intact copy, or train again\n")
        assert err.count("\n") == 2


@pytest.mark.usefixtures("synthetic")
def test_environment_fault(run: Run, recipe_path: Path, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    code, out, err = run("train", recipe_path, "--runs-dir", tmp_path / "a file" / "runs")
    assert (code, out) == (5, "")
    assert "cannot write: Not a directory" in err


def test_unfinished_run(run: Run, trained: Path) -> None:
    (trained / "model" / "config.json").unlink()
    code, _, err = run("evaluate", trained)
    assert code == 2
    assert f"pocket-resnet train {trained}/recipe.toml --resume --run r --runs-dir {trained.parent}" in err


def test_debug_shows_the_traceback(run: Run) -> None:
    for arguments in (("--debug", "summary", "orignal"), ("summary", "orignal", "--debug")):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert "Traceback" in err
        assert "in find_spec" in err
        assert err.splitlines()[-2].startswith("pocket-resnet: ")


def test_interruption_outside_training(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.Summary, "execute", interrupt)
    assert run("summary", "original") == (130, "", "pocket-resnet: stopped\n")


@pytest.mark.threat(57)
def test_home_in_paths(run: Run, trained: Path, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells do not expand `~` in `--out=~/output.json`; programs pass arguments without a shell."""
    monkeypatch.setenv("HOME", str(picture.parent))
    relative = trained.relative_to(picture.parent)
    run("--version")  # discards the output of the training
    for arguments in (("summary", f"~/{relative}"), ("predict", f"~/{relative}", f"~/{picture.name}")):
        code, _, err = run(*arguments, "--out=~/output.json")
        assert (code, err) == (0, f"wrote {picture.parent}/output.json\n")
    assert run("train", "~/none.toml")[2].startswith(f"pocket-resnet: {picture.parent}/none.toml: no such recipe")
