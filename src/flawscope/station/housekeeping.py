"""Housekeeping: the clock is checked every minute; old pictures are removed every hour, or for space."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from flawscope.errors import FlawscopeError, one_line_message
from flawscope.station.access.audit import trim_events
from flawscope.station.access.users import Access
from flawscope.station.background import BackgroundThread
from flawscope.station.inspecting.writer import RecordedInspection
from flawscope.station.problems import Action
from flawscope.station.settings.station import RetentionSettings
from flawscope.station.store.files import Files
from flawscope.station.store.records import REMOVED_EVENT, Store
from flawscope.station.store.retention import Retention
from flawscope.station.store.station_identity import Clock

CHECK_INTERVAL = 60.0  # seconds between two checks of the clock
REMOVAL_INTERVAL = 3600.0  # seconds between two removals
CONFIRM_CLOCK = Action("/api/v1/clock/confirm", "problems.clock_is_right")
EARLY_REMOVAL_SHARE = 0.01  # share of `keep: space` that must be written before a removal comes sooner


class Housekeeping(BackgroundThread):
    """Checks the clock and removes what is kept too long.

    Args:
        report: reports a problem, as `Station.report`.
    """

    def __init__(
        self, store: Store, files: Files, keep: RetentionSettings, access: Access, report: Callable[..., None]
    ):
        super().__init__("housekeeping")
        self.store, self.database, self.access, self.report = store, store.database, access, report
        self.clock = Clock(self.database)
        self._files, self._new_bytes = files, 0  # bytes of pictures since the last removal
        self._make_retention(keep)

    def set_retention(self, keep: RetentionSettings) -> None:
        """Use other times of keeping from the next removal on."""
        used = self._retention.used
        self._make_retention(keep)
        self._retention.used = used

    def _make_retention(self, keep: RetentionSettings) -> None:
        self._retention = Retention(self.database, self._files, keep, self.clock, self._ended)
        self._space = keep.space_bytes

    def start(self) -> None:
        self.check_clock()
        super().start()

    def stop(self, seconds: float | None = None) -> None:
        super().stop(seconds)
        with suppress(FlawscopeError):
            self.clock.close()

    def count_bytes(self, recorded: RecordedInspection) -> None:
        """Count a new picture's bytes; remove old pictures now where there is no space for it."""
        self._new_bytes += recorded.inspection.bytes
        if self._exceeds_space():
            self.wake()

    def check_clock(self) -> None:
        """Check the clock, and report its problem."""
        with suppress(FlawscopeError):  # a store that cannot be used is a problem of its own
            self.clock.check()
        self.report("clock", self.clock.problem or None, CONFIRM_CLOCK)

    def _exceeds_space(self) -> bool:
        if self._space is None or self._new_bytes < EARLY_REMOVAL_SHARE * self._space:
            return False
        return self._retention.used + self._new_bytes > self._space

    def _work(self) -> None:
        due = 0.0
        while not self._wait(CHECK_INTERVAL if due else 1.0):
            self.check_clock()
            if time.monotonic() >= due or self._exceeds_space():
                self._remove_old()
                due = time.monotonic() + REMOVAL_INTERVAL

    def _remove_old(self) -> None:
        self._new_bytes = 0
        try:
            self.database.tune()  # before the removal, which may take long in a large store
            summary = self._retention.run()
            problem = summary.problem
            if line := summary.line():
                self.store.note_event(REMOVED_EVENT, "station", f"removed {line}, as `keep` says")
            self.access.remove_ended_sessions()
            trim_events(self.database)
        except Exception as error:  # tried again in an hour; inspections go on
            problem = f"what is kept too long cannot be removed: {one_line_message(error)}"
        self.report("retention", problem or None)
