"""Binds the port and serves until a signal arrives."""

import contextlib
import ipaddress
import logging
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.serving.app import create_app
from pocket_resnet.serving.guard import OWN_NAMES, Hosts
from pocket_resnet.serving.protocol import DeadlineProtocol
from pocket_resnet.serving.served_model import open_served
from pocket_resnet.torch_settings import own_settings
from pocket_resnet.training.signals import catch_signals

GRACE_S = 3  # for requests in progress when a signal arrives
KEEP_ALIVE_S = 5

_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Returns after a signal; uvicorn itself would raise the signal again."""

    def __init__(self, config: uvicorn.Config, caught: Sequence[int]) -> None:
        super().__init__(config)
        self._caught = caught

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Leave the signals to the caller, who records them in `caught`."""
        return contextlib.nullcontext()

    async def on_tick(self, counter: int) -> bool:
        """Whether it is time to stop; called ten times a second."""
        return bool(self._caught) or await super().on_tick(counter)


def serve(
    path: Path, host: str, port: int, *, public: bool = False, hostnames: Sequence[str] = (), device: str = "auto"
) -> None:
    """Serve the model at `http://host:port` until SIGTERM, SIGINT or SIGHUP.

    Other machines can connect only if `public` allows such a host. Clients may also use the `hostnames`. Raises
    UsageError if there is no model or device or the host is not allowed, EnvironmentFault if the port is in use.
    """
    with catch_signals() as caught, own_settings():
        model = open_served(path, device)
        with listen(host, port, public=public) as listener:
            address, bound_port = listener.getsockname()[:2]
            url_host = f"[{address}]" if ":" in address else address
            names = {*OWN_NAMES, host.lower(), url_host, *(name.lower() for name in hostnames)}
            app = create_app(model, Hosts(names, any_address=public))
            _log.info("serving %s on http://%s:%d (stop with Ctrl-C)", path, url_host, bound_port)
            _Server(configuration(app), caught).run(sockets=[listener])


def configuration(app: object) -> uvicorn.Config:
    """The configuration of uvicorn: our protocol and logs, no name or version in its responses."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=DeadlineProtocol,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=logging.CRITICAL,  # guard.py logs errors and requests
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )


def listen(host: str, port: int, *, public: bool) -> socket.socket:
    """A listening socket; clients can connect once it is returned. Raises UsageError or EnvironmentFault."""
    if not 0 <= port <= 65_535:
        raise UsageError(f"port {port} is out of range", hint="use 1 to 65535, or 0 for a free one")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"no such host: {host!r}", hint="use --host 127.0.0.1") from error
    if not public and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise UsageError(f"other machines could connect to {host}", hint="allow that with --public")
    # asyncio disables Nagle's algorithm only if TCP is named; otherwise, each response waits 40 ms for the client.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        what = f"cannot listen on {host}, port {port}: {error.strerror}"
        raise EnvironmentFault(what, hint="choose another port, such as --port 8001; 0 picks a free one") from error
    return listener
