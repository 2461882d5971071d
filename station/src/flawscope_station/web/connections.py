"""Limits on a server's connections: those that keep it waiting are closed, and those that are too many.

uvicorn closes connections that are idle between two requests. It waits for ever for the head of a request and
for a client that does not read its answer, and accepts connections until the process has no files left. A
`ClientConnection` stands between asyncio and uvicorn's protocol, passes everything on, and learns of requests
from `RequestTracker`. Bodies are timed where they are read (`uploads`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from flawscope_station.access.roles import PERSON_KEY

KEEP_ALIVE_SECONDS = 75  # between two requests of a connection
HEAD_END = b"\r\n\r\n"  # a request without a body ends with it
STATE_KEY = "connection"  # in the state of a request's scope


class ClientConnection(asyncio.Protocol):
    """Client's connection that closes when it keeps the station waiting.

    Where there are too many connections, the one that has kept the station waiting for the longest time is
    closed; those of signed-in people last, and never one whose request is being answered.

    Args:
        make_protocol: Makes the protocol that speaks HTTP, from a state that every request's scope has.
        connections: Open connections of the server; this one is added to them.
        max_count: Connections that may be open.
        timeout: Returns the seconds in which the head of a request must come, a body that nobody reads must
            end, and a client must go on reading its answer.
    """

    def __init__(
        self,
        make_protocol: Callable[[dict[str, object]], asyncio.Protocol],
        connections: set[ClientConnection],
        max_count: int,
        timeout: Callable[[], float],
    ):
        self._protocol = make_protocol({STATE_KEY: self})
        self._connections = connections
        self._max_count = max_count
        self._stalled = timeout
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._requests = 0  # that are being received or answered
        self._scope: Scope = {}  # of the last request
        self._tail = b""  # of all that came
        self._has_body = self._has_more_body = self._is_write_paused = False
        self._is_idle = False  # between two requests
        self._waiting_since = self._loop.time()

    # ---- what asyncio tells

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Add the connection to the server's; where they are too many, close those that wait for longest."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._protocol.connection_made(transport)
        if len(self._connections) > self._max_count:
            self._close_longest_waiting()

    @override
    def connection_lost(self, error: Exception | None) -> None:
        """Remove the connection from the server's."""
        self._connections.discard(self)
        self._protocol.connection_lost(error)

    @override
    def data_received(self, data: bytes) -> None:
        """Pass bytes on; the first after an idle time begin a wait for a request."""
        if self._is_idle:
            self._is_idle, self._waiting_since = False, self._loop.time()
        self._tail = (self._tail + data)[-len(HEAD_END) :]
        self._protocol.data_received(data)

    @override
    def eof_received(self) -> bool | None:
        """Pass on that the client sends no more."""
        return self._protocol.eof_received()

    @override
    def pause_writing(self) -> None:
        """Note that the client does not read its answer: the wait for it begins."""
        self._is_write_paused, self._waiting_since = True, self._loop.time()
        self._protocol.pause_writing()

    @override
    def resume_writing(self) -> None:
        """Note that the client reads its answer again."""
        self._is_write_paused = False
        self._protocol.resume_writing()

    # ---- what the requests tell

    def begin_request(self, scope: Scope) -> None:
        """Note a request whose head has come."""
        self._requests = self._requests + 1
        self._scope = scope
        names = {name for name, value in scope["headers"] if value != b"0"}
        self._has_body = self._has_more_body = bool(names & {b"content-length", b"transfer-encoding"})
        self._waiting_since = self._loop.time()

    def end_body(self) -> None:
        """Note that the whole body of the request was read."""
        self._has_more_body = False

    def end_request(self) -> None:
        """Note that a request was answered."""
        self._requests -= 1
        is_more_coming = (
            self._requests or self._has_more_body or not (self._has_body or self._tail == HEAD_END)
        )
        self._is_idle, self._waiting_since = not is_more_coming, self._loop.time()

    # ---- limits

    @property
    def _is_signed_in(self) -> bool:
        """Whether the last request came from a person or program that the station knows."""
        return self._scope.get(PERSON_KEY) is not None

    @property
    def _is_closable(self) -> bool:
        waits = not self._requests or self._is_write_paused
        return waits or (self._has_more_body and not self._is_signed_in)

    def _close_longest_waiting(self) -> None:
        """Close the connection that waits for longest, and up to an eighth of all at once.

        A search for each new connection is too slow under a flood.
        """
        waiting = [connection for connection in self._connections if connection._is_closable]
        waiting.sort(
            key=lambda connection: (connection is self, connection._is_signed_in, connection._waiting_since)
        )
        last = waiting[1 : self._max_count // 8]
        strangers = (
            connection for connection in last if not (connection is self or connection._is_signed_in)
        )
        for closed in (waiting[0], *strangers):
            closed._transport.abort()
            self._connections.discard(closed)  # at once: asyncio accepts others before it removes this one

    def close_if_stalled(self) -> None:
        """Close the connection if it has kept the station waiting for too long."""
        waited = self._loop.time() - self._waiting_since
        if (self._requests and not self._is_write_paused) or waited < self._timeout:
            return
        if self._transport.is_closing():
            self._transport.abort()  # nobody reads the rest of the answer
        else:
            self._transport.close()
            self._waiting_since = self._loop.time()

    @property
    def _timeout(self) -> float:
        is_idle = self._is_idle and not self._is_write_paused  # the client has read the last answer
        return KEEP_ALIVE_SECONDS if is_idle else self._stalled()


class RequestTracker:
    """ASGI application that reports the beginning and end of each request to its connection."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and report its beginning, the end of its body and its end to its connection."""
        connection = scope.get("state", {}).get(STATE_KEY)
        if connection is None:  # no request, or of a server without limits
            await self.app(scope, receive, send)
            return

        async def tracked_receive() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                connection.end_body()
            return message

        connection.begin_request(scope)
        try:
            await self.app(scope, tracked_receive, send)
        finally:
            connection.end_request()
