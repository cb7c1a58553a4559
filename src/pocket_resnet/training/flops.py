"""Floating-point operations of a whole training run, counted on the real network, not estimated."""

import copy
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pocket_resnet.data.batches import num_candidates, steps_per_epoch
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe import Recipe
from pocket_resnet.training.schedule import image_side, trained_share
from pocket_resnet.training.selection import num_chosen

COUNTED_BATCH = 2


def training_flops(model: ResNet, recipe: Recipe, num_samples: int, num_steps: int) -> tuple[int, int]:
    """(images trained, FLOP of their forward and backward passes) in the first `num_steps` steps.

    Convolutions and matrix products of the network; optimizer, evaluation and augmentation are not in it.
    """
    per_epoch = steps_per_epoch(num_samples, recipe.batch_size, recipe.hardest)
    planned = recipe.epochs * per_epoch
    candidates = num_candidates(recipe.batch_size, recipe.hardest)
    images_by_side: dict[int, int] = {}
    for step in range(num_steps):
        side = image_side(recipe.resolutions, recipe.model.image_size, step, planned)
        num_left = num_samples - step % per_epoch * candidates
        num_images = num_chosen(min(candidates, num_left), trained_share(recipe, step, planned))
        images_by_side[side] = images_by_side.get(side, 0) + num_images
    flops = sum(num_images * flops_per_image(model, side) for side, num_images in images_by_side.items())
    return sum(images_by_side.values()), flops


def flops_per_image(model: ResNet, side: int) -> int:
    """FLOP (two a multiply-add) of one image's forward and backward pass at `side` pixels."""
    twin = copy.deepcopy(model).cpu().train()
    with FlopCounterMode(display=False) as counter:
        loss: Any = twin(torch.rand(COUNTED_BATCH, 3, side, side)).sum()
        loss.backward()
    return int(counter.get_total_flops()) // COUNTED_BATCH
