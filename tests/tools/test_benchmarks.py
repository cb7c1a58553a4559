"""The benchmarks: a child's own memory, medians, shapes within their budget, one changed switch."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocket_resnet.model.counts import num_params
from pocket_resnet.model.design import Budget, fill_budget
from pocket_resnet.recipe.toml import differences, load_recipe, override
from pocket_resnet.training.result import read_result
from pocket_resnet.training.run import train
from tools import ablation, calibration, process, regularisation, shapes, speed, steps, study

MIB = 2**20


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_peak_is_the_child_s_own() -> None:
    """A child begins as a copy of its parent, whose memory must not count."""
    ballast = np.ones(300 * MIB, dtype=np.uint8)
    small = process.run(python("import time; time.sleep(0.3)"))
    large = process.run(python(f"import time; x = bytearray(b'1') * {200 * MIB}; time.sleep(0.3); print('done')"))
    assert ballast.nbytes > 0
    assert small.peak_gib < 0.1
    assert 0.19 < large.peak_gib < 0.3
    assert large.output == "done\n"
    assert large.seconds >= 0.3


def test_a_failing_command_is_no_measurement() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        process.run(python("raise SystemExit(3)"))


def measured(name: str, *accuracies: float) -> speed.Measured:
    rounds = [
        speed.Round(seed, accuracy, accuracy + 0.01, 10 + seed, 12, 5000, 0.011, 1 / (40 + seed), 0.9)
        for seed, accuracy in enumerate(accuracies)
    ]
    return speed.Measured(name, rounds)


def test_tables_hold_medians_and_spread() -> None:
    both = [measured("fast", 0.86, 0.87, 0.88), measured("cpu94", 0.93)]
    rows = speed.recipes_table(both, {"peer.py": [{"seconds": 3.0, "last_line": "acc 0.5"}]})
    assert rows[2:4] == [
        "| fast | 87.00% ± 1.00 (n=3) | 88.00% ± 1.00 (n=3) | 0.0110 | 5,000 | 1/41.0 | 0.90 GiB | 11 s |",
        "| cpu94 | 93.00% (n=1) | 94.00% (n=1) | 0.0110 | 5,000 | 1/40.0 | 0.90 GiB | 10 s |",
    ]
    assert rows[4].startswith("| peer.py | acc 0.5 |")
    assert {row.count("|") for row in rows} == {9}


def test_the_benchmark_in_small(
    pictures: Path, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Trainings in processes between steps of the reference, on painted pictures; then its steps alone."""
    recipe = load_recipe(str(recipe_path))
    monkeypatch.setattr(speed, "load_recipe", lambda _: recipe)  # instead of the original
    monkeypatch.setattr(steps, "BATCH_SIZE", 8)
    monkeypatch.setattr(steps, "LIMIT_CHANNELS", (8,))
    monkeypatch.setattr(steps, "RECIPES", ("best:20k",))
    words = ["speed.py", "--data", str(pictures), "--rounds", "1"]
    peer = tmp_path / "peer.py"
    peer.write_text("print('accuracy 0.5')")
    options = ["--recipes", str(recipe_path), "--peer", str(peer), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*words, *options])
    speed.main()
    rounds = json.loads((tmp_path / "out" / "rounds.json").read_text())
    [one] = rounds["recipes"][0]["rounds"]
    assert 0 <= one["accuracy_six_views"] <= 1
    assert 0 < one["share_of_reference_epoch"] < 1
    assert 0.05 < one["peak_gib"] < 2
    assert rounds["peers"][str(peer)][0]["last_line"] == "accuracy 0.5"
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| `best:20k` |" in table
    assert f"| {recipe_path} |" in table
    assert (tmp_path / "out" / "accuracy.png").exists()

    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*words, "--only-step"])
    speed.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["reference", "ours", "ratio", "machine"]


def test_six_views_need_pictures_that_may_be_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["speed.py", "--data", "digits"])
    with pytest.raises(SystemExit, match="digits: six views mirror the images"):
        speed.main()


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_every_shape_fills_a_small_and_a_large_budget(shape: str) -> None:
    for budget in (100_000, 5_000_000):
        filled = fill_budget(shapes.SHAPES[shape], Budget(num_params=budget))
        assert 0.97 * budget <= num_params(filled) <= budget


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize("switch", ablation.SWITCHES)
def test_every_switch_changes_the_recipe_and_nothing_else(switch: str) -> None:
    whole, without = (ablation.recipe_without(which, "50k", 2) for which in ("nothing", switch))
    changed = [line.partition(":")[0] for line in differences(whole, without)]
    assert changed == list(ablation.SWITCHES[switch])
    assert num_params(without.model) <= num_params(whole.model) <= 50_000


@pytest.mark.parametrize("added", regularisation.ADDED)
def test_every_addition_changes_the_recipe_and_nothing_else(added: str) -> None:
    bare, regularised = (regularisation.recipe_with(which, "50k", 10) for which in ("nothing", added))
    changed = [line.partition(":")[0] for line in differences(bare, regularised)]
    assert sorted(changed) == sorted(regularisation.ADDED[added])
    assert bare.train_image_sizes


@pytest.mark.parametrize(
    ("variable", "case", "cases", "make"),
    [
        ("switched_off", "crop", ablation.SWITCHES, ablation.recipe_without),
        ("added", "crop 4", regularisation.ADDED, regularisation.recipe_with),
    ],
)
def test_a_study_resumes(
    variable: str, case: str, cases: Any, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the digits: a row per case and seed, with the same network; existing rows are not trained again."""
    out = tmp_path / "rows.csv"
    words = [*f"--budget 20k --epochs 1 --data digits --out {out} --only nothing".split(), case]
    parser = study.parser(None, "rows.csv", budget="100k", epochs=2)
    study.run(parser.parse_args(words), variable, cases, make)
    first = rows_of(out)
    assert [(row[variable], row["epochs"], row["seed"]) for row in first] == [("nothing", "1", "0"), (case, "1", "0")]
    assert len({(row["num_params"], row["pflop"]) for row in first}) == 1
    assert all(0 <= float(row["accuracy"]) <= 1 and float(row["seconds"]) > 0 for row in first)

    measured = []
    monkeypatch.setattr(study, "measure", lambda recipe, _: measured.append(recipe.seed) or {"accuracy": ""})
    study.run(parser.parse_args([*words, "--seeds", "2"]), variable, cases, make)
    assert measured == [1, 1]
    assert rows_of(out)[:2] == first


def test_a_study_file_has_one_header_and_whole_rows_of_its_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the first training was stopped, or a crash cut the last line. A case requested twice is one row."""
    out = tmp_path / "rows.csv"
    words = f"--out {out} --only crop crop".split()
    options = study.parser(None, "rows.csv", budget="20k", epochs=1).parse_args(words)

    def run(variable: str = "switched_off") -> None:
        study.run(options, variable, ablation.SWITCHES, ablation.recipe_without)

    monkeypatch.setattr(study, "measure", lambda *_: sys.exit("stopped"))
    with pytest.raises(SystemExit, match="stopped"):
        run()
    monkeypatch.setattr(study, "measure", lambda *_: {"accuracy": 0.5, "machine": "a, b"})
    run()
    assert [(row["switched_off"], row["accuracy"], row["machine"]) for row in rows_of(out)] == [("crop", "0.5", "a, b")]
    with pytest.raises(SystemExit, match="not a file of this study, whose columns are data, budget, shape, "):
        run("shape")
    out.write_text(out.read_text()[:-9])
    with pytest.raises(SystemExit, match="its last line is not whole"):
        run()


def test_unknown_cases_are_refused() -> None:
    options = study.parser(None, "shapes.csv", budget="100k", epochs=6).parse_args(["--only", "9-9-9"])
    with pytest.raises(SystemExit, match="no such case: 9-9-9; known: 3-3-3, "):
        study.run(options, "shape", shapes.SHAPES, shapes.recipe_of)


def test_calibration_counts_every_validation_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"data.name": "digits", "max_steps": 1, "batch_size": 32, "label_smoothing": 0.1}
    train(override(load_recipe("fast"), changes), runs_dir=tmp_path, run="one")
    monkeypatch.setattr(sys, "argv", ["calibration.py", str(tmp_path / "one"), "--out", str(tmp_path / "c.csv")])
    calibration.main()
    rows = rows_of(tmp_path / "c.csv")
    assert {(row["recipe"], row["label_smoothing"], row["seed"]) for row in rows} == {("fast", "0.1", "0")}
    monkeypatch.setattr(sys, "argv", ["calibration.py", *[str(tmp_path / "one")] * 2, "--out", str(tmp_path / "d")])
    with pytest.raises(SystemExit, match="two runs have the same recipe, label_smoothing, seed"):
        calibration.main()
    assert sum(int(row["num_images"]) for row in rows) == 300
    assert sum(int(row["num_images"]) * float(row["accuracy"]) for row in rows) == pytest.approx(
        300 * read_result(tmp_path / "one" / "result.json").accuracy, abs=0.01
    )
