"""Before a run: what the recipe becomes for these data, and the untrained network."""

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from pocket_resnet.data.augment import to_float
from pocket_resnet.data.batches import steps_per_epoch
from pocket_resnet.data.source import Source, Split
from pocket_resnet.errors import DataError, UsageError
from pocket_resnet.model.design import Budget, design, fill_budget
from pocket_resnet.model.resnet import ResNet, initialise
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe import Recipe, parse_count
from pocket_resnet.recipe_toml import override
from pocket_resnet.seeds import generator
from pocket_resnet.training.dial import follow

NUM_WHITENING_IMAGES = 5000  # as Jordan 2024 (arXiv:2404.00498), section 3.1


def fit_to_data(recipe: Recipe, source: Source, num_images: int) -> tuple[Recipe, list[str]]:
    """The recipe with what depends on the data filled in, and a remark for each thing that a user may not expect."""
    remarks = []
    if len(source.class_names) < 2:
        raise DataError("only one class", where=source.name, mend="give it a folder with at least two class folders")
    changes: dict[str, Any] = {"data.name": source.name}
    needed = -(-recipe.min_steps // steps_per_epoch(num_images, recipe.batch_size, recipe.hardest))
    if needed > recipe.epochs:
        changes |= {"epochs": needed, "validate_every": -(-needed // max(4, recipe.epochs))}
        kept = f"--min-steps 0 keeps {recipe.epochs}"
        remarks.append(f"{num_images:,} images are few: {needed} epochs instead of {recipe.epochs} ({kept})")
    if recipe.augment.flip != "none" and not source.mirrored:
        changes["augment.flip"] = "none"
        remarks.append(f"{source.name}: mirrored images mean something else, so none are shown")
    if recipe.optim.lr == 0 or (recipe.optim.kind == "muon" and recipe.optim.muon_lr == 0):
        remarks.append("warning: a learning rate of 0 leaves its weights as they are")
    recipe = override(recipe, changes | {"model": asdict(_network(recipe, len(source.class_names)))})
    followed = follow(recipe)
    if followed:
        remarks.append("the dial: " + ", ".join(f"{key} {value}" for key, value in followed.items()))
    return override(recipe, {**followed, "dial": ()}), remarks


def _network(recipe: Recipe, num_classes: int) -> NetworkSpec:
    """The dial's network, or the recipe's own scaled to its budget, or as it is.

    The dial counts the epochs that were asked for: a run that `min_steps` lengthens is no longer in optimizer steps.
    """
    spec, budget = replace(recipe.model, num_classes=num_classes), budget_of(recipe)
    if "model" in recipe.dial:
        return design(budget, epochs=recipe.epochs, num_classes=num_classes, image_size=spec.image_size).spec
    return fill_budget(spec, budget) if budget.limits() else spec


def budget_of(recipe: Recipe) -> Budget:
    """What the recipe lets a network cost."""

    def limit(key: str) -> int | None:
        text = getattr(recipe, key)
        return None if text is None else parse_count(text, key)

    return Budget(num_params=limit("budget"), num_macs=limit("max_macs"), num_bytes=limit("max_bytes"))


def untrained(recipe: Recipe, source: Source, train_split: Split) -> ResNet:
    """The network as it is before the first step, on the CPU. Raises UsageError where it exceeds the budget.

    What counts is what was really built: every weight and bias, trainable or frozen; buffers are not parameters.
    """
    model = ResNet(recipe.model)
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > budget_of(recipe).limits().get("parameters", count):
        what = f"the network has {count:,} parameters, over the budget of {recipe.budget}"
        raise UsageError(what, where="budget", mend=f"give {count} or more, or narrower widths")
    initialise(model, recipe.init, generator(recipe.seed, "weights"))
    if recipe.augment.normalize:
        model.normalize.set_statistics(source.mean, source.std)
    if recipe.model.stem == "whitening":
        model.set_whitening(to_float(sample(train_split, NUM_WHITENING_IMAGES, recipe.seed)))
    return model


def sample(train_split: Split, num_images: int, seed: int) -> Tensor:
    """Some training images, always the same, drawn from all classes: a folder lists one class after the other."""
    chosen = torch.randperm(len(train_split), generator=generator(seed, "sample"))[:num_images]
    return train_split.images_NCHW[chosen]
