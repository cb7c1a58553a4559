"""results/: rows become means, differences, tables and pictures; the documents hold the present ones."""

import itertools
import re
import sys
from pathlib import Path

import pytest

from tools import pictures, results, table

PUBLISHED = results.read_rows("published.csv", pictures.TARGET)


def ablation_row(switched_off: str, seed: int, accuracy: str, **changes: str) -> dict[str, str]:
    row = {
        "data": "cifar10",
        "budget": "100k",
        "switched_off": switched_off,
        "epochs": "1",
        "seed": str(seed),
        "accuracy": accuracy,
    }
    return row | {"num_macs": "17677252"} | changes


ABLATION = [
    ablation_row("nothing", 0, "0.50"),
    ablation_row("crop", 0, "0.52"),
    ablation_row("batch norm", 0, ""),
    ablation_row("nothing", 1, "0.54"),
    ablation_row("crop", 1, "0.53"),
    ablation_row("nothing", 0, "0.60", epochs="2"),
]


def leaderboard_row(command: str, num_params: int, accuracy: float) -> dict[str, str]:
    [*_, row] = table.read_leaderboard()
    recipe = command.split()[2]
    return row | {
        "recipe": recipe,
        "views": "1",
        "command": command,
        "num_params": str(num_params),
        "accuracy_mean": str(accuracy),
        "train_pflop": str(num_params / 1e6),
    }


SERIES = [
    leaderboard_row("pocket-resnet train best --budget 5M --epochs 10", 4_994_471, 0.93),
    leaderboard_row("pocket-resnet train best --budget 100k --epochs 10", 99_765, 0.87),
    leaderboard_row("pocket-resnet train fast", 99_000, 0.86),
    leaderboard_row("pocket-resnet train best --budget 1M --epochs 10", 999_000, 0.91),
]


def test_differences_are_paired_by_seed() -> None:
    short, long = results.studies(ABLATION, "switched_off").items()
    setting, [nothing, crop, norm] = short
    assert (str(setting), str(long[0])) == ("100K parameters, 1 epoch", "100K parameters, 2 epochs")
    assert (nothing.accuracy, crop.accuracy) == (pytest.approx(52), pytest.approx(52.5))
    assert crop.differences == pytest.approx((2, -1))
    assert (norm.accuracies, norm.num_failed) == ((), 1)
    assert [case.name for case in long[1]] == ["nothing"]


def test_differences_are_of_the_seeds_that_both_have() -> None:
    rows = [*ABLATION, ablation_row("crop", 2, "0.99"), ablation_row("crop", 0, "0.99", epochs="3")]
    rows.append(ablation_row("nothing", 3, ""))
    cases_by_epochs = {
        setting.epochs: {case.name: case for case in cases}
        for setting, cases in results.studies(rows, "switched_off").items()
    }
    assert cases_by_epochs[1]["crop"].differences == pytest.approx((2.0, -1.0))
    assert len(cases_by_epochs[1]["crop"].accuracies) == 3
    assert cases_by_epochs[3]["crop"].differences == ()
    assert pictures.changes(results.studies(rows, "switched_off"), "off")
    assert pictures.changes(results.studies(rows[-2:], "switched_off"), "off") is None


def test_a_case_without_a_pair_is_not_one_that_failed() -> None:
    """It has no bar, and comes last in the table; a case that failed comes first."""
    rows = [*ABLATION, ablation_row("flip", 7, "0.40"), ablation_row("crop", 7, ""), ablation_row("crop", 0, "0.49")]
    drawn = pictures.changes(results.studies(rows, "switched_off"), "off")
    assert drawn is not None
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["batch norm", "crop"]
    lines = [line for line in table.ablation_table(rows).splitlines() if re.match(r"\| [a-z]", line)]
    assert [line.split(" | ")[0] for line in lines[1:5]] == ["| nothing", "| batch norm", "| crop", "| flip"]


def test_a_training_has_one_row_for_each_number_of_views(tmp_path: Path) -> None:
    """Also over several files; the same command on another machine is another training."""
    header, first, *_ = results.RESULTS.joinpath("leaderboard.csv").read_text().splitlines()
    more = tmp_path / "more.csv"
    more.write_text(f"{header}\n{first}\n")
    with pytest.raises(ValueError, match=r"more\.csv:2: another row has the same training and views"):
        table.read_leaderboard(table.LEADERBOARD, more)
    more.write_text(f"{header}\n{first.replace('2 threads', '64 threads')}\n")
    lines = table.leaderboard_table(table.read_leaderboard(table.LEADERBOARD, more)).splitlines()
    assert lines[:-1] == table.leaderboard_table(table.read_leaderboard()).splitlines()
    assert "64 threads" in lines[-1]


def test_the_dial_is_not_in_the_leaderboard() -> None:
    """Nor its rows of several views."""
    lines = table.leaderboard_table([*SERIES, SERIES[0] | {"views": "6"}]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| `pocket-resnet train fast`"]


def test_ablation_table_ranks_and_says_what_failed() -> None:
    lines = [line for line in table.ablation_table(ABLATION).splitlines() if re.match(r"\| [a-z]", line)]
    assert lines[1:4] == [
        "| nothing | 52.00% ± 2.83 |  | 2 |",
        "| batch norm | 1 met NaN or infinity |  | 1 |",
        "| crop | 52.50% ± 0.71 | +0.50 ± 2.12 | 2 |",
    ]


def test_shapes_table_has_the_most_accurate_shapes_in_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "NUM_SHAPES", 8)
    rows = [ablation_row(f"shape {number}", 0, f"0.{50 + number}", epochs="3") for number in range(10)]
    rows += [ablation_row("shape 9", 1, "0.57", epochs="3"), ablation_row("shape 9", 0, "0.70", epochs="6")]
    lines = table.shapes_table([{**row, "shape": row["switched_off"]} for row in rows]).splitlines()
    assert lines[2] == "| shape | 100K parameters, 3 epochs | 100K parameters, 6 epochs |"
    assert lines[4:] == [
        "| shape 9 | 58.00% ± 1.41 (n=2) | 70.00% |",
        *(f"| shape {number} | {50 + number}.00% |  |" for number in range(8, 1, -1)),
    ]


def test_calibration_error_is_the_mean_distance_of_confidence_and_accuracy() -> None:
    rows = [
        {"recipe": "fast", "label_smoothing": "0.2", "seed": "0", "num_images": n, "confidence": c, "accuracy": a}
        for n, c, a in (("30", "0.5", "0.7"), ("10", "0.9", "0.8"))
    ]
    [calibration] = results.calibrations(rows)
    assert (calibration.accuracy, calibration.confidence, calibration.error) == pytest.approx((0.725, 0.6, 0.175))
    assert "| fast, label smoothing 0.2, seed 0 | 72.50% | 60.00% | 17.5 points |" in table.calibration_table(rows)


def test_transfer_table_has_a_row_of_images_and_a_column_of_starts() -> None:
    values = [
        ("50 a class", "from scratch", "0.7"),
        ("50 a class", "fine-tuned", "0.8"),
        ("digits", "fine-tuned", "0.9"),
    ]
    rows = [{"data": data, "start": start, "accuracy": accuracy} for data, start, accuracy in values]
    assert table.transfer_table([*rows, {**rows[0], "accuracy": "0.72"}]).splitlines() == [
        "| images | from scratch | fine-tuned |",
        "| --- | ---: | ---: |",
        "| 50 a class | 71.00% ± 1.41 | 80.00% |",
        "| digits |  | 90.00% |",
    ]


def test_series_is_the_dial_by_size() -> None:
    assert [results.budget(row) for row in results.series(SERIES)] == ["100k", "1M", "5M"]


def test_tables_without_rows_say_so() -> None:
    tables = (table.ablation_table, table.shapes_table, table.calibration_table, table.transfer_table)
    assert {make([]) for make in tables} == {"Not measured yet."}


def test_a_time_on_two_machines_names_both() -> None:
    machines = "NVIDIA H200, bf16", "NVIDIA H200, then AMD EPYC, 1 thread, fp32", "AMD EPYC, 2 threads, bf16"
    assert [pictures.gpu_of({"machine": machine}) for machine in machines] == ["H200", "H200, CPU", ""]


@pytest.mark.parametrize("rows", [table.read_leaderboard(), SERIES])
def test_labels_cover_no_other(rows: list[dict[str, str]]) -> None:
    rows = [row for row in rows if results.is_single_view(row)]
    for drawn in (pictures.hero(rows, PUBLISHED), pictures.cost(rows, PUBLISHED), pictures.dial_series(SERIES)):
        assert drawn is not None
        for axes in drawn.axes:
            boxes = [text.get_window_extent() for text in axes.texts]
            assert [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])] == []


def test_bars_are_as_long_as_the_differences() -> None:
    drawn = pictures.changes(results.studies(ABLATION, "switched_off"), "off")
    assert drawn is not None
    [axes] = drawn.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.5])
    assert [text.get_text().strip() for text in axes.texts] == ["training met NaN or infinity", "+0.5"]
    assert axes.get_title("left") == "100K parameters, 1 epoch, 2 seeds"


def test_shapes_stand_by_accuracy() -> None:
    rows = [{**row, "shape": row["switched_off"]} for row in ABLATION]
    drawn = pictures.shapes(results.studies(rows, "shape"))
    assert drawn is not None
    assert [text.get_text() for text in drawn.axes[0].get_yticklabels()] == ["crop", "nothing"]


def test_pictures_without_rows_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the present rows; a picture without rows is not written, and its old file is removed."""
    (tmp_path / "shapes.png").write_bytes(b"old")
    real, saved = results.read_rows, []
    monkeypatch.setattr(pictures, "read_rows", lambda name, *at: [] if name == "shapes.csv" else real(name, *at))
    monkeypatch.setattr(pictures, "save", lambda _, path: saved.append(path.name))
    monkeypatch.setattr(sys, "argv", ["pictures.py", str(tmp_path)])
    pictures.main()
    assert {"hero.png", "cost.png", "ablation.png", "calibration.png"} <= set(saved)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", table.DOCUMENTS, ids=lambda path: path.name)
def test_documents_hold_the_present_tables(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert table.filled(text) == text, "run make plots"


def test_a_marker_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="<!-- ladder --> has no <!-- /ladder -->"):
        table.filled("<!-- ladder -->\n")
