"""State of the station's computer: one thread measures it each second, and all other threads read the result.

Disk, database, clock and memory may hang or lie. A thread that answers a sender, a PLC or a scrape asks none
of them, and reads the last `Machine`, which is in memory. Where the last `Machine` is too old, the disk or
the database does not answer, which is a standstill of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from typing_extensions import override

from flawscope import machine
from flawscope_station.monitoring.background import CLOCK, BackgroundThread, MonotonicClock
from flawscope_station.monitoring.problems import CONFIRM_CLOCK, Standstill
from flawscope_station.store.database import SILENT, Database, StoreError, now
from flawscope_station.store.files import DiskState, Files
from flawscope_station.store.records import iso

INTERVAL = 1.0  # seconds between two measurements
MAX_AGE = 5.0  # seconds after which, without a new measurement, disk or database count as silent
HANGING_SECONDS = 60.0  # seconds after which the measuring thread itself is reported to hang
CLOCK_JUMP = 60.0  # seconds; a smaller change is a correction of a clock that runs
# seconds for which a jump of the clock is reported, unless a person confirms it
JUMP_REPORT_SECONDS = 24 * 3600.0
MAX_JUMPS_SHOWN = 4  # latest jumps that the problem names
# names of the steps of a measurement, in the message that one of them does not answer
DISK = "the disk"
DATABASE = "the database"


@dataclass(frozen=True)
class Machine:
    """State of the computer, as it was measured.

    Attributes:
        at: When it was measured, as `time.monotonic` counts.
        disk: State of the disk.
        database: Why the database cannot be used; None: it can.
        available_bytes: Bytes of memory that are available; None: not known.
    """

    at: float
    disk: DiskState
    database: StoreError | None
    available_bytes: int | None


class MachineWatch(BackgroundThread):
    """Thread that measures the computer.

    Args:
        database: Database of the station.
        files: Files of the station.
        report: Reports a problem, as `Problems.report`.
        clock: Clock by which the thread waits.
        wall: Returns the time of the computer's clock, microseconds since 1970.

    Attributes:
        state: State that was measured last.
        on_clock_jump: Functions that are called when the clock has jumped.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        report: Callable[..., None],
        clock: MonotonicClock = CLOCK,
        wall: Callable[[], int] = now,
    ):
        super().__init__("machine", clock)
        self.database = database
        self.files = files
        self.report = report
        self.jumps = ClockJumps(wall)
        self.on_clock_jump: list[Callable[[], object]] = []
        self._step = DISK  # step of the measurement that runs now, or ran last
        self._started_at: float | None = None
        self.state = Machine(clock.monotonic(), files.disk, database=None, available_bytes=None)

    @override
    def start(self) -> None:
        """Begin to measure; from now on the database calls `database_silence` before each use."""
        self._started_at = self._clock.monotonic()
        self.database.silence = self.database_silence
        super().start()

    def measure(self) -> Machine:
        """Measure the computer now."""
        has_jumped = self.jumps.look()
        self._step = DISK
        if self.database.is_sqlite:  # its file is on the disk that is measured now, and may hang with it
            self.database.is_doubted = True
        disk = self.files.measure()
        self._step = DATABASE
        self.database.is_doubted = True  # until it has answered
        database = self._ask_database()
        total_and_available = machine.system_memory()
        available_bytes = None if total_and_available is None else total_and_available[1]
        self.state = Machine(self._clock.monotonic(), disk, database, available_bytes)
        has_answered = database is None or database.code != SILENT
        self.database.is_doubted = not has_answered
        self.report("clock_jumped", self.jumps.text() or None, CONFIRM_CLOCK)
        if has_jumped:
            for on_jump in self.on_clock_jump:
                on_jump()
        return self.state

    def _ask_database(self) -> StoreError | None:
        """Return why the database cannot be used; None: it can.

        After a failed write it tries to write, which shows whether the failure is over.
        """
        try:
            self.database.check_answers()
        except StoreError as error:
            return error
        if self.database.full or self.database.failure:
            self.database.try_write()
        return None

    @override
    def _work(self) -> None:
        while not self._ended.is_set():
            with self.threads[0].call(HANGING_SECONDS):
                self.measure()
            self._wait(INTERVAL)

    # ---- what others read

    def silence(self) -> StoreError | None:
        """Return the error of a disk or a database that does not answer.

        None: the last measurement is recent, or the thread does not run.
        """
        if self._started_at is None or self._ended.is_set():
            return None
        time_now = self._clock.monotonic()  # read before the state, which the thread may renew meanwhile
        last_answer_at = max(self.state.at, self._started_at)  # before the first measurement: the start
        age = time_now - last_answer_at
        return silent_error(self._step, age) if age > MAX_AGE else None

    def database_silence(self) -> StoreError | None:
        """Return the error of a database that does not answer; None: it may answer.

        A caller that gets an error need not wait for the database.
        """
        error = self.silence()
        if error is not None:
            # a disk that does not answer silences SQLite, too, whose file is on it
            is_database_silent = self.database.is_sqlite or self._step == DATABASE
            return error if is_database_silent else None
        last_error = self.state.database
        return last_error if last_error is not None and last_error.code == SILENT else None

    def standstill(self, size: int) -> Standstill | None:
        """Return why a part with files of `size` bytes in all cannot be recorded; None: it can."""
        fault = self.fault()
        if fault is not None:
            return fault
        try:
            self.files.check_free_space(size)
        except StoreError as error:
            return Standstill("disk_full", error)
        return None

    def fault(self) -> Standstill | None:
        """Return why no part can be recorded, however small; None: a part can, if the disk has space."""
        if (silence := self.silence()) is not None:
            return Standstill(SILENT, silence)
        if self.database.full:
            return Standstill("disk_full", StoreError(self.database.full, "disk_full"))
        for error in (self.state.disk.error, self.state.database):
            if error is not None:
                return Standstill(error.code, error)
        # no error here: parts are still taken, for only the next write can show that the failure is over
        return Standstill("store_unreachable") if self.database.failure else None

    def check_room(self, size: int) -> None:
        """Raise StoreError where files of `size` bytes could not be kept and recorded."""
        standstill = self.standstill(size)
        if standstill is not None and standstill.error is not None:
            raise standstill.error


def silent_error(name: str, seconds: float) -> StoreError:
    """Return the error of a disk or a database that has not answered for `seconds`."""
    text = f"{name} has not answered for {seconds:.0f} s: it hangs, or its network does"
    return StoreError(text, SILENT)


def elapsed_seconds() -> float:
    """Return seconds that never go back; where the system has such a clock, they go on while it sleeps."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class _ClockJump(NamedTuple):
    """Jump of the computer's clock.

    Attributes:
        noticed_at: When it was noticed, by the clock that never jumps.
        text: Length, direction and times of the jump, for people.
    """

    noticed_at: float
    text: str


class ClockJumps:
    """Jumps of the computer's clock, measured against a clock that never jumps.

    Parts between two jumps have wrong times: the problem names the span.

    Args:
        wall: Returns microseconds since 1970.
        monotonic: Returns seconds that never go back.
    """

    def __init__(self, wall: Callable[[], int] = now, monotonic: Callable[[], float] = elapsed_seconds):
        self._wall = wall
        self._monotonic = monotonic
        self._offset = self._present_offset()
        self._jumps: list[_ClockJump] = []

    def look(self) -> bool:
        """Look at the clock; return whether it has jumped since the last look."""
        previous_offset = self._offset
        self._offset = self._present_offset()
        jump = self._offset - previous_offset
        if abs(jump) < CLOCK_JUMP:
            return False
        wall_time = self._wall()
        direction = "ahead" if jump > 0 else "back"
        # what the clock would show without the jump
        time_before = iso(round(wall_time - jump * 1e6))
        text = f"{_duration(abs(jump))} {direction} at {time_before}, to {iso(wall_time)}"
        self._jumps.append(_ClockJump(self._monotonic(), text))
        return True

    def text(self) -> str:
        """Return the jumps of the last day; "": there was none."""
        earliest = self._monotonic() - JUMP_REPORT_SECONDS
        self._jumps = [jump for jump in self._jumps if jump.noticed_at >= earliest]
        if not self._jumps:
            return ""
        jump_texts = ", then ".join(jump.text for jump in self._jumps[-MAX_JUMPS_SHOWN:])
        return (
            f"the computer's clock jumped {jump_texts}: what was recorded from one jump to the next has "
            "times of that clock; see to its time server, and confirm that it is right now"
        )

    def last(self) -> str:
        """Return the last jump as a sentence; "": there was none."""
        return f"the computer's clock jumped {self._jumps[-1].text}" if self._jumps else ""

    def confirm(self) -> None:
        """Forget the jumps up to now, which are not reported any more."""
        self._jumps = []

    def _present_offset(self) -> float:
        """Return the seconds by which the computer's clock is ahead of the clock that never jumps."""
        return self._wall() / 1e6 - self._monotonic()


def _duration(seconds: float) -> str:
    """Return a time in seconds as minutes, hours or days, for people."""
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} minutes"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.0f} hours"
    return f"{seconds / 86400:.0f} days"
