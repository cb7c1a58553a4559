"""One trial: an ordinary run in SEARCH/trials/NNNN that pauses at each rung and continues if it is among the best.

Shapes: N validation images, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.exceptions import TrialPruned
from optuna.trial import Trial

from pocket_resnet.data.datasets import open_source
from pocket_resnet.data.loader import Steps
from pocket_resnet.data.source import Source
from pocket_resnet.device import Hardware, choose
from pocket_resnet.errors import NonFiniteError, UsageError
from pocket_resnet.inference.evaluate import class_probabilities, summarise
from pocket_resnet.inference.latency import network_latencies
from pocket_resnet.model.artifact import load_model
from pocket_resnet.model.counts import FP32_BYTES, num_macs, num_params
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.recipe.toml import override
from pocket_resnet.torch_settings import own_settings
from pocket_resnet.training.flops import training_flops
from pocket_resnet.training.metrics import read_metrics
from pocket_resnet.training.prepare import fit_to_data
from pocket_resnet.training.result import Result
from pocket_resnet.training.run import train
from pocket_resnet.tuning.settings import CANDIDATES, REDUCTION, Settings
from pocket_resnet.tuning.studies import number_of

COSTS = ("num_params", "num_macs", "steps", "train_flops", "seconds", "seconds_total", "machine")


def survives(value: float, others: Sequence[float]) -> bool:
    """Whether the value is in the best third (at least the best) of all that have reached its rung; lower is better.

    Asynchronous successive halving without waiting (Li et al. 2020, arXiv:1810.05934; "stopping" in Syne Tune).
    """
    values = sorted([*others, value])
    return value <= values[max(1, len(values) // REDUCTION) - 1]


@dataclass(frozen=True)
class Laboratory:
    """What all trials of a worker share: the settings, the data and the hardware."""

    settings: Settings
    source: Source
    hardware: Hardware

    @property
    def num_images(self) -> int:
        """Number of training images."""
        return len(self.source.split("train"))

    def fitted(self, changes: dict[str, Any]) -> Recipe:
        """The search's recipe with these changes, resolved for the data. Raises UsageError if it is impossible."""
        return fit_to_data(override(self.settings.recipe, changes), self.source, self.num_images, quiet=True)

    def train(self, changes: dict[str, Any], runs_dir: Path, name: str) -> Result:
        """Train the changed recipe in that run's folder, or resume it there."""
        recipe = override(self.settings.recipe, changes)
        begun = (runs_dir / name / "recipe.toml").exists()
        return train(recipe, data_dir=self.settings.data_dir, runs_dir=runs_dir, run=name, resume=begun)


def open_laboratory(settings: Settings) -> Laboratory:
    """The data and the hardware of the settings."""
    recipe = settings.recipe
    source = open_source(
        recipe.data.name,
        data_dir=settings.data_dir,
        image_size=recipe.model.image_size,
        num_workers=recipe.data.num_workers,
    )
    return Laboratory(settings, source, choose(**recipe.hardware.model_dump(exclude={"compile"})))


def run_trial(trial: Trial, laboratory: Laboratory) -> tuple[float, ...]:
    """Train the trial's recipe, and return the study's values: likelihood, or accuracy and cost.

    Raises TrialPruned if it falls behind at a rung, is impossible or diverges.
    """
    settings, number = laboratory.settings, number_of(trial)
    changes = settings.space.suggest(trial)
    try:
        recipe = laboratory.fitted(changes)
        steps = Steps(laboratory.num_images, recipe)
    except UsageError as error:
        raise _pruned(trial, error.what) from error
    rungs: list[dict[str, Any]] = list(trial.user_attrs.get("rungs", ()))  # of a worker that died
    for index, share in enumerate(settings.shares):
        max_steps = math.ceil(share * min(recipe.max_steps or steps.total, steps.total))
        if index == len(rungs):
            try:
                result = laboratory.train({**changes, "max_steps": max_steps}, settings.trials, f"{number:04d}")
            except NonFiniteError as error:
                _keep_cost_of_diverged(trial, recipe, laboratory, max_steps)
                raise _pruned(trial, f"not finite, {error.what}") from error
            rungs.append(_rung(result, steps.image_size(result.steps - 1), laboratory))
            trial.set_user_attr("cost", _costs(result))
            trial.set_user_attr("rungs", rungs)
        if settings.trade is None:
            trial.report(rungs[index]["nll"], step=REDUCTION**index)
        if share < 1 and not survives(rungs[index]["nll"], _rivals(trial, index)):
            raise TrialPruned
    last = rungs[-1]
    if settings.trade is None:
        return (last["nll"],)
    return last["accuracy"], cost_of(settings.trade, recipe, laboratory.hardware)


def run_final(trial: Trial, laboratory: Laboratory, winner: dict[str, Any]) -> float:
    """One run of the final comparison: the trial's number determines the candidate and the fresh seed."""
    index = number_of(trial)
    candidate, seed = CANDIDATES[index % 2], laboratory.settings.recipe.seed + 1 + index // 2
    changes = (winner if candidate == "tuned" else {}) | {"seed": seed}
    result = laboratory.train(changes, laboratory.settings.finals, f"{candidate}-seed{seed}")
    nll = float(read_metrics(Path(result.model).parent / "metrics.jsonl")[-1]["val_nll"])
    found = {"candidate": candidate, "seed": seed, "accuracy": result.accuracy, "nll": nll}
    trial.set_user_attr("final", found | _costs(result))
    return nll


def cost_of(trade: str, recipe: Recipe, hardware: Hardware) -> float:
    """What the recipe's network costs: parameters, multiply-adds, bytes of fp32 weights, or milliseconds per image."""
    if trade == "latency":
        with own_settings():
            hardware.use_threads()
            return 1000 * network_latencies([ResNet(recipe.model)], hardware)[0].median_s
    params = num_params(recipe.model)
    return float({"params": params, "bytes": FP32_BYTES * params, "macs": num_macs(recipe.model)}[trade])


@own_settings()
def _rung(result: Result, image_size: int, laboratory: Laboratory) -> dict[str, Any]:
    """A run's state, evaluated at the image size it was last trained at: otherwise small sizes would look bad early."""
    model, card = load_model(Path(result.model))
    laboratory.hardware.use_threads()
    val = laboratory.source.split("val")
    placed = laboratory.hardware.place(model)
    probabilities_NK = class_probabilities(placed, val.images_NCHW, laboratory.hardware, image_size=image_size)
    found = summarise(probabilities_NK, val.labels_N, card.class_names, "val", views=1)
    return {"steps": result.steps, "image_size": image_size, "nll": found.nll, "accuracy": found.accuracy}


def _rivals(trial: Trial, index: int) -> list[float]:
    """The other trials' values at this rung; a trial that was started twice counts once."""
    others = {
        number_of(each): each.user_attrs["rungs"][index]["nll"]
        for each in trial.study.get_trials(deepcopy=False)
        if each.number != trial.number and len(each.user_attrs.get("rungs", ())) > index
    }
    others.pop(number_of(trial), None)
    return list(others.values())


def _costs(result: Result) -> dict[str, Any]:
    return {name: getattr(result, name) for name in COSTS}


def _keep_cost_of_diverged(trial: Trial, recipe: Recipe, laboratory: Laboratory, num_steps: int) -> None:
    """Record the operations of all steps up to the rung that it did not reach, as an upper bound."""
    _, flops = training_flops(ResNet(recipe.model), recipe, laboratory.num_images, num_steps)
    known = dict(trial.user_attrs.get("cost", {}))
    trial.set_user_attr("cost", known | {"steps": num_steps, "train_flops": flops})


def _pruned(trial: Trial, why: str) -> TrialPruned:
    trial.set_user_attr("error", why)
    return TrialPruned(why)
