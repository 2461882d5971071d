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
from flawscope_station.store.files import Files
from flawscope_station.store.records import REMOVED_EVENT, Store
from flawscope_station.store.retention import KEEP_CONFIRMED, RemovalSummary, Retention
from flawscope_station.store.station_identity import CLOCK_CONFIRMED, Clock

CHECK_INTERVAL = 60.0  # seconds between two checks of the clock
REMOVAL_INTERVAL = 3600.0  # seconds between two removals
CLOCK_JUMPED = "clock_jumped"  # event
REST_SECONDS = 0.05  # between two pieces of work
ASKED_SHARE = 0.1  # of what is there, that a start removes without a question
CONFIRM_KEEP = Action("/api/v1/keep/confirm", "problems.keep_is_right")


class Housekeeping(BackgroundThread):
    """Checks the clock, and removes pictures and records that are kept too long.

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
        going_on = self.threads[0].go_on
        self._retention = Retention(
            self.database, files, keep, self.clock, self._ended, record_seconds, going_on
        )
        self._clock_jumped = False  # since it was checked
        self._keep = json.dumps(asdict(keep), sort_keys=True)
        self._question: str | None = None  # about `keep`; "": there is none; None: not looked for yet
        self._asks_of_space = False  # the question is about `space`, and not about ages alone
        self._removes_at = 0.0  # as `time.monotonic` counts
        self._removed = RemovalSummary()  # for space, since the last event
        self._sweeper = threading.Thread(target=files.sweep, name="sweep", daemon=True)

    @override
    def start(self) -> None:
        """Check the clock, remove unneeded files of the store in a thread, and begin to work."""
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

    def confirm_keep(self, who: str) -> None:
        """Note that a person took `keep` as right, which is asked: what it removes goes. StoreError."""
        if not self._question:
            return
        self.store.note_event(KEEP_CONFIRMED, who, self._keep)
        self._question = ""
        self._removes_at = 0.0
        self.report("keep_asks", None)
        self.wake()

    def _may_remove(self) -> bool:
        """Whether pictures and records may be removed.

        Where a start would remove much at once, a person is asked before, for a bound may be wrong by a
        letter.
        """
        if self._question is None and not self.clock.jump:
            with suppress(FlawscopeError):  # the next round looks again
                self._question = self._ask()
                self.report("keep_asks", self._question or None, CONFIRM_KEEP)
        return self._question == ""

    def _may_make_room(self) -> bool:
        """Whether pictures may be removed for space: a question about ages alone does not fill the disk."""
        return self._question == "" or (bool(self._question) and not self._asks_of_space)

    def _ask(self) -> str:
        """Return the question whether `keep` is right; "" where it removes little, or was confirmed."""
        due = self._retention.due()
        if due.share <= ASKED_SHARE or self._keep in [row.text for row in self.store.events(KEEP_CONFIRMED)]:
            return ""
        self._asks_of_space = due.space_share > ASKED_SHARE
        return (
            f"`keep` would remove {due.words()}, and nothing is removed before somebody says that this is "
            "right: press the button, or change `keep` and start the station anew"
        )

    @override
    def _work(self) -> None:
        while not self._wait(CHECK_INTERVAL if self._removes_at or self._question else 1.0):
            with self.threads[0].call():
                self._note_jump_event()
                self.check_clock()
                may_remove = self._may_remove()
                if self._may_make_room() and self._retention.is_full:
                    self._make_room()
                if may_remove and time.monotonic() >= self._removes_at:
                    self._removes_at = time.monotonic() + REMOVAL_INTERVAL
                    self._remove_old()

    def _note_jump_event(self) -> None:
        """Write down that the clock has jumped: the problem ends some day."""
        if self._clock_jumped:
            self._clock_jumped = False
            with suppress(FlawscopeError):  # a store that cannot be used is a problem of its own
                self.store.note_event(CLOCK_JUMPED, "station", self.jumps.last())

    def _make_room(self) -> None:
        """Remove pictures for space alone, at once; errors are left to the hourly removal."""
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
