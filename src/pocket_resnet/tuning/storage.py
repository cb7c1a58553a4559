"""The storage of trials: a journal in the search's folder, or a PostgreSQL server that machines share."""

import contextlib
import functools
import logging
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.io.files import explain_os_errors, write_bytes
from pocket_resnet.io.locks import PatientLock
from pocket_resnet.tuning.settings import Settings

_log = logging.getLogger(__name__)

HEARTBEAT_S, GRACE_S = 15, 60  # a worker that has been silent for this long counts as dead
MAX_RETRIES = 3  # per trial whose worker died: the trial may be the cause
PATIENCE_S = 300.0  # with a server that does not answer
PATIENCE_VARIABLE = "POCKET_RESNET_STORAGE_WAIT_S"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
NUM_TRIES = 10  # to create tables that another machine creates at the same moment
JOURNAL_NAME = "journal.log"


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna inside the block, including its warning that heartbeats are experimental."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def retry_callback() -> RetryHeartbeatStaleTrialCallback:
    """The callback that puts a trial whose worker died back into the queue."""
    return RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)


def open_storage(settings: Settings) -> BaseStorage:
    """The storage. Raises EnvironmentFault if the server does not answer or the folder cannot be written."""
    if settings.request.storage is not None:
        return _open_server(parse_url(settings.request.storage))
    path = settings.folder / JOURNAL_NAME
    with explain_os_errors(path):
        settings.folder.mkdir(parents=True, exist_ok=True)
        lock: Any = PatientLock(settings.folder / ".journal.lock")  # Optuna's own would stay locked by a killed process
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def repair_journal(settings: Settings) -> None:
    """Remove a half-written last line, which a full disk leaves behind; no worker of this search may be running."""
    path = settings.folder / JOURNAL_NAME
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        write_bytes(path, content[: content.rfind(b"\n") + 1])


def parse_url(text: str) -> URL:
    """The server's address. Raises UsageError, which never shows the password, if it is not a PostgreSQL URL."""
    hint = "give postgresql://USER@HOST/DATABASE; the password belongs in ~/.pgpass or PGPASSWORD"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise UsageError("--storage is not a URL", hint=hint) from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise UsageError(f"--storage: {url.get_backend_name()!r} is not a supported database", hint=hint)
    return url.set(drivername="postgresql+psycopg")


def without_password(url: URL) -> str:
    """The address without user, password and options, for messages."""
    port = "" if url.port is None else f":{url.port}"
    return f"postgresql://{url.host or 'localhost'}{port}/{url.database or ''}"


def _open_server(url: URL) -> BaseStorage:
    """The server's database with Optuna's tables. Raises EnvironmentFault if it does not answer or refuses."""
    for tries_left in reversed(range(NUM_TRIES)):
        try:
            return PatientStorage(
                url.render_as_string(hide_password=False),
                engine_kwargs={"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}},
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
                heartbeat_stale_trial_callback=retry_callback(),
            )
        except SQLAlchemyError as error:
            if _is_lost(error) or not tries_left:
                raise _no_server(url, error) from None
            time.sleep(FIRST_PAUSE_S)  # another machine creates the same tables at this moment
        except RuntimeError as error:  # tables of another version of Optuna
            raise EnvironmentFault(f"{without_password(url)}: {error}", hint="use another database") from None
    raise AssertionError


def _no_server(url: URL, error: BaseException) -> EnvironmentFault:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    why = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    if url.password:
        why = why.replace(str(url.password), "***")
    return EnvironmentFault(
        f"no answer from {without_password(url)}: {why}",
        hint="start the server, or check address and password, and run the command again: what is recorded stays",
    )


class PatientStorage(RDBStorage):
    """A database whose connection may be lost: each operation is retried, with increasing pauses, before it fails."""

    failing_since_s = math.inf
    """The time when the server stopped answering, shared by all threads."""


def patient(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation of a PatientStorage, retried while the server does not answer."""

    @functools.wraps(operation)
    def retried(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                result = operation(self, *arguments, **named)
            except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
                cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
                if not _is_lost(cause):
                    raise
                now_s = time.monotonic()
                if math.isinf(self.failing_since_s):
                    self.failing_since_s = now_s
                    _log.warning(f"no answer from {without_password(self.engine.url)}: trying again")
                if now_s - self.failing_since_s > patience_s():
                    raise _no_server(self.engine.url, cause or error) from None
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                self.failing_since_s = math.inf
                return result

    return retried


def _is_lost(error: BaseException | None) -> bool:
    """Whether the server did not answer, as opposed to, for example, refusing a value."""
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated or type(error).__name__ in ("OperationalError", "InterfaceError")
    )


def patience_s() -> float:
    """Seconds to wait for a server that does not answer."""
    with contextlib.suppress(ValueError):
        if 0 <= (wait_s := float(os.environ.get(PATIENCE_VARIABLE, PATIENCE_S))) < threading.TIMEOUT_MAX:
            return wait_s
    what = f"{os.environ[PATIENCE_VARIABLE]!r} is not a number of seconds"
    raise UsageError(what, where=PATIENCE_VARIABLE, hint="set a number of seconds from 0 on, or unset it")


# The operations that Optuna's cache calls, from any thread. Each is one transaction, so a failed one changes nothing.
for _name in (
    *("create_new_study", "delete_study", "set_study_user_attr", "set_study_system_attr", "get_study_id_from_name"),
    *("get_study_name_from_id", "get_study_directions", "get_study_user_attrs", "get_study_system_attrs"),
    *("get_all_studies", "_create_new_trial", "_set_trial_param", "get_trial_id_from_study_id_trial_number"),
    *("_get_best_trial_id", "set_trial_state_values", "set_trial_intermediate_value", "set_trial_user_attr"),
    *("set_trial_system_attr", "get_trial", "_get_trials", "record_heartbeat", "_get_stale_trial_ids"),
):
    setattr(PatientStorage, _name, patient(getattr(RDBStorage, _name)))
