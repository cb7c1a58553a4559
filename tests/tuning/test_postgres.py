"""A search on a PostgreSQL server: several machines, dead workers, a lost connection, a secret password."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from pocket_resnet.errors import EnvironmentFault
from pocket_resnet.tuning import storage, trials
from pocket_resnet.tuning.storage import parse_url
from pocket_resnet.tuning.studies import number_of
from postgres import PASSWORD, QUOTED, Server, find_server, server

pytestmark = pytest.mark.timeout(600)  # processes that import torch, a dozen of them

REQUIRED = "POCKET_RESNET_REQUIRE_POSTGRES"  # turns a skip into a failure
ENDED = ("COMPLETE", "PRUNED")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    if find_server() is None:
        assert not os.environ.get(REQUIRED), "no PostgreSQL server: apt-get install postgresql"
        pytest.skip("needs a PostgreSQL server (Debian: apt-get install postgresql)")
    with server() as running:
        yield running


@pytest.fixture
def settings(make_settings: Any, postgres: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """A search of its own for each test."""
    return make_settings(storage=postgres.url, folder=tmp_path / request.node.name, num_trials=5)


def ended(study: Any) -> Counter[int]:
    return Counter(number_of(trial) for trial in study.trials if trial.state.name in ENDED)


def assert_secret(text: str) -> None:
    assert PASSWORD not in text
    assert QUOTED not in text


@pytest.mark.threat(79)
def test_two_workers_share_a_search(settings: Any, begin: Any, work: Any, start_child: Any) -> None:
    study = begin(settings)
    children = [start_child(lambda index=index: work(settings, index)) for index in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert ended(study) == dict.fromkeys(range(5), 1)
    assert len({trial.user_attrs["worker"] for trial in study.trials}) == 2


@pytest.mark.threat(79)
def test_machines_that_create_the_study_at_the_same_moment(
    postgres: Server, make_settings: Any, begin: Any, start_child: Any, tmp_path: Path
) -> None:
    """In an empty database: all use the same tables and the same study."""
    begin(make_settings(storage=postgres.url, folder=tmp_path / "any"))
    admin = create_engine(parse_url(postgres.url), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("create database empty"))
    settings = make_settings(storage=postgres.url.replace("/postgres", "/empty"), folder=tmp_path / "s")
    children = [start_child(lambda: begin(settings)) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    assert sorted(map(number_of, begin(settings).trials)) == list(range(4))


@pytest.mark.threat(80)
def test_a_dead_worker_s_trial_is_taken_by_another(
    settings: Any, begin: Any, work: Any, start_child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detected by its missing heartbeat, and resumed in its folder."""
    monkeypatch.setattr(storage, "HEARTBEAT_S", 1)
    monkeypatch.setattr(storage, "GRACE_S", 3)
    study = begin(settings)
    train, resumed = trials.train, []

    def die(recipe: Any, **named: Any) -> Any:
        if named["run"] == "0001" and recipe.max_steps == 1:
            train(recipe, **named)
            time.sleep(1.5)  # a heartbeat
            os.kill(os.getpid(), signal.SIGKILL)
        return train(recipe, **named)

    def note(recipe: Any, **named: Any) -> Any:
        resumed.append((named["run"], named["resume"]))
        return train(recipe, **named)

    monkeypatch.setattr(trials, "train", die)
    assert start_child(lambda: work(settings)).wait() == -signal.SIGKILL
    monkeypatch.setattr(trials, "train", note)
    work(settings)
    assert ended(study) == dict.fromkeys(range(5), 1)
    assert ("0001", True) in resumed
    assert ("0001", False) not in resumed


class Restart(logging.Handler):
    """Starts the server again once the storage has missed it."""

    def __init__(self, postgres: Server) -> None:
        super().__init__()
        self.postgres, self.messages = postgres, []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.postgres.start()


@pytest.mark.threat(83)
def test_a_lost_connection_is_waited_for(
    settings: Any, postgres: Server, begin: Any, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server restarts while a trial trains, and the search continues."""
    study, train, stops = begin(settings), trials.train, []

    def stop_once(recipe: Any, **named: Any) -> Any:
        if not stops:
            stops.append(named["run"])
            postgres.stop()
        return train(recipe, **named)

    monkeypatch.setattr(trials, "train", stop_once)
    restart = Restart(postgres)
    logging.getLogger(storage.__name__).addHandler(restart)
    try:
        work(settings)
    finally:
        logging.getLogger(storage.__name__).removeHandler(restart)
    assert ended(study) == dict.fromkeys(range(5), 1)
    assert restart.messages == [f"no answer from {postgres.public}: trying again"]


@pytest.mark.threat(83)
def test_a_connection_that_stays_lost_ends_the_search_and_loses_nothing(
    settings: Any, postgres: Server, begin: Any, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 5 after the patience; with the server back, the next worker resumes."""
    monkeypatch.setattr(storage, "HEARTBEAT_S", 1)
    monkeypatch.setattr(storage, "GRACE_S", 3)
    monkeypatch.setenv(storage.PATIENCE_VARIABLE, "1")
    study, train = begin(settings), trials.train

    def lose(recipe: Any, **named: Any) -> Any:
        result = train(recipe, **named)
        if named["run"] == "0002":
            time.sleep(1.5)
            postgres.stop()
        return result

    try:
        monkeypatch.setattr(trials, "train", lose)
        with pytest.raises(EnvironmentFault) as lost:
            work(settings)
    finally:
        postgres.start()
        monkeypatch.setattr(trials, "train", train)
    assert lost.value.exit_code == 5
    assert f"no answer from {postgres.public}" in str(lost.value)
    assert_secret(str(lost.value))
    assert {0, 1} <= set(ended(study))
    work(settings)
    assert ended(study) == dict.fromkeys(range(5), 1)


@pytest.mark.threat(84)
@pytest.mark.parametrize("wrong", ["password", "port"])
def test_a_server_that_refuses(postgres: Server, run: Any, digits_recipe: Path, tmp_path: Path, wrong: str) -> None:
    right = {"password": QUOTED, "port": f":{postgres.port}/"}[wrong]
    url = postgres.url.replace(right, {"password": f"wrong{QUOTED}", "port": ":1/"}[wrong])
    code, out, err = run("search", digits_recipe, "--dir", tmp_path / "s", "--storage", url)
    assert (code, out) == (5, ""), err
    assert "no answer from postgresql://127.0.0.1:" in err
    assert_secret(err)


@pytest.mark.threat(79, 84)
def test_the_command_and_its_secret(postgres: Server, digits_recipe: Path, tmp_path: Path) -> None:
    """Two commands on one server, at once: each trial is trained once; the password is in no file and no message."""
    commands = [start(digits_recipe, tmp_path / name / "shared", postgres.url, tmp_path) for name in ("a", "b")]
    for command, (out, err) in zip(commands, texts_of(commands), strict=True):
        assert command.returncode == 0, err
        assert "untuned" in out
        assert_secret(out + err)
    records = [(tmp_path / name / "shared/search.json").read_text() for name in ("a", "b")]
    assert records[0].count('"outcome": "complete"') == records[1].count('"outcome": "complete"')
    runs = [path.name for name in ("a", "b") for path in (tmp_path / name / "shared/trials").glob("00*")]
    assert sorted(runs) == [f"{number:04d}" for number in range(4)]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert PASSWORD.encode() not in content, path
            assert QUOTED.encode() not in content, path


def start(recipe: Path, folder: Path, url: str, cwd: Path, *before: str) -> subprocess.Popen[str]:
    """The real command, which gets the address in its environment."""
    command = [sys.executable, "-m", "pocket_resnet", "search", str(recipe), "--trials", "4"]
    environment = os.environ | {"POCKET_RESNET_STORAGE": url, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*before, *command, "--dir", str(folder)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def texts_of(commands: list[subprocess.Popen[str]]) -> list[tuple[str, str]]:
    """Standard output and standard error of each; none outlives the test."""
    try:
        return [command.communicate(timeout=500) for command in commands]
    finally:
        for command in commands:
            command.kill()


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces on a bridge of two cables: hosts at 10.123.1.2 and 10.123.2.2; this one at .1."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and ip")
    names = f"pr{os.getpid()}a", f"pr{os.getpid()}b"
    try:
        for index, name in enumerate(names, 1):
            here, there = f"v{name}", f"w{name}"
            steps = (
                f"netns add {name}",
                f"link add {here} type veth peer name {there}",
                f"link set {there} netns {name}",
                f"addr add 10.123.{index}.1/24 dev {here}",
                f"link set {here} up",
                f"-n {name} addr add 10.123.{index}.2/24 dev {there}",
                f"-n {name} link set {there} up",
                f"-n {name} link set lo up",
            )
            for step in steps:
                done = subprocess.run(["ip", *step.split()], capture_output=True, text=True, check=False)
                if done.returncode:
                    pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "link", "del", f"v{name}"], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.threat(79)
@pytest.mark.slow
def test_two_hosts(postgres: Server, namespaces: tuple[str, str], digits_recipe: Path, tmp_path: Path) -> None:
    """Each in a network of its own, from which it reaches the server alone."""
    postgres.stop()
    postgres.start("0.0.0.0")
    commands = []
    for index, name in enumerate(namespaces, 1):
        folder, url = tmp_path / name / "hosts", postgres.at(f"10.123.{index}.1")
        commands.append(start(digits_recipe, folder, url, tmp_path, "ip", "netns", "exec", name))
    for command, (_, err) in zip(commands, texts_of(commands), strict=True):
        assert command.returncode == 0, err
    runs = [path.name for name in namespaces for path in (tmp_path / name / "hosts/trials").glob("00*")]
    assert sorted(runs) == [f"{number:04d}" for number in range(4)]
