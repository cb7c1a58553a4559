"""The settings of a search: what the user requested, and what follows from the recipe and the data."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pocket_resnet.recipe.schema import Recipe, parse_count
from pocket_resnet.tuning.space import Space

Candidate = Literal["tuned", "untuned", "longer"]
Trade = Literal["latency", "macs", "bytes", "params"]

REDUCTION = 3  # a third of the trials that reach a rung continues
SHARES = (1 / REDUCTION**2, 1 / REDUCTION, 1.0)  # the rungs, as shares of the run's steps
NUM_SEEDS = 3  # in the final comparison


@dataclass(frozen=True)
class Request:
    """A user's request, as the flags of `search` describe it."""

    recipe: Recipe
    num_trials: int = 40
    hours: float | None = None
    num_workers: int = 1
    trade: Trade | None = None
    equal_cost: bool = False
    """Whether the untuned recipe is also trained longer, with about as many operations as the search."""
    space: Path | None = None
    storage: str | None = field(default=None, repr=False)
    """A PostgreSQL URL, which may have a password in it; None is $POCKET_RESNET_STORAGE."""
    folder: Path | None = None
    """None is searches/RECIPE-DATA."""
    data_dir: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class Settings:
    """A request, completed from the recipe and the data; all processes of the search share it."""

    request: Request
    folder: Path
    recipe: Recipe
    """The requested one with the data's full name, a budget, and a share of the processor for each worker."""
    space: Space

    @property
    def name(self) -> str:
        """Name of the study, by which machines find it on a shared server."""
        return self.folder.name

    @property
    def budget(self) -> int:
        """Most parameters that a trial's network may have."""
        return parse_count(str(self.recipe.budget), "budget")

    @property
    def shares(self) -> tuple[float, ...]:
        """The rungs. With two goals a trial that is behind in one may be ahead in the other, so all run to the end."""
        return SHARES if self.request.trade is None else (1.0,)

    @property
    def trials(self) -> Path:
        """The folder of the trials' runs."""
        return self.folder / "trials"

    @property
    def finals(self) -> Path:
        """The folder of the runs of the final comparison."""
        return self.folder / "finals"
