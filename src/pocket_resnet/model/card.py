"""What travels with the weights: config.json, validated when read, and the model card made from it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

from pocket_resnet.model.spec import NetworkSpec

FORMAT = 2
ClassName = Annotated[str, Field(min_length=1, max_length=255)]
ClassNames = Annotated[tuple[ClassName, ...], FailFast(), Field(min_length=2, max_length=100_000)]


class Card(BaseModel):
    """A trained network's description; the weights lie beside it in model.safetensors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    format: Annotated[int, Field(ge=1)] = FORMAT
    """Version of the model directory's layout."""
    version: str
    """The pocket_resnet that wrote it."""
    spec: NetworkSpec
    """The network."""
    class_names: ClassNames
    """Names in the order of the logits."""
    num_params: int
    """Weights and biases, trainable or frozen."""
    num_macs: int
    """Multiply-adds for one image."""
    data: str
    """The data set it was trained on; of a folder the name, with a slash at the end."""
    flip_invariant: bool
    """Whether a flipped image of a class is still one of that class."""
    train_on: Literal["train", "trainval"]
    """Whether the validation images were left out of training."""
    recipe: str
    """The recipe's name; the run's recipe.toml has it whole."""
    seed: int
    """The run's seed."""
    init_from: str | None = None
    """The checkpoint of another run that it started from, RUN/step-NNNNNN; None: from untrained weights."""
    teacher: str | None = None
    """The model whose answers it learned; None: it learned the labels alone."""
    teacher_sha256: str | None = None
    """SHA-256 of that model's weights."""
    epochs: int
    """Passes over the training images."""
    steps: int
    """Optimizer steps."""
    train_flops: int
    """Floating-point operations of all forward and backward passes."""
    seconds: float
    """Time spent in training."""
    machine: str
    """Where."""
    split: str
    """The split that the accuracy below is measured on."""
    num_images: int
    """How many images that split has."""
    accuracy: float
    """Share of them classified right, single view, last epoch."""
    interval: tuple[float, float]
    """Its 95% Wilson interval."""
    accuracy_two_views: float | None = None
    """The same averaged over each image and its mirror image, where it was measured."""
    accuracy_six_views: float | None = None
    """The same averaged over six views of each image, where it was measured."""
    weights: Literal["fp32", "fp16"] = "fp32"
    """Number format of the stored weights; they compute in fp32."""
    command: str | None = None
    """What makes this network again, for a released one."""
    data_fingerprint: str | None = None
    """The training data by content; models of earlier versions have none."""
    caveat: str | None = None
    """Why the accuracy is not, or may not be, one on unseen images; None where there is no reason."""
    unknown_images: bool = False
    """Whether it was also trained on images whose digests are lost, before it started from a checkpoint."""


def several_views(card: Card) -> dict[str, float]:
    """The accuracies over two and six views, as far as they were measured, by that word."""
    measured = {"two": card.accuracy_two_views, "six": card.accuracy_six_views}
    return {name: accuracy for name, accuracy in measured.items() if accuracy is not None}


def facts(card: Card) -> dict[str, str]:
    """What a user of the model may want to know, in words, for other formats and the server."""
    return {
        "training_data": card.data,
        "accuracy": f"{card.accuracy:.4f} on {card.num_images} images ({card.split}), of the model in fp32",
        "recipe": f"{card.recipe}, seed {card.seed}",
        "trained_by": f"PocketResNet {card.version}",
    }


def markdown(card: Card) -> str:
    """The model card as Markdown."""
    low, high = card.interval
    seen = "" if card.caveat is None else f"{card.caveat[0].upper()}{card.caveat[1:]}.\n"
    if card.train_on == "trainval":
        seen = "The model was trained on these images, so this is no estimate of its accuracy on new ones.\n"
    views = "".join(f"\n| accuracy, {name} views | {share:.2%} |" for name, share in several_views(card).items())
    command = "" if card.command is None else f"\n| command | `{card.command}` |"
    content = "" if card.data_fingerprint is None else f", fingerprint {card.data_fingerprint[:16]}…"
    start = "" if card.init_from is None else f"\n| started from | checkpoint `{card.init_from}` of another run |"
    sha256 = "" if card.teacher_sha256 is None else f", SHA-256 {card.teacher_sha256[:16]}…"
    teacher = "" if card.teacher is None else f"\n| teacher | `{card.teacher}`{sha256} |"
    classes = ", ".join(f"`{name}`" for name in card.class_names[:20]) + (" …" if len(card.class_names) > 20 else "")
    return f"""# {card.recipe} on {card.data}

A residual network with {card.num_params:,} parameters and {card.num_macs:,} multiply-adds per image, trained by
PocketResNet {card.version}.

| | |
| --- | --- |
| accuracy, single view, last epoch | {card.accuracy:.2%} of {card.num_images:,} images ({card.split}) |
| 95% interval (Wilson) | {low:.2%} to {high:.2%} |{views}
| data | {card.data}{content} |
| recipe, seed | {card.recipe}, {card.seed} |{start}{teacher}{command}
| training | {card.epochs} epochs, {card.steps:,} steps, {card.train_flops / 1e15:.4f} PFLOP, {card.seconds:,.0f} s |
| machine | {card.machine} |
| weights | {card.weights} |
| input | RGB, {card.spec.image_size} x {card.spec.image_size} pixels, 0 to 1; the network normalises by itself |
| classes | {classes} |
{seen}
## Use

    pocket-resnet evaluate PATH_OF_THIS_FOLDER
    pocket-resnet predict PATH_OF_THIS_FOLDER IMAGE

## Limits

The network tells the classes above apart in images like those it was trained on. It gives one of these classes for
any image, and its confidence says little about images of another kind.
"""
