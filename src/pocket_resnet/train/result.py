"""What a finished run came to, for result.json and for the model's card."""

from dataclasses import asdict, dataclass

from pocket_resnet.card import Card
from pocket_resnet.evaluate import Evaluation
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.version import __version__


@dataclass(frozen=True)
class Result:
    """What a finished run came to; `runs/NAME/result.json` holds the same."""

    accuracy: float
    interval: tuple[float, float]
    num_params: int
    num_macs: int
    epochs: int
    steps: int
    images_seen: int
    train_flops: int
    seconds: float
    seconds_total: float
    images_per_s: float
    seed: int
    recipe: str
    data: str
    train_on: str
    machine: str
    model: str


def card_of(result: Result, spec: NetworkSpec, class_names: tuple[str, ...], found: Evaluation) -> Card:
    """The card that goes with the run's weights."""
    shared = {name: value for name, value in asdict(result).items() if name in Card.model_fields}
    return Card(
        version=__version__,
        spec=spec,
        class_names=class_names,
        split=found.split,
        num_images=found.num_images,
        **shared,
    )
