"""Limits on a server's connections, in time and in number.

uvicorn closes connections that are idle between two requests. But it waits forever for the head of a request
and for a client that does not read its answer, and accepts connections until the process has no files left. A
`ClientConnection` lies between asyncio and uvicorn's protocol, passes everything on, and closes such
connections. `RequestTracker` reports to each connection when its requests begin and end. The time of bodies
is limited in `uploads`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from flawscope_station.access.roles import PERSON_KEY

KEEP_ALIVE_SECONDS = 75  # longest time between two requests of a connection
HEAD_END = b"\r\n\r\n"  # end of a request without a body
STATE_KEY = "connection"  # key in the state of a request's scope


class ClientConnection(asyncio.Protocol):
    """Connection to a client, which is closed if the client keeps the station waiting for too long.

    If there are too many connections, the one that has kept the station waiting for longest is closed.
    Connections of signed-in people are the last to be closed; a connection whose request is being answered is
    never closed.

    Args:
        make_protocol: Makes the protocol that speaks HTTP. Its argument is a state, which the protocol puts
            into the scope of each request.
        connections: Open connections of the server; this one is added to them.
        max_count: Largest number of open connections.
        stall_seconds: Returns the time limit in seconds: for the head of a request, for a body that nobody
            reads, and for a client that has stopped reading its answer.
    """

    def __init__(
        self,
        make_protocol: Callable[[dict[str, object]], asyncio.Protocol],
        connections: set[ClientConnection],
        max_count: int,
        stall_seconds: Callable[[], float],
    ):
        self._protocol = make_protocol({STATE_KEY: self})
        self._connections = connections
        self._max_count = max_count
        self._stall_seconds = stall_seconds
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._requests = 0  # number of requests that are being received or answered
        self._scope: Scope = {}  # scope of the last request
        self._tail = b""  # last bytes that were received
        self._has_body = False  # whether the last request has a body
        self._has_more_body = False  # a part of the last request's body is still to come
        self._is_write_paused = False  # the client does not read its answer
        self._is_idle = False  # between two requests
        self._waiting_since = self._loop.time()

    # ---- calls of asyncio

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Add the connection to the server's. If there are too many, close those that have waited longest."""
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
        """Pass bytes on. With the first bytes after an idle time, the wait for a request begins."""
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
        """Note that the client does not read its answer: the wait for the client begins."""
        self._is_write_paused, self._waiting_since = True, self._loop.time()
        self._protocol.pause_writing()

    @override
    def resume_writing(self) -> None:
        """Note that the client reads its answer again."""
        self._is_write_paused = False
        self._protocol.resume_writing()

    # ---- calls of `RequestTracker`

    def begin_request(self, scope: Scope) -> None:
        """Note a request whose head has come."""
        self._requests += 1
        self._scope = scope
        # headers of value 0 are left out: a request with `Content-Length: 0` has no body
        header_names = {name for name, value in scope["headers"] if value != b"0"}
        self._has_body = bool(header_names & {b"content-length", b"transfer-encoding"})
        self._has_more_body = self._has_body
        self._waiting_since = self._loop.time()

    def end_body(self) -> None:
        """Note that the whole body of the request was read."""
        self._has_more_body = False

    def end_request(self) -> None:
        """Note that a request was answered."""
        self._requests -= 1
        # if a request has no body, bytes after its head belong to the next request
        has_next_request = not self._has_body and self._tail != HEAD_END
        self._is_idle = not (self._requests or self._has_more_body or has_next_request)
        self._waiting_since = self._loop.time()

    # ---- limits

    @property
    def _is_signed_in(self) -> bool:
        """Whether the last request came from a person or program that the station knows."""
        return self._scope.get(PERSON_KEY) is not None

    @property
    def _is_closable(self) -> bool:
        """Whether the connection may be closed without losing an answer: the station waits for the client."""
        is_client_late = not self._requests or self._is_write_paused
        return is_client_late or (self._has_more_body and not self._is_signed_in)

    def _close_longest_waiting(self) -> None:
        """Close the connection that has waited for longest, and further ones of clients not signed in.

        Up to an eighth of the allowed connections are closed at once, because under a flood of new
        connections a search for each of them would be too slow.
        """
        closable = [connection for connection in self._connections if connection._is_closable]
        # strangers come first, then signed-in people, and this new connection last; among strangers and among
        # people, those that have waited for longest come first
        closable.sort(
            key=lambda connection: (connection is self, connection._is_signed_in, connection._waiting_since)
        )
        max_closed = max(1, self._max_count // 8)
        first, *others = closable[:max_closed]
        strangers = [
            connection for connection in others if connection is not self and not connection._is_signed_in
        ]
        for connection in (first, *strangers):
            connection._transport.abort()
            # removed here, because asyncio accepts further connections before it calls `connection_lost`
            self._connections.discard(connection)

    def close_if_stalled(self) -> None:
        """Close the connection if it has kept the station waiting for too long."""
        # while the station computes an answer, the delay is not the client's
        is_answering = self._requests and not self._is_write_paused
        waited_seconds = self._loop.time() - self._waiting_since
        if is_answering or waited_seconds < self._timeout:
            return
        if self._transport.is_closing():  # it was closed, but the client does not read the rest of the answer
            self._transport.abort()
        else:
            self._transport.close()
            self._waiting_since = self._loop.time()

    @property
    def _timeout(self) -> float:
        """Seconds for which the connection may keep the station waiting."""
        has_read_answer = not self._is_write_paused
        return KEEP_ALIVE_SECONDS if self._is_idle and has_read_answer else self._stall_seconds()


class RequestTracker:
    """ASGI application that reports to each connection when its requests begin and end."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and note its progress at its connection.

        The connection notes when the request begins, when the body was received, and when the request ends.
        """
        connection = scope.get("state", {}).get(STATE_KEY)
        if connection is None:  # no request, or a server without limits
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
