"""The Python interface, from data to report; it imports fast."""

import ast
import inspect
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest

import pocket_resnet
from pocket_resnet import plots
from pocket_resnet.errors import UsageError

ROOT = Path(__file__).parents[1]
FUNCTIONS = [
    *(getattr(pocket_resnet, name) for name in pocket_resnet.__all__ if name[0].islower()),
    *(getattr(plots, name) for name in plots.__all__),
]
HEAVY = ("matplotlib", "numpy", "pydantic", "torch")


def example(function: Any) -> list[ast.stmt]:
    """The statements of the example that ends the docstring."""
    _, _, code = inspect.getdoc(function).partition("Example:\n\n")
    return ast.parse(textwrap.dedent(code)).body


def test_import_is_light() -> None:
    code = f"import pocket_resnet, sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_training_does_not_import_torchs_compiler(tmp_path: Path) -> None:
    """It would take seconds (docs/log.md)."""
    code = """
import sys, pocket_resnet
pocket_resnet.train("fast", data="digits", max_steps=1, progress=False)
print([name for name in sys.modules if name in ("torch._dynamo", "sympy")])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_example_calls_the_function_as_it_is(function: Any) -> None:
    """Two lines; every call of the package binds to its signature."""
    statements = example(function)
    assert len(statements) == 2
    called = []
    for call in (node for statement in statements for node in ast.walk(statement) if isinstance(node, ast.Call)):
        module, _, name = ast.unparse(call.func).rpartition(".")
        if module in ("pocket_resnet", "plots"):
            target = getattr(plots if module == "plots" else pocket_resnet, name)
            inspect.signature(target).bind(*call.args, **{word.arg: word.value for word in call.keywords})
            called.append(target)
    assert function in called


def test_wheel_has_the_data_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = (
        path for path in ROOT.glob("src/pocket_resnet/**/*") if path.is_file() and path.suffix not in (".py", ".pyc")
    )
    needed = {path.relative_to(ROOT / "src").as_posix() for path in files}
    assert {path.rpartition(".")[2] for path in needed} >= {"jinja", "css", "js", "svg", "xz", "npz", "typed"}
    assert needed <= names
    assert {f"pocket_resnet/recipes/{path.name}" for path in ROOT.glob("recipes/*.toml")} <= names
    assert {f"pocket_resnet/{path.relative_to(ROOT)}" for path in ROOT.glob("models/pocket-100k/*")} <= names


def test_from_data_to_report(tmp_path: Path) -> None:
    data = pocket_resnet.open_data("digits")
    val = data.split("val")
    network = pocket_resnet.design("20K", epochs=1)
    assert network.num_params <= 20_000
    tiny = {"budget": "20K", "min_steps": 0, "max_steps": 2, "batch_size": 64, "norm_images": 64}
    result = pocket_resnet.train("fast", data="digits", runs_dir=tmp_path, run="r", **tiny)
    evaluation = pocket_resnet.evaluate(result.model)
    assert evaluation.accuracy == result.accuracy
    assert evaluation.labels_N.tolist() == val.labels_N.tolist()
    assert evaluation.probabilities_NK.shape == (len(val), len(data.class_names))
    predictions = pocket_resnet.load(result.model).predict(val.images_NCHW[:4])
    predicted = evaluation.probabilities_NK[:4].argmax(1).tolist()
    assert [each.label for each in predictions] == [data.class_names[k] for k in predicted]
    assert pocket_resnet.write_report(tmp_path / "r", out=tmp_path / "page") == tmp_path / "page" / "report.html"


def test_design_takes_numbers_and_text() -> None:
    assert pocket_resnet.design(1_000_000) == pocket_resnet.design("1M")
    small = pocket_resnet.design("1M", max_macs=20_000_000, max_bytes="1MB")
    assert small.num_macs <= 20_000_000
    assert small.num_bytes <= 1_000_000
    with pytest.raises(UsageError, match="epochs"):
        pocket_resnet.design(epochs=0)


@pytest.mark.parametrize(
    ("keyword", "meant"),
    [
        ("optim_lr", "optim__lr"),
        ("learning_rate", "optim__lr"),
        ("lr", "optim__lr"),
        ("epoch", "epochs"),
        ("optim__lrr", "optim__lr"),
    ],
)
def test_unknown_keywords_suggest_the_right_one(keyword: str, meant: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"unknown `{keyword}`, did you mean `{meant}`?"):
        pocket_resnet.train("fast", data="digits", runs_dir=tmp_path, **{keyword: 1})
    assert not list(tmp_path.iterdir())
