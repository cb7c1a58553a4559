"""Fine-tuning: starts a run from a trained model's weights, also for other classes.

The network is the model's. Its stem, stages, batch-norm statistics and input normalisation are copied; of its head,
only the rows of classes that the data also has, by name. All other rows are initialised from the run's seed.

For the first `pretrained.freeze_epochs` epochs only the head is trained. Stem, stages and the norm before the head, if
there is one, are frozen: no gradient, no weight decay, no dropped paths, and batch norm uses and keeps the model's
statistics, also in validation. After these epochs, everything is trained.

Shapes: K classes, C channels.
"""

import logging
from dataclasses import asdict
from pathlib import Path

import torch

from pocket_resnet.data.layout import unicode_form
from pocket_resnet.errors import UsageError
from pocket_resnet.model.artifact import identify, load_model
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import override

_log = logging.getLogger(__name__)


def with_pretrained(recipe: Recipe) -> Recipe:
    """The recipe with the network of its pretrained model, that model's absolute path and the SHA-256 of its weights.

    Raises UsageError if the model is not the one that the recipe names, or the recipe asks for another network;
    ArtifactError if it is damaged.
    """
    if recipe.pretrained.model is None:
        if recipe.pretrained.freeze_epochs:
            what = "pretrained.freeze_epochs without a pretrained model: an untrained body cannot stay as it is"
            raise UsageError(what, hint="add --from MODEL, or remove --freeze")
        return recipe
    folder, card, sha256 = identify(recipe.pretrained.model, recipe.pretrained.sha256, "pretrained.sha256")
    own, network = asdict(recipe.model), asdict(card.spec)
    for name in network:
        if name != "num_classes" and f"model.{name}" in recipe.explicit and own[name] != network[name]:
            difference = f"{name} {own[name]} instead of {network[name]}"
            what = f"the recipe asks for another network than the model's: {difference}"
            hint = "use a recipe without a network of its own, such as finetune, or remove --from"
            raise UsageError(what, where=folder, hint=hint)
    changes = {"pretrained.model": str(folder), "pretrained.sha256": sha256, "model": network}
    return override(recipe, changes)


@torch.no_grad()
def take_over(model: ResNet, path: Path, class_names: tuple[str, ...]) -> None:
    """Give the untrained network the weights and statistics of the trained one at the path, which has the same body.

    `class_names` are the network's own. Rows of its head for classes that the trained one lacks are unchanged.
    """
    trained, card = load_model(path)
    own, known = model.state_dict(), {unicode_form(name): row for row, name in enumerate(card.class_names)}
    rows = [(row, known[unicode_form(name)]) for row, name in enumerate(class_names) if unicode_form(name) in known]
    for name, value in trained.state_dict().items():
        if not name.startswith("head."):
            own[name].copy_(value)
        elif rows:
            to, of = map(list, zip(*rows, strict=True))
            own[name][to] = value[of]
    _log.info(f"starts from the weights of {path}, which knows {len(rows)} of the {len(class_names)} classes")
