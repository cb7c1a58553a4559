"""The description of a trained network: config.json, validated when read, and the model card generated from it."""

import json
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

from pocket_resnet.errors import counted, listed
from pocket_resnet.model.counts import operations
from pocket_resnet.model.spec import NetworkSpec

FORMAT = 2
UNKNOWN_LICENCE = "unknown"  # the hub's word if nobody has chosen one
HUB_DATASETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
SPLITS = {"val": "validation"}  # the other splits have their common names
ClassName = Annotated[str, Field(min_length=1, max_length=255)]
ClassNames = Annotated[tuple[ClassName, ...], FailFast(), Field(min_length=2, max_length=100_000)]


class Card(BaseModel):
    """A trained network's description, stored beside its weights."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    format: Annotated[int, Field(ge=1)] = FORMAT
    """Version of the model directory's layout."""
    version: str
    """The PocketResNet version that wrote it."""
    spec: NetworkSpec
    """The network."""
    class_names: ClassNames
    """Names in the order of the logits."""
    num_params: int
    """Weights and biases, trainable or frozen."""
    num_macs: int
    """Multiply-adds for one image."""
    data: str
    """The data set it was trained on; for a folder, its name with a slash at the end."""
    flip_invariant: bool
    """Whether a flipped image still belongs to its class."""
    train_on: Literal["train", "trainval"]
    """train: the validation images were held out of training. trainval: it was also trained on them."""
    recipe: str
    """The recipe's name; the run's recipe.toml has its keys."""
    seed: int
    """The run's seed."""
    init_from: str | None = None
    """The checkpoint of another run that it started from, RUN/step-NNNNNN; None for initial weights."""
    teacher: str | None = None
    """The model it was distilled from; None without a teacher."""
    teacher_sha256: str | None = None
    """SHA-256 of that model's weights."""
    pretrained: str | None = None
    """The model that it was fine-tuned from; None: it started from untrained weights or a checkpoint."""
    pretrained_sha256: str | None = None
    """SHA-256 of that model's weights."""
    epochs: int
    """Planned passes over the training images."""
    epochs_done: float | None = None
    """Passes done, fewer if the run ended early; None for models of earlier versions."""
    steps: int
    """Optimizer steps done."""
    train_flops: int
    """Floating-point operations of all forward and backward passes."""
    seconds: float
    """Time in training steps."""
    machine: str
    """Processor or GPU, threads, precision and torch version."""
    split: str
    """The split that the accuracy below is measured on."""
    num_images: int
    """Number of images in that split."""
    accuracy: float
    """Share of them classified correctly: single view, last epoch."""
    interval: tuple[float, float]
    """Its 95% Wilson interval."""
    accuracy_two_views: float | None = None
    """Accuracy over each image and its mirror image; None if not measured."""
    accuracy_six_views: float | None = None
    """Accuracy over six views of each image; None if not measured."""
    weights: Literal["fp32", "fp16"] = "fp32"
    """Number format of the stored weights; the network computes in fp32."""
    command: str | None = None
    """The command that trains a released network again; None for other models."""
    data_fingerprint: str | None = None
    """Hash of the training data's content; None for models of earlier versions."""
    caveat: str | None = None
    """Why the accuracy is not, or may not be, measured on unseen images; otherwise None."""
    unknown_images: bool = False
    """Whether an earlier run also trained it on images whose digests are not known."""


def several_views(card: Card) -> dict[str, float]:
    """The measured accuracies over several views, by number of views in words."""
    measured = {"two": card.accuracy_two_views, "six": card.accuracy_six_views}
    return {name: accuracy for name, accuracy in measured.items() if accuracy is not None}


def facts(card: Card) -> dict[str, str]:
    """Training data, accuracy and origin of the model in words, for exported files and the server."""
    return {
        "training_data": card.data,
        "accuracy": f"{card.accuracy:.4f} on {card.num_images} images ({card.split}), of the model in fp32",
        "recipe": f"{card.recipe}, seed {card.seed}",
        "trained_by": f"PocketResNet {card.version}",
    }


def stated_accuracy(text: str) -> tuple[float, str, int] | None:
    """Accuracy, split and number of images in the `accuracy` of `facts`; None if another program wrote the text."""
    match = re.match(r"(0\.\d{4}|1\.0000) on (\d{1,9}) images \((\w{1,20})\)", text)
    return None if match is None else (float(match[1]), match[3], int(match[2]))


def epochs_text(planned: int, done: float | None) -> str:
    """`4 epochs`, or `2 of 4 epochs` if a run ended early."""
    text = counted(planned, "epoch")
    return text if done is None or done >= planned else f"{done:.3g} of {text}"


def front_matter(card: Card, licence: str = UNKNOWN_LICENCE) -> str:
    """The card's YAML for the Hugging Face hub, between its `---` lines.

    It has the card's figures, but none if the model was or may have been trained on the images it was measured on.
    """
    dataset = HUB_DATASETS.get(card.data)
    datasets = "" if dataset is None else f"datasets:\n- {dataset}\n"
    is_estimate = card.train_on == "train" and card.caveat is None
    return f"""---
license: {licence}
library_name: pocket-resnet
pipeline_tag: image-classification
tags:
- resnet
- pocket-resnet
{datasets}metrics:
- accuracy
{_model_index(card) if is_estimate else ""}---
"""


def _model_index(card: Card) -> str:
    """The front matter's results; text in JSON's quotes, which are YAML's too."""
    split = SPLITS.get(card.split, card.split)
    accuracies = {"single view": card.accuracy}
    accuracies |= {f"{name} views": accuracy for name, accuracy in several_views(card).items()}
    metrics = "".join(
        f"""
    - type: accuracy
      name: {json.dumps(f"accuracy, {views}, {card.num_images:,} {split} images")}
      value: {accuracy}"""
        for views, accuracy in accuracies.items()
    )
    name = card.data.rstrip("/") or card.data
    return f"""model-index:
- name: {json.dumps(f"{card.recipe} on {card.data}")}
  results:
  - task:
      type: image-classification
    dataset:
      type: {json.dumps(HUB_DATASETS.get(card.data, name))}
      name: {json.dumps(name)}
      split: {json.dumps(split)}
      args:
        num_images: {card.num_images}
    metrics:{metrics}
"""


def markdown(card: Card, licence: str = UNKNOWN_LICENCE) -> str:
    """The model card as Markdown, with the hub's front matter."""
    seen = "" if card.caveat is None else f"{card.caveat[0].upper()}{card.caveat[1:]}.\n"
    if card.train_on == "trainval":
        seen = "The model was trained on these images, so this is no estimate of its accuracy on new ones.\n"
    rows = "\n".join(f"| {name} | {value} |" for name, value in _table(card).items())
    return f"""{front_matter(card, licence)}
# {card.recipe} on {card.data}

A residual network with {card.num_params:,} parameters and {card.num_macs:,} multiply-adds per image, trained by
PocketResNet {card.version}.

| | |
| --- | --- |
{rows}
{seen}
## Use

    pocket-resnet evaluate PATH_OF_THIS_FOLDER
    pocket-resnet predict PATH_OF_THIS_FOLDER IMAGE

## Limits

The network distinguishes the classes above in images like those it was trained on. It assigns one of these classes to
every image, and its confidence means little for images of other kinds.
"""


def _table(card: Card) -> dict[str, str]:
    """The rows of the card's table."""
    low, high = card.interval
    size = card.spec.image_size
    rows = {
        "accuracy, single view, last epoch": f"{card.accuracy:.2%} of {card.num_images:,} images ({card.split})",
        "95% interval (Wilson)": f"{low:.2%} to {high:.2%}",
    }
    rows |= {f"accuracy, {name} views": f"{share:.2%}" for name, share in several_views(card).items()}
    content = "" if card.data_fingerprint is None else f", fingerprint {card.data_fingerprint[:16]}…"
    rows |= {"data": f"{card.data}{content}", "recipe, seed": f"{card.recipe}, {card.seed}"}
    if card.init_from is not None:
        rows["started from"] = f"checkpoint `{card.init_from}` of another run"
    learned_from = {
        "fine-tuned from": (card.pretrained, card.pretrained_sha256),
        "teacher": (card.teacher, card.teacher_sha256),
    }
    for role, (name, sha256) in learned_from.items():
        if name is not None:
            rows[role] = f"`{name}`" + ("" if sha256 is None else f", SHA-256 {sha256[:16]}…")
    if card.command is not None:
        rows["command"] = f"`{card.command}`"
    epochs, flops = epochs_text(card.epochs, card.epochs_done), operations(card.train_flops)
    return rows | {
        "training": f"{epochs}, {counted(card.steps, 'step')}, {flops}, {card.seconds:,.0f} s",
        "machine": card.machine,
        "weights": card.weights,
        "input": f"RGB, {size} x {size} pixels, 0 to 1; the network normalises its input",
        "classes": listed([f"`{name}`" for name in card.class_names], ", "),
    }
