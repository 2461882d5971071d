"""Connections of the HTTP server: none keeps the station waiting for long, and all leave files for the rest.

uvicorn lets go of a connection that is idle between two requests. It waits for ever for the head of a request
and for a client that does not read its answer, and accepts connections until the process has no files left.
Bodies are timed where they are read (`bodies`).
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from flawscope.station.access.roles import SCOPE

KEEP_ALIVE = 75  # seconds between two requests of a connection
BATCH = 64  # connections that are accepted before the next look at those that are open
QUEUE = 1024  # of those that the system holds until they are accepted: further ones try again after seconds
MOST = 1000  # connections, however many files the process may open
LINES, EACH = 10, 60.0  # so many lines of a logger in so many seconds


def most_connections() -> int:
    """Half of the files that the process may open: the others are the store's, the models' and cameras'."""
    if sys.platform == "win32":
        return MOST
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if files == resource.RLIM_INFINITY else max(1, min(MOST, files // 2))


class Connection(H11Protocol):
    """A client's connection. Where there are too many, the one goes that has kept the station waiting for the
    longest time, those of signed-in people last; never one whose request is being answered.

    Args:
        most: connections that may be open.
        patience: seconds for the head of a request, for a body that nobody reads, and for a client to go on
            reading its answer.
    """

    def __init__(self, *args: Any, most: int, patience: float, **named: Any):
        super().__init__(*args, **named)
        self.most, self.patience = most, patience
        self.is_idle = False  # between two requests
        self.since = self.loop.time()  # when it began to wait for what it waits for now

    @property
    def is_busy(self) -> bool:
        """A request is being received or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_signed_in(self) -> bool:
        """The last request came from a person or program that the station knows."""
        return self.scope is not None and self.scope.get(SCOPE) is not None

    @property
    def _may_go(self) -> bool:
        waits = not self.is_busy or self.flow.write_paused
        return waits or (self.cycle.more_body and not self.is_signed_in)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._make_room()

    def _make_room(self) -> None:
        """An eighth at once: under a flood, to look through all for each new one would take its time."""
        waiting = [one for one in self.connections if isinstance(one, Connection) and one._may_go]
        waiting.sort(key=lambda one: (one is self, one.is_signed_in, one.since))
        strangers = (one for one in waiting[1 : self.most // 8] if not (one is self or one.is_signed_in))
        for last in (waiting[0], *strangers):
            last.transport.abort()
            self.connections.discard(last)  # at once: the next ones are accepted before it is gone

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        if self.is_idle:
            self.is_idle, self.since = False, self.loop.time()
        super().data_received(data)
        if self.cycle is not before:
            self.since = self.loop.time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.since = self.loop.time()
        state = self.conn.their_state.__name__
        self.is_idle = not self.is_busy and state == "IDLE" and not self.conn.trailing_data[0]

    def pause_writing(self) -> None:
        super().pause_writing()
        self.since = self.loop.time()

    def expire(self) -> None:
        """Close the connection if it has kept the station waiting for too long."""
        waited = self.loop.time() - self.since
        if (self.is_busy and not self.flow.write_paused) or waited < self._limit:
            return
        if self.transport.is_closing():
            self.transport.abort()  # what is still to be written finds no reader
        else:
            self.transport.close()
            self.since = self.loop.time()

    @property
    def _limit(self) -> float:
        is_idle = self.is_idle and not self.flow.write_paused  # its last answer is read, too
        return KEEP_ALIVE if is_idle else self.patience


class RateLimit(logging.Filter):
    """Lets so many lines pass in a while, and says in the next one how many it held back.

    Args:
        clock: seconds.
    """

    def __init__(self, most: int = LINES, each: float = EACH, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self.most, self.each, self.clock = most, each, clock
        self._since, self._count = clock(), 0

    def filter(self, record: logging.LogRecord) -> bool:
        if self.clock() - self._since >= self.each:
            held = self._count - self.most
            self._since, self._count = self.clock(), 0
            if held > 0:
                record.msg, record.args = f"{record.getMessage()} ({held} lines before are left out)", ()
        self._count += 1
        return self._count <= self.most


def limit_logs() -> None:
    """Whoever connects cannot fill the log: not with requests that are none, nor where files run out."""
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).addFilter(RateLimit())
