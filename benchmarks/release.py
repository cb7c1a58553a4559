"""A finished run -> a model directory to release: weights halved where that costs nothing, six views on the card.

    pocket-resnet train cpu94 --data cifar10 --seed 2 --run cpu94-2
    python benchmarks/release.py runs/cpu94-2 models/cpu94

Weights are stored as fp16 where exactly as many validation images are classified right with them as with fp32.
`pocket-resnet evaluate models/cpu94`, and with --views 6, then repeat the card's figures.
"""

import argparse
import tempfile
from pathlib import Path

from pocket_resnet.card import Card
from pocket_resnet.evaluate import evaluate_model
from pocket_resnet.finished import command, opener, read_run
from pocket_resnet.model.artifact import load_digests, load_model, save_model


def release(run: Path, target: Path, data_dir: Path | None = None, data: str | None = None) -> Card:
    """Write the model directory, over an earlier one; returns its card, which names no place on this machine.

    `data` says where the run's data lie now. Raises PocketError for what cannot be read.
    """
    model, card = load_model(run)
    finished, digests = read_run(run, opener(data_dir), data), load_digests(run)

    def accuracy(trial: Path, views: int = 1) -> float:
        return evaluate_model(trial, data=finished.source.name, split="val", views=views, data_dir=data_dir).accuracy

    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "trial"
        for weights in ("fp16", "fp32"):
            save_model(trial, model, card.model_copy(update={"weights": weights}))
            if accuracy(trial) == card.accuracy:
                break
        six = accuracy(trial, views=6) if card.mirrored else None
    changes = {"weights": weights, "command": command(finished, released=True), "accuracy_six_views": six}
    released = card.model_copy(update=changes | {"data": finished.source.public_name})
    save_model(target, model, released, digests)
    return released


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("target", type=Path, help="the model directory to write")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--data", help="where the run's data lie now, if they were moved")
    arguments = parser.parse_args()
    card = release(arguments.run, arguments.target, arguments.data_dir, arguments.data)
    six_views = "" if card.accuracy_six_views is None else f", {card.accuracy_six_views:.2%} over six views"
    print(f"{arguments.target}: {card.accuracy:.2%}{six_views}, weights in {card.weights}")


if __name__ == "__main__":
    main()
