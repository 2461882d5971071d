"""Connections to PostgreSQL that wait for an answer only for a limited time.

A server that is frozen, or a network that swallows packets, keeps a connection open and sends nothing. No
option of libpq ends that wait, because the other machine acknowledges each packet.
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

IDLE_PATIENCE = 5.0  # seconds in which the server must answer the first query on a connection from the pool
# Beginnings of error codes (SQLSTATE) for which the state of the server is at fault, not the statement
_SERVER_STATES = (
    "25006",  # read only
    "42501",  # a right is lacking
    "08",  # connection
    "53",  # resources
    "55",  # object in use
    "57",  # operator; 57014: the statement took too long
    "58",  # system
    "XX",  # internal
)


class SilentServerError(psycopg.OperationalError):
    """The server did not answer in time."""


class Connection(psycopg.Connection[TupleRow]):
    """Connection that is closed when an answer takes longer than `patience`, in seconds; None: no limit."""

    patience: float | None = IDLE_PATIENCE

    @override
    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for an answer.

        Raises:
            SilentServerError: the server does not answer within `patience`.
        """
        if self.patience is None:
            return super().wait(gen, interval, timeout)
        return super().wait(self._in_time(gen, self.patience), interval, timeout)

    def _in_time(self, gen: PQGen[T], seconds: float) -> PQGen[T]:
        """Pass on an exchange with the server step by step, and end it when its time is over.

        The generator yields the socket state that it waits for. psycopg sends back the state that has been
        reached. While none has been reached, it sends 0 several times a second.

        Args:
            gen: Exchange with the server, from psycopg.
            seconds: Limit.

        Raises:
            SilentServerError: the time is over; the connection is closed.
        """
        deadline = time.monotonic() + seconds
        try:
            awaited_state = next(gen)
            while True:
                ready_state = yield awaited_state
                if not ready_state and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise SilentServerError(f"the server has not answered for {seconds:.0f} s")
                awaited_state = gen.send(ready_state)
        except StopIteration as end:
            answer: T = end.value
            return answer


def use_patient_connections(engine: Engine) -> None:
    """Make an engine open each connection as a `Connection`, and reset its patience after each use."""

    @event.listens_for(engine, "do_connect")
    def connect(
        dialect: object, record: object, args: Sequence[str], options: Mapping[str, Any]
    ) -> Connection:
        return Connection.connect(*args, **options)

    @event.listens_for(engine, "checkin")
    def reset_patience(connection: Connection | None, record: object) -> None:
        if connection is not None:
            connection.patience = IDLE_PATIENCE


def is_silent(error: BaseException | None) -> bool:
    """Return whether an error says that the server did not answer in time; a refusal counts as an answer."""
    return isinstance(error, SilentServerError | errors.ConnectionTimeout)


def is_of_server(sqlstate: str) -> bool:
    """Return whether an error code (SQLSTATE) is about the server, so that an operator can mend it."""
    return sqlstate.startswith(_SERVER_STATES)
