"""A finished run -> a model directory to release: weights in fp16, accuracy over one, two and six views on the card.

    pocket-resnet train cpu94 --data cifar10 --seed 2 --run cpu94-2
    python -m tools.release runs/cpu94-2 models/cpu94

The card's figures are measured with the fp16 weights. `pocket-resnet evaluate models/cpu94`, also with --views 2 or
--views 6, repeats them.
"""

import argparse
import tempfile
from pathlib import Path

from pocket_resnet.card import Card
from pocket_resnet.evaluate import evaluate_model
from pocket_resnet.finished import command, opener, read_run
from pocket_resnet.model.artifact import load_model, save_model


def release(run: Path, target: Path, data_dir: Path | None = None) -> Card:
    """Write the model directory, over an earlier one; returns its card. Raises PocketError for what cannot be read."""
    model, card = load_model(run)
    halved = card.model_copy(update={"weights": "fp16", "command": command(read_run(run, opener(data_dir)))})
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "trial"
        save_model(trial, model, halved)
        found = {
            views: evaluate_model(trial, views=views, data_dir=data_dir)
            for views in ((1, 2, 6) if card.mirrored else (1,))
        }
    several = {
        f"accuracy_{name}_views": found[views].accuracy for name, views in (("two", 2), ("six", 6)) if views in found
    }
    released = halved.model_copy(update={"accuracy": found[1].accuracy, "interval": found[1].interval, **several})
    save_model(target, model, released)
    return released


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("target", type=Path, help="the model directory to write")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    card = release(arguments.run, arguments.target, arguments.data_dir)
    views = {"two": card.accuracy_two_views, "six": card.accuracy_six_views}
    several = "".join(f", {accuracy:.2%} over {name} views" for name, accuracy in views.items() if accuracy is not None)
    print(f"{arguments.target}: {card.accuracy:.2%}{several}, weights in {card.weights}")


if __name__ == "__main__":
    main()
