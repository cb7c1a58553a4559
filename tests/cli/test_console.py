"""Tables printed for people keep their columns."""

import errno
import io
import logging
import re
import sys

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from pocket_resnet.cli import console
from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.source import Verification, describe
from pocket_resnet.inference.classifier import Prediction
from pocket_resnet.inference.evaluation import Evaluation
from pocket_resnet.inference.predict import FilePrediction
from pocket_resnet.recipe.summary import find_spec


def test_evaluation_names_the_worst_mistake_of_each_class(capsys: pytest.CaptureFixture[str]) -> None:
    """The most frequent one; of two as frequent, the first. A class without images has no figures."""
    predicted_N = torch.tensor([0, 1, 2, 2, 2, 1, 1, 0])
    labels_N = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    found = Evaluation(torch.eye(4)[predicted_N], labels_N, ("cat", "dog", "fox", "[emu]"), "val", caveat="no estimate")
    console.print_evaluation(found)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "accuracy 37.50% (95%: 13.68% to 69.43%) of 8 images, split val, single view, fp32"
    assert out[1] == "no estimate"
    rows = {words[0]: words[1:] for line in out if (words := line.split())}
    assert rows["cat"] == ["4", "25.0%", "4.6%", "to", "69.9%", "fox", "(2)"]
    assert rows["dog"][-2:] == ["cat", "(1)"]
    assert rows["fox"] == rows["[emu]"] == ["0", "-", "-", "-"]


def test_predictions_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    top = (("cat", 0.9), ("dog", 0.1))
    predictions = [Prediction(*top[0], top[:count]) for count in (2, 1)]
    console.print_predictions([FilePrediction("a.png", predictions[0]), FilePrediction("b.png", predictions[1])])
    assert capsys.readouterr().out == "a.png: cat 90.0%, dog 10.0%\nb.png: cat 90.0%\n"


def test_tables_are_not_cut_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe has no width; nothing is cut off."""
    monkeypatch.setenv("COLUMNS", "20")
    spec = find_spec("original")
    console.print_summary("original", spec)
    out = capsys.readouterr().out
    assert "original: 4,697,742 parameters" in out
    assert "…" not in out


def test_description_counts_each_class(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_description(describe(open_source("digits"), Verification(1)))
    out = capsys.readouterr().out
    assert "digits: 10 classes" in out
    assert "1,197 train, 300 val, 300 test" in out
    assert "verified" in out


def test_class_names_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("[red]", "[/x]", ":cat:", "two\nlines")
    evaluation = Evaluation(torch.eye(4), torch.arange(4), names, "val")
    console.print_evaluation(evaluation)
    out = capsys.readouterr().out
    assert all(name in out for name in ("[red]", "[/x]", ":cat:", "two\\nlines"))


@pytest.mark.threat(53)
def test_names_of_odd_files_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per image, for any name and class."""
    console.print_predictions([FilePrediction("a\nb\udce9", Prediction("c\nd", 1.0, (("c\nd", 1.0),)))])
    assert capsys.readouterr().out == "a\\nb\\udce9: c\\nd 100.0%\n"


LONG = ("short-haired domestic cat", "a" * 70, "dog")


@pytest.mark.threat(53)
@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_narrow_terminals_keep_names(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and numbers are kept. A table that does not fit has two lines a row: the name and the rest."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    evaluation = Evaluation(torch.eye(3), torch.arange(3), LONG, "val")
    console.print_evaluation(evaluation)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "…" not in "".join(lines)
    if columns < 140:
        rest = "images 1, accuracy 100.0%, 95% interval 20.7% to 100.0%, most often mistaken for -"
        assert [line for line in lines if line in (*LONG, rest)] == [line for name in LONG for line in (name, rest)]
    else:
        assert sum(line.startswith(LONG) and line.endswith("-") for line in lines) == 3


def test_names_in_a_pipe_are_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = Evaluation(torch.eye(3), torch.arange(3), LONG, "val")
    console.print_evaluation(evaluation)
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(f" {name} ") for line in lines) for name in LONG)


@pytest.mark.threat(59)
def test_thousands_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    """A line each."""
    names = tuple(f"class {number}" for number in range(1_000))
    evaluation = Evaluation(torch.eye(1_000), torch.arange(1_000), names, "val")
    console.print_evaluation(evaluation)
    assert capsys.readouterr().out.count("\n") < 1_010


def test_messages_about_data_go_to_standard_error_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("pocket_resnet.data.somewhere")
    for _ in range(2):  # the second command shows it again
        with console.log_to_terminal():
            for _ in range(2):
                log.info("%d skipped", 3)
            log.warning("odd [bold]names[/bold]: %s", "x" * 200)
            log.debug("not shown")
    log.info("not shown either")
    assert logging.getLogger("pocket_resnet").handlers == []
    assert capsys.readouterr() == ("", 2 * f"3 skipped\nwarning: odd [bold]names[/bold]: {'x' * 200}\n")


def test_repeated_warnings_are_printed_again(capsys: pytest.CaptureFixture[str]) -> None:
    """For example when a search's server goes away a second time."""
    with console.log_to_terminal():
        for _ in range(2):
            logging.getLogger("pocket_resnet.tuning.storage").warning("no answer, trying again")
    assert capsys.readouterr().err == 2 * "warning: no answer, trying again\n"


def test_messages_stand_above_a_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=60)
    with console.log_to_terminal(), Progress(console=terminal, auto_refresh=False) as bar:
        bar.add_task("training")
        logging.getLogger("pocket_resnet.data").warning("3 skipped")
    drawn = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"warning: 3 skipped *\r?\n.*training", drawn)
    assert capsys.readouterr().err == ""


def test_a_closed_terminal_does_not_stop_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            attempts.append(text)
            raise OSError(errno.EIO, text)

    monkeypatch.setattr(sys, "stderr", Closed())
    with console.log_to_terminal():
        logging.getLogger("pocket_resnet.data").warning("3 skipped")
    assert "3 skipped" in "".join(attempts)
