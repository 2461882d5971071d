"""Housekeeping: the clock is checked every minute; old pictures are removed every hour, or for space."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from flawscope.errors import FlawscopeError, one_line_message
from flawscope_station.access.audit import trim_events
from flawscope_station.access.authenticator import Access
from flawscope_station.monitoring.background import BackgroundThread
from flawscope_station.monitoring.machine import ClockJumps
from flawscope_station.monitoring.problems import CONFIRM_CLOCK
from flawscope_station.settings.station import RetentionSettings
from flawscope_station.store.files import Files
from flawscope_station.store.records import REMOVED_EVENT, Store
from flawscope_station.store.retention import RemovalSummary, Retention
from flawscope_station.store.station_identity import CLOCK_CONFIRMED, Clock

CHECK_INTERVAL = 60.0  # seconds between two checks of the clock
REMOVAL_INTERVAL = 3600.0  # seconds between two removals
CLOCK_JUMPED = "clock_jumped"  # event
REST_SECONDS = 0.05  # between two pieces of work


class Housekeeping(BackgroundThread):
    """Checks the clock and removes what is kept too long.

    Args:
        report: reports a problem, as `Problems.report`.
        jumps: of the clock, which a person may confirm.
        record_seconds: for which records are needed, however short `keep.records` is.
    """

    def __init__(
        self,
        store: Store,
        files: Files,
        keep: RetentionSettings,
        access: Access,
        report: Callable[..., None],
        jumps: ClockJumps,
        record_seconds: float = 0.0,
    ):
        super().__init__("housekeeping")
        self.jumps = jumps
        self.store, self.database, self.access, self.report = store, store.database, access, report
        self.clock = Clock(self.database)
        going_on = self.threads[0].go_on
        self._retention = Retention(
            self.database, files, keep, self.clock, self._ended, record_seconds, going_on
        )
        self._clock_jumped = False  # since it was checked
        self._removes_at = 0.0  # as `time.monotonic` counts
        self._removed = RemovalSummary()  # for space, since the last event
        self._sweeper = threading.Thread(target=files.sweep, name="sweep", daemon=True)

    def start(self) -> None:
        self.check_clock()
        self._sweeper.start()
        super().start()

    def check_space(self, recorded: object = None) -> None:
        """Remove old pictures now where there is little space for others, after each that was recorded."""
        if self._retention.is_full:
            self.wake()

    def check_clock(self) -> None:
        """Check the clock, and report its problem."""
        with suppress(FlawscopeError):  # a store that cannot be used is a problem of its own
            self.clock.check()
        self.report("clock", self.clock.problem or None, CONFIRM_CLOCK)

    def note_clock_jump(self) -> None:
        """Check the clock at once, which has jumped."""
        self._clock_jumped = True
        self.wake()

    def confirm_clock(self, who: str) -> None:
        """Note that a person took the computer's clock, which jumped, as right. StoreError."""
        problem = self.clock.problem or self.jumps.text()
        if not problem:
            return
        self.store.note_event(CLOCK_CONFIRMED, who, problem)
        self.clock.confirm()
        self.jumps.confirm()
        self.report("clock", None)
        self.report("clock_jumped", None)

    def _work(self) -> None:
        while not self._wait(CHECK_INTERVAL if self._removes_at else 1.0):
            with self.threads[0].call():
                if self._retention.is_full:
                    self._make_room()
                self._note_jump_event()
                self.check_clock()
                if time.monotonic() >= self._removes_at:
                    self._removes_at = time.monotonic() + REMOVAL_INTERVAL
                    self._remove_old()

    def _note_jump_event(self) -> None:
        """Write down that the clock has jumped: the problem ends some day."""
        if self._clock_jumped:
            self._clock_jumped = False
            with suppress(FlawscopeError):  # a store that cannot be used is a problem of its own
                self.store.note_event(CLOCK_JUMPED, "station", self.jumps.last())

    def _make_room(self) -> None:
        """Remove pictures for space alone, at once; the hourly removal says what is wrong."""
        with suppress(Exception):
            self._removed += self._retention.make_room()

    def _rest(self) -> None:
        """Leave the data base to others between two pieces of work."""
        self.threads[0].go_on()
        self._ended.wait(REST_SECONDS)

    def _remove_old(self) -> None:
        try:
            self.database.tune()  # before the removal, which may take long in a large store
            trim_events(self.database, pause=self._rest)
            summary = self._retention.run() + self._removed
            self._removed, problem = RemovalSummary(), summary.problem
            if line := summary.line():
                self.store.note_event(REMOVED_EVENT, "station", f"removed {line}, as `keep` says")
            self.access.sessions.remove_ended()
            while self.database.give_space_back() and not self._ended.is_set():
                self._rest()
        except Exception as error:  # tried again in an hour; inspections go on
            problem = f"what is kept too long cannot be removed: {one_line_message(error)}"
        self.report("retention", problem or None)
