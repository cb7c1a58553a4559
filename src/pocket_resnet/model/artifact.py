"""Model directories: weights, config.json and card, written whole and verified on loading."""

import json
import shlex
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from pocket_resnet.card import FORMAT, Card, markdown
from pocket_resnet.errors import ArtifactError, UsageError
from pocket_resnet.files import json_bytes, read_folder, write_folder
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import num_params

WEIGHTS_NAME, CONFIG_NAME, CARD_NAME = "model.safetensors", "config.json", "README.md"
MAX_WEIGHTS_BYTES = 1024**3
MAX_CONFIG_BYTES = 16 * 1024**2


def save_model(folder: Path, model: ResNet, card: Card) -> None:
    """Write the model directory in one step, parameters as `card.weights` says.

    Raises EnvironmentFault where the disk refuses.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if card.weights == "fp16":
        weights |= {name: weights[name].half() for name, _ in model.named_parameters()}
    files = {
        WEIGHTS_NAME: tensors_to_bytes(weights),
        CONFIG_NAME: json_bytes(card.model_dump(mode="json")),
        CARD_NAME: markdown(card).encode(),
    }
    write_folder(folder, files)


def find_model(path: Path) -> Path:
    """The model directory at the path, which may also be a run's directory. Raises UsageError where there is none."""
    for folder in (path, path / "model"):
        if (folder / CONFIG_NAME).exists():
            return folder
    if (path / "checkpoints").is_dir():
        raise UsageError("this run has not finished", where=path, mend=f"go on with: {resume_command(path)}")
    raise UsageError("no model here", where=path, mend="give a model directory or a finished run's directory")


def resume_command(run: Path, data_dir: Path | None = None) -> str:
    """What to type to go on with the run in this folder; its recipe.toml has all that was asked for."""
    words = ["pocket-resnet", "train", str(run / "recipe.toml"), "--resume", "--run", run.name]
    if run.parent != Path("runs"):
        words += ["--runs-dir", str(run.parent)]
    if data_dir is not None:
        words += ["--data-dir", str(data_dir)]
    return shlex.join(words)


def load_model(path: Path) -> tuple[ResNet, Card]:
    """The network, in evaluation mode on the CPU, and its card. Raises ArtifactError naming what is wrong."""
    folder = find_model(path)
    contents = read_folder(folder, (WEIGHTS_NAME, CONFIG_NAME), MAX_WEIGHTS_BYTES)
    card = _parse_card(contents[CONFIG_NAME], folder / CONFIG_NAME)
    where = folder / WEIGHTS_NAME
    if len(contents[WEIGHTS_NAME]) < num_params(card.spec):
        raise ArtifactError("too small for the network of config.json", where=where)
    try:
        weights = tensors_from_bytes(contents[WEIGHTS_NAME])
        model = ResNet(card.spec)
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"not the weights of this network: {error}".splitlines()[0], where=where) from error
    return model.eval(), card


def load_card(path: Path) -> Card:
    """The card alone. Raises as `load_model` does."""
    folder = find_model(path)
    contents = read_folder(folder, (WEIGHTS_NAME, CONFIG_NAME), MAX_WEIGHTS_BYTES)
    return _parse_card(contents[CONFIG_NAME], folder / CONFIG_NAME)


def _parse_card(content: bytes, where: Path) -> Card:
    if len(content) > MAX_CONFIG_BYTES:
        raise ArtifactError(f"over {MAX_CONFIG_BYTES:,} bytes", where=where)
    try:
        values = json.loads(content)
        newer = isinstance(values, dict) and isinstance(values.get("format"), int) and values["format"] > FORMAT
        if newer:
            raise ArtifactError(
                f"model format {values['format']} is newer than this program's {FORMAT}",
                where=where,
                mend=f"upgrade pocket-resnet to {values.get('version', 'a newer version')} or later",
            )
        card = Card.model_validate_json(content)
    except (ValidationError, ValueError, RecursionError, UsageError) as error:
        raise ArtifactError(f"not a model's configuration: {error}".splitlines()[0], where=where) from error
    if len(card.class_names) != card.spec.num_classes or len(set(card.class_names)) != len(card.class_names):
        raise ArtifactError("class_names do not fit spec.num_classes", where=where)
    return card
