"""Sending of a station's events to a syslog server, each as a line of JSON, by UDP.

UDP does not report lines that are lost on the way. Lines that the station itself could not send are sent
later: a file in the store has the number of the last event that was sent.
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
PAGE_SIZE = 200  # events that are read at once; then the number of the last event is written
MAX_TEXT = 8000  # letters of an event's text, so that a line fits into a datagram
POSITION_FILE = ".syslog"  # in the store
MIN_RETRY_DELAY = 2.0  # seconds before a line is sent again
MAX_RETRY_DELAY = 300.0  # seconds before a line is sent again after many failures
PROBLEM = "syslog_away"  # code of the problem


class _Handler(SysLogHandler):
    """Handler that sends a line without a final NUL, and raises its errors."""

    append_nul = False

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        """Raise the error that `emit` is handling, so that the line is sent again."""
        raise


class EventForwarder(BackgroundThread):
    """Thread that sends events.

    Args:
        server: Address of the server as HOST:PORT.
        station: Name of the station, which every line has.
        database: Database of the station.
        files: Files of the station.
        report: Reports a problem under a code, with its text; None: the problem is over.
        clock: Clock by which the thread waits.
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
        self._backoff = Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY, spread=0.25)
        self._handler: _Handler | None = None
        self._sent_number: int | None = None  # number of the last event that was sent; None: not read yet
        # Number of the newest event at the last look: transactions of all events up to it have ended by now.
        self._settled_number = 0

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
            except Exception as error:  # server or store may be away; inspections go on
                pause = self._backoff.next()
                self.report(PROBLEM, f"events are not sent to {self.server}: {one_line_message(error)}")
            self._pause(pause)

    def forward(self) -> None:
        """Send the events up to the event that was the newest at the last call.

        Newer events wait for the next call: a transaction that is still open may add one with a smaller
        number.
        """
        sent_number = self._read_position() if self._sent_number is None else self._sent_number
        self._sent_number = sent_number
        settled_number = self._settled_number
        self._settled_number = newest_event(self.database)
        while sent_number < settled_number and not self._ended.is_set():
            page = events_after(self.database, sent_number, settled_number, PAGE_SIZE)
            for event in page:
                self._send(event)
            # an empty page: the events up to `settled_number` do not exist any more
            sent_number = page[-1]["id"] if page else settled_number
            self.files.write(self.files.folder / POSITION_FILE, f"{sent_number}\n".encode())
            self._sent_number = sent_number

    def _read_position(self) -> int:
        """Return the number of the last event that was sent.

        At the first start it is the number of the newest event, which is written into the file.
        """
        path = self.files.folder / POSITION_FILE
        try:
            return int(path.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            newest = newest_event(self.database)
            self.files.write(path, f"{newest}\n".encode())
            return newest

    def _send(self, event: AuditEvent) -> None:
        """Send a line about an event; raise the error where it cannot be sent."""
        if self._handler is None:
            self._handler = _Handler(split_host_port(self.server, "syslog"))
        line = json.dumps({"station": self.station, **event, "text": event["text"][:MAX_TEXT]})
        try:
            self._handler.emit(
                logging.makeLogRecord({"msg": line, "levelno": logging.INFO, "levelname": "INFO"})
            )
        except Exception:
            self._handler.close()
            self._handler = None  # a new handler looks the server's name up again
            raise
