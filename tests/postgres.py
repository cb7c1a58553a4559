"""A real PostgreSQL server for the tests, with a password, as a user that is not root."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "se-cret/päss"  # what must not be found anywhere
QUOTED = "se-cret%2Fp%C3%A4ss"
USER = "tester"


def find_server() -> Path | None:
    """The folder with initdb and postgres."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if initdb := shutil.which("initdb"):
        folders.append(Path(initdb).parent)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class Server:
    """A server on this machine; `url` has the password, `public` names it without."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries, self.folder = binaries, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._prepare()

    @property
    def public(self) -> str:
        return f"postgresql://127.0.0.1:{self.port}/postgres"

    @property
    def url(self) -> str:
        return self.at("127.0.0.1")

    def at(self, host: str) -> str:
        return f"postgresql://{USER}:{QUOTED}@{host}:{self.port}/postgres"

    def _run(self, *command: str) -> None:
        """Run a program of the server, which refuses to run as root."""
        as_user: Sequence[str] = ()
        if os.geteuid() == 0:
            as_user = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LC_ALL": "C"}
        done = subprocess.run(
            [*as_user, str(self.binaries / command[0]), *command[1:]],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout

    def _prepare(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody", "nogroup")
        password = self.folder / "password"
        password.write_text(PASSWORD, encoding="utf-8")
        password.chmod(0o644)
        access = ("-U", USER, "-A", "scram-sha-256", "--pwfile", str(password))
        self._run("initdb", "-D", str(self.folder / "data"), *access, "--no-sync", "-E", "UTF8")
        with (self.folder / "data/pg_hba.conf").open("a") as file:
            file.write("host all all 10.123.0.0/16 scram-sha-256\n")

    def start(self, addresses: str = "127.0.0.1") -> None:
        options = f"-p {self.port} -k {self.folder} -h {addresses} -c fsync=off -c shared_buffers=8MB"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-w", "-o", options, "start"
        )

    def stop(self) -> None:
        """As a crash does: connections break."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")


@contextmanager
def server() -> Iterator[Server]:
    """A running server."""
    binaries = find_server()
    assert binaries is not None
    folder = Path(tempfile.mkdtemp(prefix="pocket-postgres-"))  # pytest's own folders are closed to other users
    folder.chmod(0o755)
    try:
        running = Server(binaries, folder)
        running.start()
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
