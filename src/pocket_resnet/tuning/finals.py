"""The final comparison: the winner and the untuned recipe, each trained again with the same fresh seeds.

With equal cost, it adds the untuned recipe trained for more epochs, with about as many operations as the search.
"""

from dataclasses import dataclass
from typing import Any

from optuna.exceptions import TrialPruned
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from pocket_resnet.errors import NonFiniteError
from pocket_resnet.tuning import studies
from pocket_resnet.tuning.settings import NUM_SEEDS, Candidate
from pocket_resnet.tuning.studies import number_of
from pocket_resnet.tuning.trials import TrialContext, cost_of_run

DIVERGED = "diverged"  # a trial's attribute: the candidate whose run was not finite
NUM_ADJUSTMENTS = 3  # of the number of epochs, since the dial may choose another network for another number


@dataclass(frozen=True)
class Contender:
    """A recipe of the comparison: its changes to the untuned one, and the prefix of its runs' folder names."""

    candidate: Candidate
    changes: dict[str, Any]
    folder: str


@dataclass(frozen=True)
class FinalComparison:
    """Contenders, and the study that queues their runs: one trial for each contender and seed."""

    study: Study
    contenders: tuple[Contender, ...]

    def run(self, trial: Trial, context: TrialContext) -> tuple[float]:
        """Train one run; the trial's number determines the contender and the fresh seed.

        Raises TrialPruned if it diverges.
        """
        index = number_of(trial)
        contender = self.contenders[index % len(self.contenders)]
        seed = context.settings.recipe.seed + 1 + index // len(self.contenders)
        changes = contender.changes | {"seed": seed}
        try:
            result = context.train(changes, context.settings.finals, f"{contender.folder}-seed{seed}")
        except NonFiniteError as error:
            trial.set_user_attr(DIVERGED, contender.candidate)
            raise TrialPruned from error
        nll = float(result.records()[-1]["val_nll"])
        final = {"candidate": contender.candidate, "seed": seed, "accuracy": result.accuracy, "nll": nll}
        trial.set_user_attr("final", final | cost_of_run(result))
        return (nll,)


def winner_of(study: Study) -> FrozenTrial | None:
    """The completed trial with the lowest likelihood loss; None if none is complete."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min(complete, key=lambda trial: (trial.values[0], trial.number), default=None)


def open_comparisons(context: TrialContext, storage: BaseStorage, study: Study) -> list[FinalComparison]:
    """The comparisons that follow the trials of a study, all of which have ended.

    None follows a search with two goals, nor one whose winner is the untuned recipe itself.
    """
    settings = context.settings
    winner = winner_of(study) if settings.request.trade is None else None
    if winner is None:
        return []
    values, number = settings.space.values(winner.params), number_of(winner)
    tuned = context.fitted(values)
    if tuned == context.untuned:
        return []
    name = f"{settings.name}/winner-{number}"
    contenders = Contender("tuned", values, f"{number:04d}"), Contender("untuned", {}, "untuned")
    comparisons = [_comparison(name, storage, *contenders)]
    if settings.request.equal_cost:
        epochs = epochs_for(trials_flops(study) + context.training_flops(tuned), context)
        longer = Contender("longer", {"epochs": epochs, "min_steps": 0}, f"untuned-{epochs}-epochs")
        comparisons.append(_comparison(f"{name}/{epochs}-epochs", storage, longer))
    return comparisons


def _comparison(name: str, storage: BaseStorage, *contenders: Contender) -> FinalComparison:
    return FinalComparison(studies.open_queue(name, storage, len(contenders) * NUM_SEEDS), contenders)


def trials_flops(study: Study) -> int:
    """Operations of all trials so far."""
    trials = studies.numbered(study, *studies.ALIVE)
    return sum(trial.user_attrs.get("cost", {}).get("train_flops", 0) for trial in trials)


def epochs_for(flops: int, context: TrialContext) -> int:
    """The number of epochs for which training the untuned recipe costs about this many operations."""
    epochs = context.untuned.epochs
    for _ in range(NUM_ADJUSTMENTS):
        recipe = context.fitted({"epochs": epochs, "min_steps": 0})
        epochs = max(1, epochs * flops // context.training_flops(recipe))
    return epochs
