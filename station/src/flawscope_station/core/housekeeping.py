"""Housekeeping: the clock is checked every minute; old pictures are removed every hour, or for space."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

from typing_extensions import override

from flawscope.errors import FlawscopeError, one_line_message
from flawscope_station.access.audit import trim_events
from flawscope_station.access.authenticator import Access
from flawscope_station.monitoring.background import BackgroundThread
from flawscope_station.monitoring.machine import ClockJumps
from flawscope_station.monitoring.problems import CONFIRM_CLOCK, Action
from flawscope_station.settings.station import RetentionSettings
from flawscope_station.store.clock import CLOCK_CONFIRMED, Clock
from flawscope_station.store.files import Files
from flawscope_station.store.records import REMOVED_EVENT, Store
from flawscope_station.store.retention import KEEP_CONFIRMED, RemovalSummary, Retention

CHECK_INTERVAL = 60.0  # seconds between two checks of the clock
FIRST_CHECK_INTERVAL = 1.0  # seconds between two checks before the first removal, or the question about it
REMOVAL_INTERVAL = 3600.0  # seconds between two removals
CLOCK_JUMPED = "clock_jumped"  # event
REST_SECONDS = 0.05  # between two pieces of work
ASKED_SHARE = 0.1  # share of pictures or records above which a person is asked before the first removal
CONFIRM_KEEP = Action("/api/v1/keep/confirm", "problems.keep_is_right")


class Housekeeping(BackgroundThread):
    """Checks the clock, and removes pictures and records that are kept too long.

    Args:
        store: Records of the station.
        files: Files of the station.
        keep: Setting `keep`.
        access: Sessions of people, whose ended ones are removed.
        report: Reports a problem, as `Problems.report`.
        record_seconds: Seconds for which records are kept, however short `keep.records` is.
        jumps: Jumps of the clock, which a person may confirm.
    """

    def __init__(
        self,
        store: Store,
        files: Files,
        keep: RetentionSettings,
        access: Access,
        report: Callable[..., None],
        record_seconds: float = 0.0,
        jumps: ClockJumps | None = None,
    ):
        super().__init__("housekeeping")
        self.jumps = jumps or ClockJumps()
        self.store = store
        self.database = store.database
        self.access = access
        self.report = report
        self.clock = Clock(self.database)
        report_progress = self.threads[0].go_on
        self._retention = Retention(
            self.database, files, keep, self.clock, self._ended, record_seconds, report_progress
        )
        self._has_clock_jumped = False  # since the last event about it
        self._keep = json.dumps(asdict(keep), sort_keys=True)  # text by which an event confirms `keep`
        self._question: str | None = None  # question about `keep`; "": there is none; None: not checked yet
        self._asks_of_space = False  # whether the question is about `space`, and not about ages alone
        self._next_removal = 0.0  # as `time.monotonic` counts
        self._removed = RemovalSummary()  # what was removed for space since the last event
        self._sweeper = threading.Thread(target=files.sweep, name="sweep", daemon=True)

    @override
    def start(self) -> None:
        """Check the clock, remove unneeded files of the store in a thread, and begin to work."""
        self.check_clock()
        self._sweeper.start()
        super().start()

    def check_space(self, recorded: object = None) -> None:
        """Remove old pictures now if there is little space; called with each recorded inspection."""
        if self._retention.is_full:
            self.wake()

    def check_clock(self) -> None:
        """Check the clock, and report its problem."""
        with suppress(FlawscopeError):  # a store that cannot be used is a problem of its own
            self.clock.check()
        self.report("clock", self.clock.problem or None, CONFIRM_CLOCK)

    def note_clock_jump(self) -> None:
        """Note that the clock has jumped, and check it at once."""
        self._has_clock_jumped = True
        self.wake()

    def confirm_clock(self, who: str) -> None:
        """Note that a person confirmed the computer's clock, which had jumped; without a problem do nothing.

        Raises:
            StoreError: The event cannot be recorded.
        """
        problem = self.clock.problem or self.jumps.text()
        if not problem:
            return
        self.store.note_event(CLOCK_CONFIRMED, who, problem)
        self.clock.confirm()
        self.jumps.confirm()
        self.report("clock", None)
        self.report("clock_jumped", None)

    def confirm_keep(self, who: str) -> None:
        """Note that a person confirmed `keep`, and begin to remove; without an open question do nothing.

        Raises:
            StoreError: The event cannot be recorded.
        """
        if not self._question:
            return
        self.store.note_event(KEEP_CONFIRMED, who, self._keep)
        self._question = ""
        self._next_removal = 0.0
        self.report("keep_asks", None)
        self.wake()

    def _may_remove(self) -> bool:
        """Return whether pictures and records may be removed.

        If the first removal would remove much at once, a person is asked first, as `keep` may have a typing
        error.
        """
        # while the clock may be wrong, nobody knows how old the records are
        if self._question is None and not self.clock.jump:
            with suppress(FlawscopeError):  # the next round looks again
                self._question = self._ask()
                self.report("keep_asks", self._question or None, CONFIRM_KEEP)
        return self._question == ""  # not None, which means: not checked yet

    def _may_make_room(self) -> bool:
        """Return whether pictures may be removed for space, which a question about ages does not forbid."""
        if self._question is None:  # not checked yet
            return False
        return self._question == "" or not self._asks_of_space

    def _ask(self) -> str:
        """Return the question whether `keep` is right; "" where it removes little, or was confirmed."""
        removal = self._retention.due()
        if removal.share <= ASKED_SHARE:
            return ""
        if self._keep in [event.text for event in self.store.events(KEEP_CONFIRMED)]:
            return ""
        self._asks_of_space = removal.space_share > ASKED_SHARE
        return (
            f"`keep` would remove {removal.words()}, and nothing is removed before somebody says that this "
            "is right: press the button, or change `keep` and start the station anew"
        )

    def _seconds_to_next_check(self) -> float:
        """Return the pause before the next check, which is short until the first removal or question."""
        has_begun = self._next_removal > 0 or bool(self._question)
        return CHECK_INTERVAL if has_begun else FIRST_CHECK_INTERVAL

    @override
    def _work(self) -> None:
        while not self._wait(self._seconds_to_next_check()):  # True: the thread is to end
            with self.threads[0].call():
                self._note_jump_event()
                self.check_clock()
                may_remove = self._may_remove()  # sets the question that `_may_make_room` needs
                if self._may_make_room() and self._retention.is_full:
                    self._make_room()
                if may_remove and time.monotonic() >= self._next_removal:
                    self._next_removal = time.monotonic() + REMOVAL_INTERVAL
                    self._remove_old()

    def _note_jump_event(self) -> None:
        """Record an event if the clock has jumped: the problem itself ends after a day."""
        if self._has_clock_jumped:
            self._has_clock_jumped = False
            with suppress(FlawscopeError):  # a store that cannot be used is a problem of its own
                self.store.note_event(CLOCK_JUMPED, "station", self.jumps.last())

    def _make_room(self) -> None:
        """Remove pictures for space alone, at once; errors are left to the hourly removal."""
        with suppress(Exception):
            self._removed += self._retention.make_room()

    def _rest(self) -> None:
        """Leave the database to other threads between two pieces of work."""
        self.threads[0].go_on()
        self._ended.wait(REST_SECONDS)

    def _remove_old(self) -> None:
        """Remove events, pictures, records and sessions that are kept too long, and report what fails."""
        try:
            self.database.tune()  # before the removal, which may take long in a large store
            trim_events(self.database, pause=self._rest)
            summary = self._retention.run() + self._removed
            self._removed = RemovalSummary()
            problem = summary.problem
            if line := summary.line():
                self.store.note_event(REMOVED_EVENT, "station", f"removed {line}, as `keep` says")
            self.access.sessions.remove_ended()
            while self.database.give_space_back() and not self._ended.is_set():
                self._rest()
        except Exception as error:  # tried again in an hour; inspections go on
            problem = f"what is kept too long cannot be removed: {one_line_message(error)}"
        self.report("retention", problem or None)
