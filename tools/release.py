"""Turns a finished run into a model directory for release: fp16 weights, accuracy over 1, 2 and 6 views on the card.

    pocket-resnet train best --budget 500k --data cifar10 --run pocket-500k
    python -m tools.release runs/pocket-500k models/pocket-500k

The card's figures are measured with the fp16 weights. `pocket-resnet evaluate models/pocket-500k`, also with
--views 2 or --views 6, repeats them.
"""

import tempfile
from pathlib import Path

from pocket_resnet.inference.evaluate import evaluate_model
from pocket_resnet.model.artifact import load_digests, load_model, save_model
from pocket_resnet.model.card import Card, several_views
from pocket_resnet.training.saved_run import command, opener, read_run
from tools import parser


def release(run: Path, target: Path, data_dir: Path | None = None, data: str | None = None) -> Card:
    """Write the model directory, over an earlier one; returns its card, which contains no path of this machine.

    `data` is the current location of the run's data. Raises PocketError if run or data cannot be read.
    """
    model, card = load_model(run)
    finished, digests = read_run(run, opener(data_dir), data), load_digests(run)
    changes = {"weights": "fp16", "command": command(finished, released=True), "data": finished.source.public_name}
    halved = card.model_copy(update=changes)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "trial"
        save_model(trial, model, halved)
        evaluations = {
            views: evaluate_model(trial, data=finished.source.name, split="val", views=views, data_dir=data_dir)
            for views in ((1, 2, 6) if card.flip_invariant else (1,))
        }
    names = {1: "accuracy", 2: "accuracy_two_views", 6: "accuracy_six_views"}
    accuracies = {names[views]: evaluation.accuracy for views, evaluation in evaluations.items()}
    released = halved.model_copy(update=accuracies | {"interval": evaluations[1].interval})
    save_model(target, model, released, digests, licence="mit")  # of LICENSE
    return released


def in_short(card: Card) -> str:
    """The measurements of a released model, on one line."""
    several = "".join(f", {accuracy:.2%} over {name} views" for name, accuracy in several_views(card).items())
    return f"{card.accuracy:.2%}{several}, weights in {card.weights}"


def main() -> None:
    options = parser(__doc__, "data_dir")
    options.add_argument("run", type=Path, help="folder of a finished run")
    options.add_argument("target", type=Path, help="the model directory to write")
    options.add_argument("--data", help="current location of the run's data, if they were moved")
    arguments = options.parse_args()
    card = release(arguments.run, arguments.target, arguments.data_dir, arguments.data)
    print(f"{arguments.target}: {in_short(card)}")


if __name__ == "__main__":
    main()
