"""The importance of keys, and the front of a search, which is measured again."""

from dataclasses import replace
from typing import Any

import optuna
import pytest

from pocket_resnet.inference.latency import Latency
from pocket_resnet.tuning import summary
from pocket_resnet.tuning.record import Cost, Rung, SearchRecord, TrialRecord
from pocket_resnet.tuning.summary import search_record, with_latencies_side_by_side, write_results


@pytest.mark.parametrize("trade", [None, "macs"])
def test_importance_is_that_of_the_good_trials(trade: Any, context: Any) -> None:
    """One key makes a trial the best, the other the worst; a goal is the lowest loss, two the highest accuracy."""
    request = replace(context.settings.request, trade=trade)
    context = replace(context, settings=replace(context.settings, request=request))
    study = optuna.create_study(directions=["minimize"] if trade is None else ["maximize", "minimize"])
    study.set_user_attr("num_trials", 40)
    for number in range(40):
        crop_px, lr = (2 if number % 8 == 0 else 0), (0.1 if number % 8 == 4 else 0.01)
        params = {"augment.crop_px": crop_px, "optim.lr": lr, "train_image_sizes": "[]"}
        study.enqueue_trial(params, user_attrs={"number": number})
        trial = study.ask()
        context.settings.space.suggest(trial)
        accuracy = 0.5 + 0.2 * (crop_px == 2) - 0.2 * (lr == 0.1)
        study.tell(trial, -accuracy if trade is None else (accuracy, 1.0))
    importance = search_record(context, study, None).importance
    assert max(importance, key=lambda key: importance[key]) == "augment.crop_px"


def test_the_front_is_measured_again_side_by_side(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that turns out slower than a more accurate one leaves the front."""
    settings = context.settings
    values = settings.space.values(settings.space.params(settings.recipe))
    trials = [
        TrialRecord(number, "complete", values, [Rung(4, 8, 0.5, accuracy)], Cost(), trade=number + 1.0)
        for number, accuracy in enumerate((0.7, 0.8, 0.9, 0.1))
    ]
    record = SearchRecord(
        name="s", recipe="", data="synthetic", space={}, num_trials=4, trade="latency", trials=trials, importance={},
        best=None, front=[0, 1, 2], finals=[], verdict=None,
    )  # fmt: skip
    milliseconds = [1.5, 4.0, 3.0]
    monkeypatch.setattr(
        summary,
        "network_latencies",
        lambda networks, _: [Latency(ms / 1000, ms / 1000, 0, 51) for ms in milliseconds[: len(networks)]],
    )
    remeasured = with_latencies_side_by_side(record, context)
    assert remeasured.front == [0, 2]
    assert [trial.trade for trial in remeasured.trials] == pytest.approx([1.5, 4, 3, 4])
    write_results(record, context)
    write_results(remeasured, context)
    assert sorted(path.name for path in (settings.folder / "front").iterdir()) == ["0000.toml", "0002.toml"]
    assert with_latencies_side_by_side(replace(record, front=[]), context).front == []
