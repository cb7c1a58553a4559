"""Writes the calibration of finished runs, one row per bin of confidence, to results/calibration.csv.

    pocket-resnet train fast --data cifar10 --run smoothed
    pocket-resnet train fast --data cifar10 --label-smoothing 0 --run sharp
    python -m tools.calibration runs/smoothed runs/sharp

The bins are those of the reliability diagram in a run's report. The file is replaced.
"""

import csv
import itertools
import sys
from pathlib import Path

from pocket_resnet.inference.statistics import calibration_bins
from pocket_resnet.training.saved_run import Opener, opener, read_run
from tools import parser

TARGET = Path(__file__).parents[1] / "results" / "calibration.csv"
KEYS = ("recipe", "label_smoothing", "seed")
COLUMNS = (*KEYS, "num_images", "confidence", "accuracy")


def rows(run: Path, open_data: Opener) -> list[dict[str, object]]:
    """One row per bin with images."""
    finished = read_run(run, open_data)
    recipe = (finished.recipe.name, finished.recipe.label_smoothing, finished.recipe.seed)
    bins = calibration_bins(finished.evaluation.confidence_N, finished.evaluation.hit_N)
    values = [(*recipe, each.num_images, round(each.confidence, 6), round(each.accuracy, 6)) for each in bins]
    return [dict(zip(COLUMNS, row, strict=True)) for row in values]


def main() -> None:
    options = parser(__doc__, "data_dir")
    options.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    options.add_argument("--out", type=Path, default=TARGET, help="file of the rows")
    arguments = options.parse_args()
    open_data = opener(arguments.data_dir)
    measured_runs = [rows(run, open_data) for run in arguments.runs]
    measured = list(itertools.chain(*measured_runs))
    if len({tuple(first[key] for key in KEYS) for first, *_ in measured_runs}) < len(measured_runs):
        sys.exit(f"two runs have the same {', '.join(KEYS)}, which tell the rows of different runs apart")
    with arguments.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(measured)


if __name__ == "__main__":
    main()
