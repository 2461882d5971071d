"""Connections to PostgreSQL that never wait for an answer for ever.

A server that is frozen, or a network that swallows packets, keeps a connection open and says nothing. No
option of libpq ends that, because the other machine acknowledges each packet. So each wait has an end here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from sqlalchemy import Engine, event
from typing_extensions import override

T = TypeVar("T")

IDLE_PATIENCE = 5.0  # seconds in which a connection that was not used must answer whether it is still there
# Of errors: the server's state, and not the statement, is at fault. 25006: read only; 42501: a right is
# lacking; 57014: it took too long. Classes: connection, resources, object in use, operator, system, internal
_STATES = ("25006", "42501", "08", "53", "55", "57", "58", "XX")


class SilentServerError(psycopg.OperationalError):
    """The server did not answer in time."""


class Connection(psycopg.Connection[TupleRow]):
    """Connection that is closed when an answer takes longer than `patience`, in seconds; None: no limit."""

    patience: float | None = IDLE_PATIENCE

    @override
    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for an answer.

        Raises:
            SilentServerError: there is none within `patience`.
        """
        if self.patience is None:
            return super().wait(gen, interval, timeout)
        return super().wait(self._in_time(gen, self.patience), interval, timeout)

    def _in_time(self, gen: PQGen[T], seconds: float) -> PQGen[T]:
        """Yield the states that an exchange with the server waits for, until it is done or its time is over.

        psycopg sends 0 several times a second while nothing comes.
        """
        ends = time.monotonic() + seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > ends:
                    self.pgconn.finish()
                    raise SilentServerError(f"the server has not answered for {seconds:.0f} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            answer: T = done.value
            return answer


def use_patient_connections(engine: Engine) -> None:
    """Let an engine make each connection as a `Connection`; back in the pool, its patience is short again."""

    @event.listens_for(engine, "do_connect")
    def connect(dialect: object, record: object, args: Sequence[str], given: Mapping[str, Any]) -> Connection:
        return Connection.connect(*args, **given)

    @event.listens_for(engine, "checkin")
    def wait_briefly(connection: Connection | None, record: object) -> None:
        if connection is not None:
            connection.patience = IDLE_PATIENCE


def is_silent(error: BaseException | None) -> bool:
    """Return whether the error says that the server did not answer in time, unlike a refusal."""
    return isinstance(error, SilentServerError | errors.ConnectionTimeout)


def is_of_server(sqlstate: str) -> bool:
    """Return whether an error code is about the server, not the statement: an operator can remedy it."""
    return sqlstate.startswith(_STATES)
