"""What `search` requests, and what it prints: cost, comparison, verdict, and the command to try next."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import pocket_resnet
from pocket_resnet.cli.search import print_search
from pocket_resnet.errors import DataError
from pocket_resnet.tuning.record import (
    NOTHING_TO_COMPARE,
    Cost,
    FinalRecord,
    Rung,
    SearchRecord,
    TrialRecord,
    verdict_of,
)
from pocket_resnet.tuning.search import SearchResult
from pocket_resnet.tuning.settings import Request

TRIAL = TrialRecord(0, "complete", {"optim.lr": 0.1}, [Rung(9, 32, 0.5, 0.8)], Cost(9, 3 * 10**12, 1, 2, 1234))


def compared(**accuracies: float) -> dict[str, Any]:
    """A record's final comparison: three runs of each candidate, a point of accuracy apart, and the verdict."""
    finals = [
        FinalRecord(candidate, seed, accuracy + seed / 100, 0.3, Cost(9, 10**12, 1, 2))  # type: ignore[arg-type]
        for candidate, accuracy in accuracies.items()
        for seed in (-1, 0, 1)
    ]
    return {"finals": finals, "verdict": verdict_of(finals)}


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """printed(front=[0]): the output for a search of one trial."""

    def show_record(**changes: Any) -> str:
        record = SearchRecord(
            name="s", recipe="", data="digits", space={}, num_trials=1, trade=None, trials=[TRIAL], importance={},
            best=0, front=[], finals=[], verdict=None, training_flops=2 * 10**12,
        )  # fmt: skip
        print_search(SearchResult(Path("s"), replace(record, **changes)))
        return capsys.readouterr().out

    return show_record


def test_a_gain(printed: Any) -> None:
    out = printed(**compared(tuned=0.9, untuned=0.8))
    assert out.splitlines() == [
        "trials      1 trained to the end, 0 stopped earlier",
        "cost        9 TFLOP in 14 s over all workers (6 TFLOP of it for the final comparison)",
        "            trials: 1.5 times one training of the untuned recipe, which costs 2 TFLOP",
        "untuned     80.00% ± 1.00%, loss 0.3000 ± 0.0000 (n = 3)",
        "tuned       90.00% ± 1.00%, loss 0.3000 ± 0.0000 (n = 3)",
        "difference  tuned - untuned +7.73 to +12.27 points of accuracy (95% Welch interval)",
        "verdict     a gain: use the tuned recipe",
        "next        pocket-resnet train s/best.toml",
    ]


def test_the_next_command_follows_the_verdict(printed: Any) -> None:
    out = printed(**compared(tuned=0.801, untuned=0.8))
    assert "verdict     no gain beyond noise: stay with the untuned recipe" in out
    assert out.endswith("next        pocket-resnet train s/untuned.toml\n")


def test_training_longer(printed: Any) -> None:
    out = printed(**compared(tuned=0.9, untuned=0.8, longer=0.95), longer_epochs=30)
    assert "longer      95.00% ± 1.00%, loss 0.3000 ± 0.0000 (n = 3), untuned for 30 epochs" in out
    assert "tuned - longer -7.27 to -2.73 points of accuracy" in out


def test_nothing_to_compare(printed: Any) -> None:
    out = printed(verdict=NOTHING_TO_COMPARE)
    assert "cost        3 TFLOP in 2 s over all workers\n" in out
    assert "verdict     no trial beat the untuned recipe: stay with the untuned recipe\n" in out
    assert out.endswith("next        pocket-resnet train s/untuned.toml\n")


def test_a_front_is_a_table_of_recipes(printed: Any) -> None:
    out = printed(trade="latency", trials=[replace(TRIAL, trade=0.25)], front=[0], best=None)
    head, row = (line.split() for line in out.splitlines()[-4:] if line.strip(" ─"))
    assert head == ["recipe", "accuracy", "milliseconds", "per", "image", "parameters"]
    assert row == ["s/front/0000.toml", "80.00%", "0.25", "1,234"]
    assert "next" not in out


def test_no_trial_ended(printed: Any) -> None:
    assert printed(trials=[replace(TRIAL, outcome="pruned")], best=None).endswith("for the reasons\n")


def test_the_command_and_python_request_the_same(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting arrives, from both; none has its default."""
    requests: list[Request] = []

    def note(request: Request) -> None:
        requests.append(request)
        raise DataError("noted", hint="stop here")

    monkeypatch.setattr("pocket_resnet.tuning.search.search", note)
    values: dict[str, Any] = {
        "data": "digits", "budget": "100K", "trials": 3, "hours": 0.5, "workers": 2, "trade": "macs",
        "space": tmp_path / "space.toml", "storage": "postgresql://h/d", "dir": tmp_path / "s", "data_dir": tmp_path,
    }  # fmt: skip
    with pytest.raises(DataError, match="noted"):
        pocket_resnet.search("fast", **values, equal_cost=True, resume=True)
    flags = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", value)]
    code, _, error = run("search", "fast", *flags, "--equal-cost", "--resume")
    assert (code, "noted" in error) == (3, True)
    assert requests[0] == requests[1]
    unset = Request(requests[0].recipe)
    assert [each.name for each in fields(Request) if getattr(requests[0], each.name) == getattr(unset, each.name)] == [
        "recipe"
    ]
