"""A search of tiny runs, which take a tenth of a second each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pocket_resnet.recipe.toml import override, to_toml
from pocket_resnet.tuning import studies, trials
from pocket_resnet.tuning.settings import Request, Settings
from pocket_resnet.tuning.space import Choices, Range, Space
from pocket_resnet.tuning.storage import open_storage, quiet_optuna
from pocket_resnet.tuning.trials import open_context
from pocket_resnet.tuning.workers import Worker

SPACE = Space(
    {
        "optim.lr": Range(low=0.01, high=0.1, log=True),
        "augment.crop_px": Range(low=0, high=2),
        "train_image_sizes": Choices(choices=[[], [6, 8]]),
    }
)


@pytest.fixture
def make_settings(make_recipe: Callable[..., Any], synthetic: Any, tmp_path: Path) -> Callable[..., Settings]:  # noqa: ARG001
    """make_settings(num_trials=4): a search of the tiny recipe, within the budget of its network."""

    def make(**changes: Any) -> Settings:
        recipe = override(make_recipe(checkpoint={"every_s": 60.0}), {"budget": 1_391})
        own = {"folder": tmp_path / "searches" / "tiny", "space": SPACE}
        own |= {name: changes.pop(name) for name in own.keys() & changes.keys()}
        return Settings(Request(recipe, **{"num_trials": 4} | changes), recipe=recipe, **own)

    return make


@pytest.fixture
def digits_recipe(make_recipe: Callable[..., Any], tiny_spec: Any, tmp_path: Path) -> Path:
    """A recipe for the digits, for real commands: two epochs of 19 steps in a second."""
    changes = {"model": replace(tiny_spec, image_size=32), "batch_size": 64, "train_image_sizes": (), "norm_images": 0}
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(make_recipe(**changes, data={"name": "digits"}, checkpoint={"every_s": 60.0})))
    return path


@pytest.fixture
def begin(synthetic: Any) -> Callable[[Settings], Any]:
    """begin(settings) creates the study in the settings' storage and returns it."""

    def create(settings: Settings) -> Any:
        with quiet_optuna():
            first = settings.space.params(settings.recipe)
            return studies.open_study(settings, open_storage(settings), synthetic, first)

    return create


@pytest.fixture
def work() -> Callable[..., None]:
    """work(settings, index) does what a worker's process does, in this one."""

    def run(settings: Settings, index: int = 0) -> None:
        with quiet_optuna():
            Worker(settings, index).work()

    return run


@pytest.fixture
def let_win(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """let_win(2) makes that trial the best, also against an earlier winner."""
    rung = trials.measure_rung

    def choose(number: int) -> None:
        def judge(result: Any, *others: Any) -> dict[str, Any]:
            record = rung(result, *others)
            return record | {"nll": record["nll"] - (1 + number) * (f"/{number:04d}/" in result.model)}

        monkeypatch.setattr(trials, "measure_rung", judge)

    return choose


@pytest.fixture
def context(make_settings: Callable[..., Settings]) -> Any:
    return open_context(make_settings())
