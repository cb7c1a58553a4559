"""The figures and facts of the report on a search; templates/search.html.jinja has the words."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pocket_resnet.plots.search_figures import (
    Column,
    TrialPoint,
    cost_front,
    key_importance,
    parallel_coordinates,
    search_history,
)
from pocket_resnet.plots.style import png
from pocket_resnet.recipe.toml import read_toml_text
from pocket_resnet.reporting.page import Picture
from pocket_resnet.tuning.record import BEST_NAME, SearchRecord, TrialRecord, front_name, read_record


@dataclass(frozen=True)
class SearchPage:
    """One search; `recipes` are the winner's or the front's, by the name of their file."""

    record: SearchRecord
    keys: list[str]
    recipes: dict[str, str]
    pictures: dict[str, Picture]

    @property
    def title(self) -> str:
        """The search's name and its data."""
        return f"Search {self.record.name} on {self.record.data}"

    def shown(self, value: Any) -> str:
        """A recipe's value in the table: numbers with three digits."""
        return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)


def search_page(folder: Path) -> SearchPage:
    """The content of the page, without empty figures."""
    record = read_record(folder)
    drawn = {name: figure for name, figure in _figures(record).items() if figure is not None}
    names = [BEST_NAME] if record.best is not None else list(map(front_name, record.front))
    recipes = {name: read_toml_text(folder / name) for name in names if (folder / name).is_file()}
    return SearchPage(
        record=record,
        keys=[key for key in record.space if any(key in trial.values for trial in record.trials)],
        recipes=recipes,
        pictures={name: Picture(png(figure)) for name, figure in drawn.items()},
    )


def _figures(record: SearchRecord) -> dict[str, Figure | None]:
    ended = [trial for trial in record.trials if trial.rungs and trial.outcome in ("complete", "pruned")]
    complete = [trial for trial in ended if trial.outcome == "complete"]
    points = [TrialPoint(each.number, each.rungs[-1].nll, each.outcome == "complete") for each in ended]
    columns = [_column(key, limits, complete) for key, limits in record.space.items()] if complete else []
    costs = [(each.trade, each.rungs[-1].accuracy, each.number in record.front) for each in complete if each.trade]
    return {
        "history": search_history(points) if points else None,
        "importance": key_importance(record.importance) if any(record.importance.values()) else None,
        "parallel": parallel_coordinates(columns, [each.rungs[-1].nll for each in complete]) if complete else None,
        "front": cost_front(costs, record.trade_unit) if record.trade_unit and costs else None,
    }


def _column(key: str, limits: dict[str, Any], trials: list[TrialRecord]) -> Column:
    """Each trial's value as a position between the ends of the searched range."""
    values = [trial.values[key] for trial in trials]
    if "choices" in limits:
        choices = limits["choices"]
        positions = tuple(choices.index(value) / (len(choices) - 1) for value in values)
        return Column(key, json.dumps(choices[0]), json.dumps(choices[-1]), positions)
    low, high = limits["low"], limits["high"]
    if limits.get("log"):
        positions = tuple(math.log(value / low) / math.log(high / low) for value in values)
    else:
        positions = tuple((value - low) / (high - low) for value in values)
    return Column(f"{key} (log)" if limits.get("log") else key, f"{low:g}", f"{high:g}", positions)
