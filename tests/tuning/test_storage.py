"""Addresses of servers, retries after a lost connection, and Optuna's settings."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.tuning import storage
from pocket_resnet.tuning.storage import (
    JOURNAL_NAME,
    open_storage,
    parse_url,
    patience_s,
    patient,
    quiet_optuna,
    without_password,
)


@pytest.mark.threat(84)
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host:5433/db", "postgresql://host:5433/db"),
        ("postgresql+psycopg2://me:secret@host/db?password=secret", "postgresql://host/db"),
        ("postgres://host/db", "postgresql://host/db"),
        ("postgresql:///db", "postgresql://localhost/db"),
    ],
)
def test_a_server_is_named_without_its_secrets(text: str, shown: str) -> None:
    url = parse_url(text)
    assert url.drivername == "postgresql+psycopg"
    assert without_password(url) == shown


@pytest.mark.threat(84)
@pytest.mark.parametrize(
    "text", ["", "secret", "mysql://me:secret@host/db", "sqlite:///secret", "postgresql://h:secret/d"]
)
def test_an_invalid_address_is_refused_without_printing_it(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_url(text)
    assert "secret" not in str(refused.value)
    assert "pgpass" in str(refused.value)


def lost() -> OperationalError:
    return OperationalError("select", {}, Exception("connection refused for secret"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fake storage, and a clock that only its pauses advance."""
    clock = SimpleNamespace(now_s=0.0, pauses=[])

    def sleep(seconds: float) -> None:
        clock.now_s += seconds
        clock.pauses.append(seconds)

    monkeypatch.setattr(storage, "time", SimpleNamespace(monotonic=lambda: clock.now_s, sleep=sleep))
    url = parse_url("postgresql://me:secret@host/db")
    return SimpleNamespace(failing_since_s=math.inf, engine=SimpleNamespace(url=url), clock=clock)


def test_an_operation_is_tried_again_with_growing_pauses(server: Any, logged: pytest.LogCaptureFixture) -> None:
    responses = iter([lost(), lost(), lost(), "here"])

    def ask(_: Any) -> str:
        response = next(responses)
        if isinstance(response, Exception):
            raise response
        return response

    assert patient(ask)(server) == "here"
    assert server.clock.pauses == [0.2, 0.4, 0.8]
    assert server.failing_since_s == math.inf
    assert logged.messages == ["no answer from postgresql://host/db: trying again"]


@pytest.mark.threat(83)
def test_the_deadline_is_shared(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later operations fail at once, so a worker ends soon."""
    monkeypatch.setenv(storage.PATIENCE_VARIABLE, "60")

    def ask(_: Any) -> str:
        raise optuna.exceptions.StorageInternalError from lost()

    with pytest.raises(EnvironmentFault, match=r"no answer from postgresql://host/db: connection refused for \*\*\*"):
        patient(ask)(server)
    assert 60 < sum(server.clock.pauses) < 75
    tried = len(server.clock.pauses)
    with pytest.raises(EnvironmentFault):
        patient(ask)(server)
    assert len(server.clock.pauses) == tried


@pytest.mark.parametrize("num_failures", [0, 1, 9, 10])
def test_tables_that_another_machine_creates_at_the_same_moment(
    server: Any, make_settings: Any, monkeypatch: pytest.MonkeyPatch, num_failures: int
) -> None:
    failures = [IntegrityError("create", {}, Exception("there already"))] * num_failures

    def create(*_: Any, **__: Any) -> Any:
        if failures:
            raise failures.pop()
        return server

    monkeypatch.setattr(storage, "PatientStorage", create)
    settings = make_settings(storage="postgresql://me:secret@host/db")
    if num_failures < storage.NUM_TRIES:
        with quiet_optuna():
            assert open_storage(settings) is server
        assert len(server.clock.pauses) == num_failures
    else:
        with quiet_optuna(), pytest.raises(EnvironmentFault, match="there already"):
            open_storage(settings)


def test_other_errors_are_not_tried_again(server: Any) -> None:
    def ask(_: Any) -> str:
        raise IntegrityError("insert", {}, Exception("there already"))

    with pytest.raises(IntegrityError):
        patient(ask)(server)
    assert server.clock.pauses == []


@pytest.mark.parametrize("text", ["soon", "nan", "-1", "1e300"])
def test_patience_is_a_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(storage.PATIENCE_VARIABLE, text)
    with pytest.raises(UsageError, match=storage.PATIENCE_VARIABLE):
        patience_s()


def test_every_operation_is_patient() -> None:
    """Those of a storage's interface that reach the server, however Optuna's cache calls them."""
    source = Path(optuna.storages.__file__).parent / "_cached_storage.py"
    called = {
        line.split("self._backend.")[1].split("(")[0] for line in source.read_text().splitlines() if "_backend." in line
    }
    without_server = {"get_heartbeat_interval", "get_heartbeat_stale_trial_callback", "remove_session"}
    assert "set_trial_state_values" in called
    for name in called - without_server:
        assert hasattr(getattr(storage.PatientStorage, name), "__wrapped__"), name


def test_optuna_is_as_before() -> None:
    before = optuna.logging.get_verbosity()
    with pytest.raises(KeyError), quiet_optuna():
        raise KeyError
    assert optuna.logging.get_verbosity() == before


def test_a_folder_that_cannot_be_written(make_settings: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match=JOURNAL_NAME):
        open_storage(make_settings(folder=tmp_path / "file" / "search"))
