"""tools/load.py measures real servers, with the queue and without."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tools import load

GOLDEN = Path(__file__).parents[1] / "faults" / "golden" / "model-0.1.0"


def test_both_servers_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    measured = {variant: load.Measured() for variant in load.VARIANTS}
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        for variant in load.VARIANTS:
            target = load.start_server(stack, GOLDEN, variant)
            started_s = time.perf_counter()
            load.load(target, 4, 0.5, measured[variant])
            seconds[variant] = time.perf_counter() - started_s
            assert load.mean_batch(target.port) >= 1
            if variant == "alone":
                assert load.mean_batch(target.port) == 1
    load.report(4, measured)
    for variant, measurement in measured.items():
        assert measurement.num_errors == 0
        assert measurement.processor_s > 0
        assert len(measurement.latencies_s) >= 4
        [rate] = measurement.rates
        assert 0.4 < len(measurement.latencies_s) / rate <= seconds[variant]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["queue", "alone", "ratio"]


def test_errors_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "HEADERS", {"Content-Type": "text/plain"})
    measured = load.Measured()
    with ExitStack() as stack:
        load.load(load.start_server(stack, GOLDEN, "queue"), 1, 0.2, measured)
    assert measured.num_errors == len(measured.latencies_s) > 0
