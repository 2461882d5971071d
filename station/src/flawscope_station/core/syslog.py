"""Events of a station to a syslog server, each as a line of JSON, by UDP.

UDP does not report lines that are lost on the way. Lines that the station itself could not send wait: the
number of the last event that was sent is a file in the store.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from logging.handlers import SysLogHandler

from typing_extensions import override

from flawscope.errors import one_line_message
from flawscope_station.access.audit import AuditEvent, events_after, newest_event
from flawscope_station.monitoring.background import CLOCK, BackgroundThread, Backoff, MonotonicClock
from flawscope_station.settings.values import split_host_port
from flawscope_station.store.database import Database
from flawscope_station.store.files import Files

INTERVAL = 2.0  # seconds between two looks for new events
PAGE_SIZE = 200  # events that are read at once; then the number of the last one is written
MAX_TEXT = 8000  # letters of an event's text, so that a line fits into a datagram
POSITION_FILE = ".syslog"  # in the store
# seconds before a line is sent again
MIN_RETRY_DELAY = 2.0
MAX_RETRY_DELAY = 300.0
PROBLEM = "syslog_away"


class _Handler(SysLogHandler):
    append_nul = False  # a line is JSON and no more

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        """Raise what went wrong: the line is sent again."""
        raise


class EventForwarder(BackgroundThread):
    """Thread that sends events.

    Args:
        server: HOST:PORT.
        station: its name, which every line has.
        report: reports a problem under a code, or with None its end.
    """

    def __init__(
        self,
        server: str,
        station: str,
        database: Database,
        files: Files,
        report: Callable[[str, str | None], None],
        clock: MonotonicClock = CLOCK,
    ):
        super().__init__("syslog", clock)
        self.server = server
        self.station = station
        self.database = database
        self.files = files
        self.report = report
        self._backoff = Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY, 0.25)
        self._handler: _Handler | None = None
        self._sent: int | None = None  # number of the last event that was sent; None: not read yet
        self._known = 0  # number of the newest event at the look before: all up to it are written for good

    @override
    def stop(self, seconds: float | None = 5.0) -> None:
        """End the thread as `BackgroundThread.stop` does, and close the socket."""
        super().stop(seconds)
        if self._handler is not None:
            self._handler.close()

    @override
    def _work(self) -> None:
        while not self._ended.is_set():
            pause = INTERVAL
            try:
                with self.threads[0].call():
                    self.forward()
                self._backoff.reset()
                self.report(PROBLEM, None)
            except Exception as error:  # a server that is away, a store that is: inspections go on
                pause = self._backoff.next()
                self.report(PROBLEM, f"events are not sent to {self.server}: {one_line_message(error)}")
            self._pause(pause)

    def forward(self) -> None:
        """Send the events up to the newest one that the call before saw.

        Newer events wait for the next call: a transaction that is still open may add one with a smaller
        number.
        """
        sent = self._position() if self._sent is None else self._sent
        self._sent = sent
        settled = self._known
        self._known = newest_event(self.database)
        while sent < settled and not self._ended.is_set():
            page = events_after(self.database, sent, settled, PAGE_SIZE)
            for event in page:
                self._send(event)
            sent = page[-1]["id"] if page else settled
            self.files.write(self.files.folder / POSITION_FILE, f"{sent}\n".encode())
            self._sent = sent

    def _position(self) -> int:
        """Return the number of the last event that was sent; at the first start that of the newest."""
        path = self.files.folder / POSITION_FILE
        try:
            return int(path.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            newest = newest_event(self.database)
            self.files.write(path, f"{newest}\n".encode())
            return newest

    def _send(self, event: AuditEvent) -> None:
        if self._handler is None:
            self._handler = _Handler(split_host_port(self.server, "syslog"))
        line = json.dumps({"station": self.station, **event, "text": event["text"][:MAX_TEXT]})
        try:
            self._handler.emit(
                logging.makeLogRecord({"msg": line, "levelno": logging.INFO, "levelname": "INFO"})
            )
        except Exception:
            self._handler.close()
            self._handler = None  # its name may have another address by now
            raise
