"""`predict`: which images it finds, how it names them, and what it prints."""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pocket_resnet.inference import predict

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with some pictures and a file that is not an image."""
    folder = tmp_path / "here"
    for name in ("b.png", "a.png", "many/2.png", "many/deep/1.png", "odd[1].png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture.read_bytes())
    (folder / "bad.png").write_text("<html>")
    monkeypatch.chdir(folder)
    return folder


def names(out: str) -> list[str]:
    return [row["image"] for row in json.loads(out)["predictions"]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["./b.png", "a.png"], ["./b.png", "a.png"]),
        (["many"], ["many/2.png", "many/deep/1.png"]),
        (["./many/"], ["./many/2.png", "./many/deep/1.png"]),
        (["../here/many"], ["../here/many/2.png", "../here/many/deep/1.png"]),
        (["[ab].png"], ["a.png", "b.png"]),
        (["./m*"], ["./many/2.png", "./many/deep/1.png"]),
        (["many/**/*.png"], ["many/2.png", "many/deep/1.png"]),
        (["odd[1].png"], ["odd[1].png"]),  # a file's own name comes before a pattern
        (["a.png", "a.png", "*b.png"], ["a.png", "b.png"]),
    ],
)
@pytest.mark.usefixtures("here")
def test_images_are_named_as_they_were_given(run: Run, trained: Path, given: list[str], expected: list[str]) -> None:
    code, out, err = run("predict", trained, *given, "--json")
    assert code == 0, err
    assert names(out) == expected


@pytest.mark.usefixtures("here")
def test_csv_has_a_line_an_image(run: Run, trained: Path, tmp_path: Path) -> None:
    """As many classes as were asked for, the same as in JSON; in a file, it is not printed too."""
    words = ("predict", trained, "a.png", "many", "--top", 2)
    code, out, _ = run(*words, "--csv")
    assert code == 0
    _, printed, _ = run(*words, "--csv", "--out", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text(encoding="utf-8") == out
    assert printed == run(*words)[1]
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["image", "label", "probability", "label_2", "probability_2"]
    expected = json.loads(run(*words, "--json")[1])["predictions"]
    for row, expected_row in zip(rows, expected, strict=True):
        assert (row["image"], row["label"]) == (expected_row["image"], expected_row["label"])
        assert float(row["probability_2"]) == round(expected_row["top"][1]["probability"], 6)
    code, _, err = run(*words, "--csv", "--json")
    assert code == 2
    assert "--csv and --json cannot be combined" in err


def test_csv_quotes_odd_names(run: Run, trained: Path, picture: Path, here: Path) -> None:
    name = 'a "quoted",\nname.png'
    (here / name).write_bytes(picture.read_bytes())
    [row] = csv.DictReader(io.StringIO(run("predict", trained, name, "--csv")[1]))
    assert row["image"] == name


@pytest.mark.threat(22)
@pytest.mark.parametrize("as_csv", ["--csv", "--json"])
def test_a_bad_file_does_not_stop_the_others(
    run: Run, trained: Path, here: Path, as_csv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every batch; the exit code is 3, and each bad file is named as it was given."""
    monkeypatch.setattr(predict, "BATCH", 2)
    os.mkfifo(here / "many" / "fifo")
    code, out, err = run("predict", trained, "b.png", "./bad.png", "none*.png", "many", "many/fifo", "a.png", as_csv)
    assert code == 3
    assert "3 of 7 files cannot be read" in err
    for line in ("./bad.png: not an image", "none*.png: cannot be read: No such file", "many/fifo: not a regular file"):
        assert line in err
    predicted = names(out) if as_csv == "--json" else [row["image"] for row in csv.DictReader(io.StringIO(out))]
    assert predicted == ["b.png", "many/2.png", "many/deep/1.png", "a.png"]


def test_several_threads_give_the_same_predictions_in_order(
    run: Run, trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("predict", trained, "a.png")  # takes what training has printed
    expected = run("predict", trained, here, "--json")
    monkeypatch.setattr(predict, "BATCH", 1)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("pocket_resnet.device.num_cores", lambda: 3)
    code, out, err = run("predict", trained, here, "--json")
    assert (code, names(out), err) == (expected[0], names(expected[1]), expected[2])
    assert torch.get_num_threads() == 1


def standard_input(content: bytes, monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool = False) -> None:
    stream = io.TextIOWrapper(io.BytesIO(content))
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stdin", stream)


def test_standard_input(run: Run, trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input((here / "a.png").read_bytes(), monkeypatch)
    code, out, _ = run("predict", trained, "-", "a.png", "--json")
    assert code == 0
    piped, named = json.loads(out)["predictions"]
    assert piped == named | {"image": "-"}

    standard_input(b"<html>", monkeypatch)
    code, _, err = run("predict", trained, "-")
    assert code == 3
    assert "-: not an image" in err
    standard_input(b"", monkeypatch, is_terminal=True)
    code, _, err = run("predict", trained, "-")
    assert code == 2
    assert "that is a terminal" in err


@pytest.mark.threat(22)
def test_standard_input_is_limited(run: Run, trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocket_resnet.data.conversion.MAX_FILE_BYTES", 100)
    standard_input((here / "a.png").read_bytes(), monkeypatch)
    code, _, err = run("predict", trained, "-")
    assert code == 3
    assert "-: over the limit of 100 bytes" in err


@pytest.mark.usefixtures("here")
def test_device(run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("predict", trained, "a.png", "--device", "cpu")[0] == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = run("predict", trained, "a.png", "--device", "cuda")
    assert code == 2
    assert "cuda is not available" in err


@pytest.mark.usefixtures("here")
def test_progress_advances_by_batch_and_shows_only_in_terminals(
    run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predict, "BATCH", 2)
    heard: list[tuple[int, int]] = []
    rows, bad = predict.predict_files(
        trained, ["a.png", "b.png", "bad.png", "many"], 1, advance=lambda done, total: heard.append((done, total))
    )
    assert (len(rows), len(bad)) == (4, 1)
    assert heard == [(2, 5), (4, 5), (5, 5)]
    capsys.readouterr()
    assert run("predict", trained, "a.png", "--csv")[2] == ""
