"""Model directories: weights, config.json and card, written in one step and verified on loading."""

import hashlib
import json
import logging
import re
import shlex
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from pocket_resnet.errors import ArtifactError, UsageError, did_you_mean, listed
from pocket_resnet.io.files import expanded, is_listed, json_bytes, read_folder, write_folder
from pocket_resnet.io.hub_address import is_address
from pocket_resnet.io.renamed import CARD_FIELDS, with_current_names
from pocket_resnet.model.card import FORMAT, UNKNOWN_LICENCE, Card, markdown
from pocket_resnet.model.counts import layers
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.model.spec import NetworkSpec

_log = logging.getLogger(__name__)

WEIGHTS_NAME, CONFIG_NAME, CARD_NAME = "model.safetensors", "config.json", "README.md"
DIGESTS_NAME = "train_digests.u64"
MAX_WEIGHTS_BYTES = 1024**3
MAX_HEADER_BYTES = 4 * 1024**2
MAX_CONFIG_BYTES = 4 * 1024**2
MAX_DIGESTS_BYTES = 128 * 1024**2
MAX_CARD_BYTES = 1024**2
MAX_NUM_ENTRIES = 100
FILES = {  # the files of a model directory except SHA256SUMS, and their maximum size in bytes
    WEIGHTS_NAME: MAX_WEIGHTS_BYTES,
    CONFIG_NAME: MAX_CONFIG_BYTES,
    CARD_NAME: MAX_CARD_BYTES,
    DIGESTS_NAME: MAX_DIGESTS_BYTES,
}


# Released models that only a checkout has.
NOT_PACKAGED = ("pocket-50k", "pocket-270k", "pocket-1m", "pocket-5m")


class NewerFormatError(ArtifactError):
    """A model or checkpoint of a later version of this program: not damaged, so no older checkpoint replaces it."""


def refuse_newer_format(values: Any, kind: str, newest: int, where: Path) -> None:
    """Raise NewerFormatError if the JSON object has a later format than this program reads."""
    number = values.get("format") if isinstance(values, dict) else None
    if isinstance(number, int) and number > newest:
        what = f"{kind} format {number} is newer than this program's {newest}"
        hint = f"upgrade pocket-resnet to {values.get('version', 'a newer version')} or later"
        raise NewerFormatError(what, where=where, hint=hint)


def save_model(
    folder: Path, model: ResNet, card: Card, digests: bytes | None = None, licence: str = UNKNOWN_LICENCE
) -> None:
    """Write the model directory in one step, with parameters in the number format `card.weights`.

    `digests` are those of the images it was trained on, as `data/digests.py` packs them; `licence` is the weights'.
    Raises EnvironmentFault if it cannot be written.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if card.weights == "fp16":
        weights |= {name: weights[name].half() for name, _ in model.named_parameters()}
    files = {
        WEIGHTS_NAME: tensors_to_bytes(weights),
        CONFIG_NAME: json_bytes(card.model_dump(mode="json")),
        CARD_NAME: markdown(card, licence).encode(),
    }
    if digests is not None:
        files[DIGESTS_NAME] = digests
    write_folder(folder, files)


def released() -> dict[str, Path]:
    """The folders of the released models by name: those in the package, and those of a checkout."""
    package = Path(__file__).parents[1]
    configs = [*package.glob(f"models/*/{CONFIG_NAME}"), *package.parents[1].glob(f"models/*/{CONFIG_NAME}")]
    return {config.parent.name: config.parent for config in reversed(configs)}


def _fetched(path: Path) -> Path:
    """The path itself; for an address on the hub, `hf://user/name`, the folder of its verified copy."""
    if not is_address(path):
        return path
    from pocket_resnet.io.hub import ModelFiles, fetch_model  # imports requests, which nothing else here needs

    return fetch_model(path, ModelFiles(FILES, required=(WEIGHTS_NAME, CONFIG_NAME)))


def find_model(path: Path) -> Path:
    """The model directory at the path, which may also be a run's, the name of a released model, or `hf://user/name`.

    An existing path takes precedence over a released model of that name. Call it once per command and pass on the
    directory: an unfinished run then warns once, and a model on the hub cannot change in between. Raises UsageError if
    there is no model, and the errors of `fetch_model` for an address on the hub.
    """
    path = _fetched(path)
    by_name = released() if len(path.parts) == 1 and not path.exists() else {}
    for folder in (path, path / "model", *([by_name[path.name]] if path.name in by_name else [])):
        if (folder / CONFIG_NAME).exists():
            if (path / "recipe.toml").is_file() and not (path / "result.json").exists():
                _log.warning(f"{path}: this run is not finished; its model is from before it was resumed")
            return folder
    raise _no_model(path)


def _no_model(path: Path) -> UsageError:
    """The error for a path without a model, with a hint what to give instead."""
    if (path / "checkpoints").is_dir():
        return UsageError("this run is not finished", where=path, hint=f"resume with: {resume_command(path)}")
    if (path / "recipe.toml").is_file():
        hint = f"start it again with: {resume_command(path)}"
        return UsageError("this run has no model and no checkpoint yet", where=path, hint=hint)
    if path.suffix.lower() == ".onnx" and path.is_file():
        hint = f"give the model that it was exported from, or run {shlex.join(['pocket-resnet', 'serve', str(path)])}"
        return UsageError("an exported file, which only `serve` and `benchmark` read", where=path, hint=hint)
    names = sorted(released())
    if str(path) in NOT_PACKAGED:
        hint = f"clone the repository, which has it in models/, or use {listed(names, ', ')}"
        return UsageError("this released model is not in the package", where=path, hint=hint)
    hint = "give a model directory or a finished run's directory"
    if names:
        hint += f", or a released model: {listed(names, ', ')}"
    what = "this file is not a model" if path.is_file() else f"no model here{did_you_mean(str(path), names)}"
    return UsageError(what, where=path, hint=hint)


def model_name(path: Path) -> str:
    """A short name for the model at the path (see `folder_name`)."""
    return folder_name(find_model(path).resolve())


def folder_name(folder: Path) -> str:
    """The name of the model in this directory: that of the directory, of its run, or on the hub."""
    is_inner = folder.name == "model" or re.fullmatch(r"[0-9a-f]{40}", folder.name)  # of a run, or a commit on the hub
    return (folder.parent if is_inner else folder).name or "model"


def resume_command(run: Path, data_dir: Path | None = None) -> str:
    """The command that resumes the run in this folder; its recipe.toml has every setting."""
    words = ["pocket-resnet", "train", str(run / "recipe.toml"), "--resume", "--run", run.name]
    if run.parent != Path("runs"):
        words += ["--runs-dir", str(run.parent)]
    if data_dir is not None:
        words += ["--data-dir", str(data_dir)]
    return shlex.join(words)


def load_model(path: Path) -> tuple[ResNet, Card]:
    """The network, in evaluation mode on the CPU, and its card. Raises ArtifactError if it is damaged."""
    folder = find_model(path)
    card, content = _read(folder)
    try:
        _check_names(content, card.spec)
        weights = parse_tensors(content)
        model = ResNet(card.spec)
        model.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        what = f"not the weights of this network: {first_fault(error)}"
        raise ArtifactError(what, where=folder / WEIGHTS_NAME) from error
    return model.eval(), card


def load_card(path: Path) -> Card:
    """Only the card; the SHA-256 of the weights is verified too. Raises ArtifactError if it is damaged."""
    return _read(find_model(path))[0]


def identify(path: str, sha256: str | None, key: str) -> tuple[Path, Card, str]:
    """The model directory with links resolved, its card, and the SHA-256 of its weights.

    Raises UsageError if that differs from `sha256`, the recipe's `key`, and ArtifactError if the model is damaged.
    """
    folder = find_model(expanded(path)).resolve()
    card, content = _read(folder)
    actual = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, actual):
        what = f"the model's weights have changed: SHA-256 {actual[:12]}… instead of {sha256:.12}…"
        raise UsageError(what, where=folder, hint=f"restore the old model, or remove {key}")
    return folder, card, actual


def load_digests(path: Path) -> bytes | None:
    """The packed digests of the images it was trained on; None for models of versions that stored none."""
    folder = find_model(path)
    if not is_listed(folder, DIGESTS_NAME):
        return None
    content = read_folder(folder, (DIGESTS_NAME,), MAX_DIGESTS_BYTES)[DIGESTS_NAME]
    if len(content) % 8:
        raise ArtifactError("truncated: its size is not a multiple of 8 bytes", where=folder / DIGESTS_NAME)
    return content


def parse_tensors(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ValueError for other content."""
    _header(content)
    try:
        return tensors_from_bytes(content)
    except KeyError as error:
        raise ValueError(f"numbers of the format {error}, which torch does not support") from error
    except (SafetensorError, RuntimeError, TypeError) as error:
        raise ValueError(str(error)) from error


def first_fault(error: Exception) -> str:
    """The first error of a validation or of torch on one line, with the field's name."""
    if isinstance(error, ValidationError):
        detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
    first, _, rest = str(error).partition("\n")
    return rest.partition("\n")[0].strip() if first.endswith(":") else first


def _header(content: bytes) -> bytes:
    """The JSON header. Raises ValueError if it is larger than the limit, as in a hostile file."""
    num_bytes = int.from_bytes(content[:8], "little")
    if num_bytes > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {num_bytes:,} bytes, over the limit of {MAX_HEADER_BYTES:,}")
    return content[8 : 8 + num_bytes]


def _read(folder: Path) -> tuple[Card, bytes]:
    """The card, and the content of the weights' file, whose size must be plausible for the card's network."""
    config = read_folder(folder, (CONFIG_NAME,), MAX_CONFIG_BYTES)[CONFIG_NAME]
    card = _parse_card(config, folder / CONFIG_NAME)
    num_params = sum(layer.num_params for layer in layers(card.spec))
    # At most 4 bytes per weight, and as many for batch norm's statistics.
    content = read_folder(folder, (WEIGHTS_NAME,), min(MAX_WEIGHTS_BYTES, 8 * num_params + MAX_HEADER_BYTES))
    if len(content[WEIGHTS_NAME]) < num_params:
        raise ArtifactError("too small for the network of config.json", where=folder / WEIGHTS_NAME)
    return card, content[WEIGHTS_NAME]


def _check_names(content: bytes, spec: NetworkSpec) -> None:
    """Raise ValueError if the tensors' names are not the network's, before thousands of layers are built for it."""
    names, expected = json.loads(_header(content)), [f"{layer.name}.weight" for layer in layers(spec)]
    if not isinstance(names, dict) or not names.keys() >= set(expected):
        raise ValueError(f"not all of its {len(expected):,} layers are there")
    if len(names) > MAX_NUM_ENTRIES + 5 * len(expected):
        raise ValueError(f"{len(names):,} tensors for {len(expected):,} layers")


def _parse_card(content: bytes, where: Path) -> Card:
    try:
        values = json.loads(content)
        _refuse_bulk(values)
        refuse_newer_format(values, "model", FORMAT, where)
        card = Card.model_validate_json(_in_current_format(content, values))
    except (ValidationError, ValueError, RecursionError, UsageError) as error:
        raise ArtifactError(f"not a model's configuration: {first_fault(error)}", where=where) from error
    if len(card.class_names) != card.spec.num_classes or len(set(card.class_names)) != len(card.class_names):
        raise ArtifactError("the number of class_names differs from spec.num_classes", where=where)
    return card


def _in_current_format(content: bytes, values: Any) -> bytes:
    """The content of config.json; one of an earlier format gets the current names."""
    if isinstance(values, dict) and type(values.get("format")) is int and 1 <= values["format"] <= FORMAT:
        return json_bytes(with_current_names(values, CARD_FIELDS) | {"format": FORMAT})
    return content


def _refuse_bulk(values: Any) -> None:
    """Raise ValueError for far too many entries, since validation would explain each one."""
    sections = [values, values.get("spec")] if isinstance(values, dict) else []
    for section in (section for section in sections if isinstance(section, dict)):
        lists = [value for name, value in section.items() if name != "class_names" and isinstance(value, list | dict)]
        if max(len(entries) for entries in (section, *lists)) > MAX_NUM_ENTRIES:
            raise ValueError(f"more than {MAX_NUM_ENTRIES} fields or entries")
