"""Wraps every request: refuses foreign hosts and origins, adds security headers, reports bugs with an id, logs.

Otherwise a page from another site could send requests here from a visitor's browser, under its own origin or, by DNS
rebinding, under its own host name.
"""

import ipaddress
import logging
import re
import time
from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pocket_resnet.serving.metrics import Metrics
from pocket_resnet.serving.problems import Problem, internal_error, respond

CLIENT_GONE = 499  # only in the log: nobody receives it
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")
_AUTHORITY = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?", re.ASCII)

_log = logging.getLogger(__name__)
_request_log = logging.getLogger("pocket_resnet.requests")


@dataclass(frozen=True)
class Hosts:
    """The names of this server."""

    names: Collection[str] = OWN_NAMES
    any_address: bool = False
    """Whether any IP address is accepted too, for a server that other machines can reach; rebinding needs a name."""

    def refusal(self, headers: Headers) -> Response | None:
        """The response that refuses a foreign host name or origin; None if the request is allowed."""
        authority = headers.get("host", "").lower()
        if not self._is_own(authority):
            hint = "use an address of this server, or start it with --hostname NAME"
            return respond(403, Problem(error="not a host name of this server", hint=hint))
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{authority}", f"https://{authority}"):
            return respond(403, Problem(error="a request from a page of another server"))
        return None

    def _is_own(self, authority: str) -> bool:
        match = _AUTHORITY.fullmatch(authority)
        if match is None:
            return False
        return match[1] in self.names or (self.any_address and _is_address(match[1]))


class Guard:
    """ASGI middleware for the whole app."""

    def __init__(self, app: ASGIApp, hosts: Hosts, metrics: Metrics) -> None:
        self._app, self._hosts, self._metrics = app, hosts, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the app's start and end
            await self._app(scope, receive, send)
            return
        status, started_s = 0, time.perf_counter()

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *SECURITY_HEADERS]}
            await send(message)

        try:
            refusal = self._hosts.refusal(Headers(scope=scope))
            await (refusal or self._app)(scope, receive, send_guarded)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception:
            error_id, response = internal_error()
            _log.exception("internal error %s", error_id)
            if status:  # part of a response has been sent: the connection is closed
                raise
            await response(scope, receive, send_guarded)
        finally:
            self._record(scope, status or CLIENT_GONE, time.perf_counter() - started_s)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.observe_request(route, status, seconds)
        client, path = scope["client"] or ("-",), scope["raw_path"].decode("ascii", "backslashreplace")
        _request_log.info("%s %s %s %d %.1f ms", client[0], scope["method"], path[:200], status, seconds * 1e3)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
