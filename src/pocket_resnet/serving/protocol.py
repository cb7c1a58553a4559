"""HTTP with deadlines, which uvicorn lacks: slow clients are disconnected, and there is a limit on connections."""

import asyncio
import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_NUM_CONNECTIONS = 512
REQUEST_DEADLINE_S = 30.0
"""For a whole request, headers and body, from its first byte; for a new connection's first byte; and for a client to
read a response."""

TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

_log = logging.getLogger("pocket_resnet.requests")


class DeadlineProtocol(H11Protocol):
    """One connection."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request, or turn the client away."""
        super().connection_made(transport)
        if len(self.connections) > MAX_NUM_CONNECTIONS:
            transport.write(TOO_MANY)
            transport.close()
        else:
            self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline."""
        self._stop_deadline()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Parse what has arrived."""
        super().handle_events()
        self._update_deadline()

    def pause_writing(self) -> None:
        """Start the deadline: the client has stopped reading its response."""
        super().pause_writing()
        self._update_deadline()

    def resume_writing(self) -> None:
        """Update the deadline: the client reads again."""
        super().resume_writing()
        self._update_deadline()

    def send_400_response(self, msg: str) -> None:
        """Also log the invalid request; if a response has begun, only close the connection."""
        _log.info("%s not an HTTP request 400", self.client[0] if self.client else "-")
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _update_deadline(self) -> None:
        """Run the deadline while the client has sent only part of a request or does not read its response."""
        state = self.conn.their_state
        has_part = state is h11.SEND_BODY or (state is h11.IDLE and bool(self.conn.trailing_data[0]))
        if has_part or self.flow.write_paused:
            self._start_deadline()
        else:
            self._stop_deadline()

    def _start_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_DEADLINE_S, self.transport.abort)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
