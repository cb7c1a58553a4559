"""Put a finished run's network into this folder: half the bytes where that loses nothing, measured over six views too.

    python models/release.py runs/cpu95-cifar10-seed0 cpu95 "pocket-resnet train cpu95 --data cifar10"

The weights are rounded to fp16 if that costs no validation image, and the card's figures are measured on what is
stored, so that `pocket-resnet evaluate models/NAME` repeats them.
"""

import argparse
import copy
from pathlib import Path

import torch

from pocket_resnet.data.source import open_source
from pocket_resnet.device import choose
from pocket_resnet.evaluate import Evaluation, evaluate
from pocket_resnet.model.artifact import load_model, save_model
from pocket_resnet.model.resnet import ResNet

HERE = Path(__file__).parent


def rounded(model: ResNet) -> ResNet:
    """The network with parameters that fp16 can hold."""
    halved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in halved.parameters():
            parameter.copy_(parameter.half())
    return halved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("name", help="of the folder in models/")
    parser.add_argument("command", help="what makes the network again")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()

    model, card = load_model(arguments.run)
    hardware = choose()
    images = open_source(card.data, data_dir=arguments.data_dir, image_size=card.spec.image_size).split("val")

    def measured(network: ResNet, views: int = 1) -> Evaluation:
        return evaluate(hardware.place(network), images, card.class_names, hardware, split_name="val", views=views)

    stored, weights = rounded(model), "fp16"
    if measured(stored).accuracy < measured(model).accuracy:
        stored, weights = model, "fp32"
    single, six = measured(stored), measured(stored, views=6)
    figures = {
        "accuracy": single.accuracy,
        "interval": single.interval,
        "accuracy_six_views": six.accuracy,
        "weights": weights,
        "command": arguments.command,
    }
    save_model(HERE / arguments.name, stored, card.model_copy(update=figures))
    print(f"{HERE / arguments.name}: {single.accuracy:.2%}, six views {six.accuracy:.2%}, weights in {weights}")


if __name__ == "__main__":
    main()
