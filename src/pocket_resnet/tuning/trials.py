"""One trial: an ordinary run in SEARCH/trials/NNNN that pauses at each rung and continues if it is among the best.

Shapes: N validation images, K classes.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.exceptions import TrialPruned
from optuna.trial import Trial
from torch import Tensor

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.loader import Loader, Steps
from pocket_resnet.data.source import Source
from pocket_resnet.device import Hardware, choose
from pocket_resnet.errors import NonFiniteError, UsageError
from pocket_resnet.inference.evaluate import evaluate
from pocket_resnet.inference.latency import network_latencies
from pocket_resnet.model.artifact import load_model
from pocket_resnet.model.counts import FP32_BYTES, num_macs, num_params
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import override
from pocket_resnet.torch_settings import own_settings
from pocket_resnet.training.flops import training_flops
from pocket_resnet.training.precise_bn import remeasured
from pocket_resnet.training.prepare import fit_to_data, sample
from pocket_resnet.training.result import Result
from pocket_resnet.training.run import train
from pocket_resnet.tuning.settings import REDUCTION, Settings
from pocket_resnet.tuning.studies import number_of

COSTS = ("num_params", "num_macs", "steps", "train_flops", "seconds", "seconds_total", "machine")


def survives(value: float, others: Sequence[float]) -> bool:
    """Whether the value is in the best third (at least the best) of all that have reached its rung; lower is better.

    Asynchronous successive halving without waiting (Li et al. 2020, arXiv:1810.05934; "stopping" in Syne Tune).
    """
    values = sorted([*others, value])
    return value <= values[max(1, len(values) // REDUCTION) - 1]


@dataclass(frozen=True)
class TrialContext:
    """The settings, the data and the hardware that all trials of a worker share."""

    settings: Settings
    source: Source
    hardware: Hardware

    @functools.cached_property
    def num_images(self) -> int:
        """Number of training images."""
        return len(self.source.split("train"))

    @functools.cached_property
    def untuned(self) -> Recipe:
        """The search's own recipe, resolved for the data."""
        return self.fitted({})

    def fitted(self, changes: dict[str, Any]) -> Recipe:
        """The search's recipe with these changes, resolved for the data. Raises UsageError if it is impossible."""
        return fit_to_data(override(self.settings.recipe, changes), self.source, self.num_images, quiet=True)

    @functools.cached_property
    def untuned_flops(self) -> int:
        """Operations of one training with the untuned recipe."""
        return self.training_flops(self.untuned)

    @own_settings()
    def training_flops(self, recipe: Recipe) -> int:
        """Operations of one training with this resolved recipe, until its `max_steps`."""
        num_steps = Steps(self.num_images, recipe).last
        return training_flops(ResNet(recipe.model), recipe, self.num_images, num_steps)[1]

    def train(self, changes: dict[str, Any], runs_dir: Path, name: str) -> Result:
        """Train the changed recipe in that run's folder, or resume it there."""
        recipe = override(self.settings.recipe, changes)
        exists = (runs_dir / name / "recipe.toml").exists()
        return train(recipe, data_dir=self.settings.request.data_dir, runs_dir=runs_dir, run=name, resume=exists)


def open_data(recipe: Recipe, data_dir: Path | None) -> Source:
    """The data that the recipe names."""
    image_size, num_workers = recipe.model.image_size, recipe.data.num_workers
    return open_source(recipe.data.name, data_dir=data_dir, image_size=image_size, num_workers=num_workers)


def open_context(settings: Settings) -> TrialContext:
    """Open the data of the settings. Raises the errors of `open_source` and `context_of`."""
    return context_of(settings, open_data(settings.recipe, settings.request.data_dir))


def context_of(settings: Settings, source: Source) -> TrialContext:
    """The settings with their opened data, and the hardware. Raises UsageError if the hardware is not available."""
    return TrialContext(settings, source, choose(**settings.recipe.hardware.choices()))


def run_trial(trial: Trial, context: TrialContext) -> tuple[float, ...]:
    """Train the trial's recipe, and return the study's values: likelihood, or accuracy and cost.

    Raises TrialPruned if it falls behind at a rung, is impossible or diverges.
    """
    settings, number = context.settings, number_of(trial)
    changes = settings.space.suggest(trial)
    try:
        recipe = context.fitted(changes)
        steps = Steps(context.num_images, recipe)
    except UsageError as error:
        raise _pruned(trial, error.what) from error
    rungs: list[dict[str, Any]] = list(trial.user_attrs.get("rungs", ()))  # from a worker that died
    for index, share in enumerate(settings.shares):
        max_steps = math.ceil(share * steps.last)
        if index == len(rungs):
            try:
                result = context.train({**changes, "max_steps": max_steps}, settings.trials, f"{number:04d}")
            except NonFiniteError as error:
                _keep_cost_of_diverged(trial, override(recipe, {"max_steps": max_steps}), context)
                raise _pruned(trial, f"not finite, {error.what}") from error
            size = recipe.model.image_size if share == 1 else steps.image_size(result.steps - 1)
            rungs.append(measure_rung(result, recipe, size, context))
            trial.set_user_attr("cost", cost_of_run(result))
            trial.set_user_attr("rungs", rungs)
        if settings.request.trade is None:
            trial.report(rungs[index]["nll"], step=REDUCTION**index)
        if share < 1 and not survives(rungs[index]["nll"], _rivals(trial, index)):
            raise TrialPruned
    last = rungs[-1]
    if settings.request.trade is None:
        return (last["nll"],)
    return last["accuracy"], cost_of(settings.request.trade, recipe, context.hardware)


def cost_of(trade: str, recipe: Recipe, hardware: Hardware) -> float:
    """The cost of the recipe's network: parameters, multiply-adds, bytes of fp32 weights, or milliseconds per image."""
    if trade == "latency":
        with own_settings():
            hardware.use_threads()
            return 1000 * network_latencies([ResNet(recipe.model)], hardware)[0].median_s
    params = num_params(recipe.model)
    return float({"params": params, "bytes": FP32_BYTES * params, "macs": num_macs(recipe.model)}[trade])


@own_settings()
def measure_rung(result: Result, recipe: Recipe, image_size: int, context: TrialContext) -> dict[str, Any]:
    """A run's state, evaluated at this image size.

    Before the last rung, that is the size it was last trained at, also for batch-norm statistics: otherwise trials that
    begin with small images would look bad.
    """
    model, card = load_model(Path(result.model))
    context.hardware.use_threads()
    train_split, val = context.source.split("train"), context.source.split("val")
    placed, hardware = context.hardware.place(model), context.hardware
    batches: Iterable[Tensor] = ()
    if image_size != recipe.model.image_size and recipe.norm_images:
        loader = Loader(train_split, recipe, hardware, placed.normalize.mean, use_selection=False)
        indices_M = sample(len(train_split), recipe.norm_images, recipe.data_seed)
        batches = loader.norm_batches(indices_M, result.steps - 1, image_size)
    with remeasured(placed, batches):
        evaluation = evaluate(placed, val, card.class_names, hardware, split_name="val", image_size=image_size)
    return {"steps": result.steps, "image_size": image_size, "nll": evaluation.nll, "accuracy": evaluation.accuracy}


def _rivals(trial: Trial, index: int) -> list[float]:
    """The other trials' values at this rung; a trial that was started twice counts once."""
    others = {
        number_of(each): each.user_attrs["rungs"][index]["nll"]
        for each in trial.study.get_trials(deepcopy=False)
        if each.number != trial.number and len(each.user_attrs.get("rungs", ())) > index
    }
    others.pop(number_of(trial), None)
    return list(others.values())


def cost_of_run(result: Result) -> dict[str, Any]:
    """The cost of a run, as a study records it."""
    return {name: getattr(result, name) for name in COSTS}


def _keep_cost_of_diverged(trial: Trial, recipe: Recipe, context: TrialContext) -> None:
    """Record the operations of all steps up to the rung that it did not reach, as an upper bound."""
    known = dict(trial.user_attrs.get("cost", {}))
    flops = context.training_flops(recipe)
    trial.set_user_attr("cost", known | {"steps": recipe.max_steps, "train_flops": flops})


def _pruned(trial: Trial, why: str) -> TrialPruned:
    trial.set_user_attr("error", why)
    return TrialPruned(why)
