"""Prepares a run: adapts the recipe to the data, and builds the untrained network and its trainer."""

import logging
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pocket_resnet.data.augment import to_float
from pocket_resnet.data.loader import Loader, Steps
from pocket_resnet.data.source import Source, Split
from pocket_resnet.device import Hardware, machine
from pocket_resnet.errors import DataError, UsageError
from pocket_resnet.io.files import expanded
from pocket_resnet.model.counts import layers
from pocket_resnet.model.resnet import ResNet, initialise
from pocket_resnet.recipe.dial import budget_of, changed, follow, kept, limits_reached, network
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import override
from pocket_resnet.seeds import generator
from pocket_resnet.training.distributed import ALONE, Processes
from pocket_resnet.training.pretrained import take_over
from pocket_resnet.training.teacher import Watch, open_teacher, unwatched, with_teacher
from pocket_resnet.training.trainer import Trainer

_log = logging.getLogger(__name__)

NUM_VALIDATIONS = 8  # at least, of a run whose epochs are multiplied because it has few images
NUM_WHITENING_IMAGES = 5000  # as Jordan 2024 (arXiv:2404.00498), section 3.1


def fit_to_data(recipe: Recipe, source: Source, num_images: int, *, quiet: bool = False) -> Recipe:
    """The recipe with values that depend on the data filled in; logs unexpected ones, unless `quiet`."""
    notice, warning = (logging.DEBUG, logging.DEBUG) if quiet else (logging.INFO, logging.WARNING)
    if len(source.class_names) < 2:
        raise DataError("only one class", where=source.name, hint="use a folder with at least two class folders")
    changes: dict[str, Any] = {"data.name": source.name}
    if recipe.init_from is not None:
        changes["init_from"] = str(expanded(recipe.init_from).resolve())
    changes |= with_teacher(recipe, source)
    needed = -(-recipe.min_steps // Steps(num_images, recipe).per_epoch)
    if needed > recipe.epochs:
        every = recipe.validate_every
        if every == 1:
            every = -(-needed // max(NUM_VALIDATIONS, recipe.epochs))
        changes |= {"epochs": needed, "validate_every": every}
        instead = f"{needed} epochs instead of {recipe.epochs}, validated every {every}"
        _log.log(notice, f"{num_images:,} images are few: training {instead} (--min-steps 0 keeps {recipe.epochs})")
    if recipe.augment.flip != "none" and not source.flip_invariant:
        changes["augment.flip"] = "none"
        _log.log(
            notice, f"{source.name}: flipping changes the meaning of these images, so it is off (augment.flip none)"
        )
    if recipe.optim.lr == 0 or (recipe.optim.name == "muon" and recipe.optim.muon_lr == 0):
        _log.log(warning, "a learning rate of 0 does not change the weights")
    spec = network(recipe, len(source.class_names))
    reached = limits_reached(recipe, spec)
    if reached and recipe.explicit & {f"model.{field.name}" for field in fields(spec)}:
        _log.log(notice, "the [model] keys that you set leave part of the budget unused")
    recipe = override(recipe, changes | {"model": asdict(spec)} | reached)
    if derived := changed(recipe):
        _log.log(notice, "chosen for this network and number of epochs: " + ", ".join(derived))
    if overruled := kept(recipe):
        _log.log(notice, "kept because you set them: " + ", ".join(overruled))
    recipe = override(recipe, {**follow(recipe), "dial": ()})
    _refuse_single_values(recipe)
    return recipe


def _refuse_single_values(recipe: Recipe) -> None:
    """Raise UsageError if batch norm would see a single value per channel, which has no variance."""
    for size in sorted({recipe.model.image_size, *recipe.train_image_sizes}) if recipe.batch_size == 1 else ():
        if any(layer.kind == "norm" and layer.out_shape[1:] == (1, 1) for layer in layers(recipe.model, size)):
            what = f"batch norm cannot train on one image that is 1 x 1 inside the network (at {size} pixels)"
            raise UsageError(what, where="batch_size", hint="use --batch-size 2 or more, or larger images")


def untrained(recipe: Recipe, source: Source, train_split: Split) -> ResNet:
    """The initialised network, on the CPU. Raises UsageError if it exceeds the budget.

    Counts the parameters of the built network: every weight and bias, trainable or frozen, but no buffers.
    """
    model = ResNet(recipe.model)
    count = sum(parameter.numel() for parameter in model.parameters())
    budget = budget_of(recipe)
    if count > (most := budget.limits().get("parameters", count)):
        flag, needed = budget.flag_for("parameters", count)
        what = f"the network has {count:,} parameters, over the budget of {most:,}"
        raise UsageError(what, where=flag, hint=f"give {needed} or more, or narrower widths")
    initialise(model, recipe.init, generator(recipe.seed, "weights"), recipe.residual_gain)
    if recipe.pretrained.model is not None:
        take_over(model, Path(recipe.pretrained.model), source.class_names)
        return model
    if recipe.augment.normalize:
        model.normalize.set_statistics(source.mean, source.std)
    if recipe.model.stem == "whitening":
        chosen_M = sample(len(train_split), NUM_WHITENING_IMAGES, recipe.data_seed)
        model.set_whitening(to_float(train_split.images_NCHW[chosen_M]))
    return model


def new_trainer(
    recipe: Recipe,
    source: Source,
    train_split: Split,
    hardware: Hardware,
    processes: Processes = ALONE,
    data_dir: Path | None = None,
    watch_teacher: Watch = unwatched,
) -> Trainer:
    """The trainer of the untrained network, on the hardware, before its first step."""
    model = hardware.place(untrained(recipe, source, train_split))
    teacher = open_teacher(recipe, source, Steps(len(train_split), recipe), hardware, data_dir, watch_teacher)
    teacher_logits = None if teacher is None else teacher.logits
    loader = Loader(train_split, recipe, hardware, model.normalize.mean, teacher_logits, rows=processes.rows)
    return Trainer(model, loader, processes)


def sample(num_samples: int, num_images: int, seed: int) -> Tensor:
    """The same random sample of the training images every time, as indices int64 [M]."""
    return torch.randperm(num_samples, generator=generator(seed, "sample"))[:num_images]


def computed_on(hardware: Hardware, recipe: Recipe, processes: Processes) -> str:
    """The hardware and settings that the last bits of a run depend on."""
    layout = "channels last" if recipe.hardware.channels_last else "contiguous"
    compiled = ", compiled" if recipe.hardware.compile else ""
    winograd = ", Winograd" if hardware.winograd else ""
    side_by_side = ", side by side" if hardware.side_by_side and not recipe.hardware.compile else ""
    several = f", {processes.world_size} processes" if processes.world_size > 1 else ""
    return f"{machine(hardware)}, {layout}{compiled}{winograd}{side_by_side}{several}"
