"""The exact size of a network, layer by layer, and the network for a budget, without building either."""

import dataclasses
from typing import Any

from pocket_resnet.errors import UsageError, did_you_mean
from pocket_resnet.io.files import expanded
from pocket_resnet.io.hub_address import is_address
from pocket_resnet.model.catalog import CATALOG, named
from pocket_resnet.model.counts import FP32_BYTES, layers, num_macs, num_params, peak_activation_values
from pocket_resnet.model.design import Budget, Design, design
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.dial import network
from pocket_resnet.recipe.schema import parse_count
from pocket_resnet.recipe.toml import is_recipe, load_recipe, recipe_names


def find_spec(name: str) -> NetworkSpec:
    """The network of a model directory, a recipe (by name or .toml) or the catalog; the first match in this order.

    A recipe's network is the one it trains on CIFAR-10, scaled to its budget.

    Raises UsageError if nothing has that name.
    """
    path = expanded(name)
    if path.is_dir() or is_address(path):
        from pocket_resnet.model.artifact import load_card  # imports torch, which nothing else here needs

        return load_card(path).spec
    if is_recipe(name):
        recipe = load_recipe(name)
        return network(recipe, recipe.model.num_classes)
    try:
        return named(name)
    except UsageError as error:
        raise UsageError(
            f"{name!r} is not a model directory, recipe or network{did_you_mean(name, [*recipe_names(), *CATALOG])}",
            hint=f"recipes: {', '.join(recipe_names())}; networks: {', '.join(CATALOG)}, any wrn-DEPTH-WIDTH",
        ) from error


def summarise(spec: NetworkSpec) -> dict[str, Any]:
    """Counts, bytes and a row per layer, as printed by `summary --json`."""
    return {
        "num_params": num_params(spec),
        "num_macs": num_macs(spec),
        "num_bytes": FP32_BYTES * num_params(spec),
        "peak_activation_bytes": FP32_BYTES * peak_activation_values(spec),
        "spec": dataclasses.asdict(spec),
        "layers": [layer._asdict() for layer in layers(spec)],
    }


def find_design(limits: dict[str, str], epochs: int | None = None, num_classes: int = 10) -> Design:
    """The network for the limits (budget, max_macs, max_bytes as in a recipe).

    `epochs` is the planned number of epochs (default: as in the recipe `best`). Raises UsageError for a limit that is
    not a number, or that no network fits.
    """
    if epochs is not None and epochs < 1:
        raise UsageError(f"{epochs} is not a valid number of epochs", where="epochs", hint="give 1 or more")
    counts = {key: parse_count(text, key) for key, text in limits.items()}
    budget = Budget(num_params=counts.get("budget"), num_macs=counts.get("max_macs"), num_bytes=counts.get("max_bytes"))
    planned = load_recipe("best").epochs if epochs is None else epochs
    return design(budget, epochs=planned, num_classes=num_classes)


def design_json(chosen: Design, flags: dict[str, str]) -> dict[str, Any]:
    """The object that `design --json` prints; `flags` are those of `train` that give this network."""
    costs = {key: value for key, value in summarise(chosen.spec).items() if key != "layers"}
    return costs | {"limits": chosen.budget.given(), "reasons": list(chosen.reasons), "flags": flags}
