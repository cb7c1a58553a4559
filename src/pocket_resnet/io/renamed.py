"""Names that earlier versions wrote into files, and their current names.

Every reader of a recipe, a model's config.json or a checkpoint takes its table from here, so files of all earlier
versions stay readable. Names are dotted; only the last part of a name changes.
"""

from collections.abc import Mapping
from typing import Any, Final

from pocket_resnet.errors import UsageError

RECIPE_KEYS: Final = {
    "average": "ema",
    "hardest": "hard_fraction",
    "hardest_until": "hard_until",
    "resolutions": "train_image_sizes",
    "model.stochastic_depth": "model.drop_path",
    "augment.erasing": "augment.random_erasing",
    "optim.kind": "optim.name",
    "schedule.kind": "schedule.shape",
}
CARD_FIELDS: Final = {"mirrored": "flip_invariant", "spec.stochastic_depth": "spec.drop_path"}  # of config.json
TENSORS: Final = {"average": "ema"}  # of checkpoints, format 1


def current_name(name: str, table: Mapping[str, str]) -> str:
    """The dotted name with the current name of each part: `average.decay` is `ema.decay`."""
    current = ""
    for part in name.split("."):
        path = f"{current}.{part}" if current else part
        current = table.get(path, path)
    return current


def with_current_names(values: Mapping[str, Any], table: Mapping[str, str], section: str = "") -> dict[str, Any]:
    """Nested tables with the current names of all keys. Raises UsageError if both an old and its new name are set."""
    renamed: dict[str, Any] = {}
    for key, value in values.items():
        path = section + key
        new_path = table.get(path, path)
        if new_path != path and new_path.removeprefix(section) in values:
            raise UsageError(f"`{path}` is now `{new_path}`, but both are set", hint=f"remove `{path}`")
        nested = with_current_names(value, table, f"{new_path}.") if isinstance(value, dict) else value
        renamed[new_path.removeprefix(section)] = nested
    return renamed
