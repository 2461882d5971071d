"""Facts that the station knows of its computer: one thread measures it each second, and everybody else reads.

Disk, data base, clock and memory may hang or lie. A thread that answers a sender, a PLC or a scrape asks
none of them, and reads the last `Machine`, which is in memory. Where that one is too old, the disk or the
data base does not answer, which is a standstill of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import override

from flawscope import machine
from flawscope_station.monitoring.background import CLOCK, BackgroundThread, MonotonicClock
from flawscope_station.monitoring.problems import CONFIRM_CLOCK, Standstill
from flawscope_station.store.database import SILENT, Database, StoreError, now
from flawscope_station.store.files import DiskState, Files
from flawscope_station.store.records import iso

INTERVAL = 1.0  # seconds between two measurements
MAX_AGE = 5.0  # seconds after which what was measured last says that something does not answer
HANGING_SECONDS = 60.0  # seconds after which the measuring thread itself is told to hang
CLOCK_JUMP = 60.0  # seconds by which the clock jumps; less is a correction of a clock that runs
JUMP_REPORT_SECONDS = (
    24 * 3600.0
)  # seconds for which a jump of the clock is told, unless a person confirms it
# what may not answer
DISK = "the disk"
DATABASE = "the data base"


@dataclass(frozen=True)
class Machine:
    """State of the computer, as it was measured.

    Attributes:
        at: When, as `time.monotonic` counts.
        database: Why the data base cannot be used; None: it can.
        available_bytes: Of memory; None: not known.
    """

    at: float
    disk: DiskState
    database: StoreError | None
    available_bytes: int | None


class MachineWatch(BackgroundThread):
    """Thread that measures the computer.

    Args:
        report: reports a problem, as `Problems.report`.
        wall: the computer's clock, microseconds since 1970.

    Attributes:
        state: as it was measured last.
        on_clock_jump: functions that are called when the clock has jumped.
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
        self._step = DISK  # what is asked just now
        self._started_at: float | None = None
        self.state = Machine(clock.monotonic(), files.disk, None, None)

    @override
    def start(self) -> None:
        """Begin to measure; from now on the data base asks whether it is silent before each use."""
        self._started_at = self._clock.monotonic()
        self.database.silence = self.database_silence
        super().start()

    def measure(self) -> Machine:
        """Measure the computer now."""
        jumped = self.jumps.look()
        self._step = DISK
        if self.database.is_sqlite:  # its file hangs with the others
            self.database.is_doubted = True
        disk = self.files.measure()
        self._step = DATABASE
        self.database.is_doubted = True
        database = self._ask_database()
        memory = machine.system_memory()
        self.state = Machine(self._clock.monotonic(), disk, database, memory and memory[1])
        self.database.is_doubted = database is not None and database.code == SILENT
        self.report("clock_jumped", self.jumps.text() or None, CONFIRM_CLOCK)
        if jumped:
            for tell in self.on_clock_jump:
                tell()
        return self.state

    def _ask_database(self) -> StoreError | None:
        """Return why the data base cannot be used; where a write failed, see whether it does again."""
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
        """Return the error of a disk or a data base that does not answer; None: the last facts are young."""
        if self._started_at is None or self._ended.is_set():
            return None
        age = self._clock.monotonic() - max(self.state.at, self._started_at)
        return silent_error(self._step, age) if age > MAX_AGE else None

    def database_silence(self) -> StoreError | None:
        """Return the error of a data base that does not answer, so that nobody waits for it; None: it may."""
        error = self.silence()
        if error is not None:
            return error if self.database.is_sqlite or self._step == DATABASE else None
        known = self.state.database
        return known if known is not None and known.code == SILENT else None

    def standstill(self, size: int) -> Standstill | None:
        """Return why no part whose files have `size` bytes can be recorded; None: it can."""
        fault = self.fault()
        if fault is not None:
            return fault
        try:
            self.files.check_free_space(size)
        except StoreError as error:
            return Standstill("disk_full", error)
        return None

    def fault(self) -> Standstill | None:
        """Return why nothing can be recorded, whatever its size; None: something can."""
        if (silent := self.silence()) is not None:
            return Standstill(SILENT, silent)
        if self.database.full:
            return Standstill("disk_full", StoreError(self.database.full, "disk_full"))
        for error in (self.state.disk.error, self.state.database):
            if error is not None:
                return Standstill(error.code, error)
        # whoever tries to write may find that it is over
        return Standstill("store_unreachable") if self.database.failure else None

    def check_room(self, size: int) -> None:
        """Raise StoreError where files of `size` bytes could not be kept and recorded."""
        stop = self.standstill(size)
        if stop is not None and stop.error is not None:
            raise stop.error


def silent_error(what: str, seconds: float) -> StoreError:
    """Return the error of a disk or a data base that does not answer."""
    text = f"{what} has not answered for {seconds:.0f} s: it hangs, or its network does"
    return StoreError(text, SILENT)


def elapsed_seconds() -> float:
    """Return seconds that never go back; where the system has such a clock, they go on while it sleeps."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class ClockJumps:
    """Jumps of the computer's clock, which are seen against one that never jumps.

    Parts between two of them have wrong times: the problem names the span.

    Args:
        wall: microseconds since 1970.
        monotonic: seconds that never go back.
    """

    def __init__(self, wall: Callable[[], int] = now, monotonic: Callable[[], float] = elapsed_seconds):
        self._wall = wall
        self._monotonic = monotonic
        self._offset = self._present_offset()
        self._texts: list[tuple[float, str]] = []  # when it was seen, and what

    def look(self) -> bool:
        """Look at the clock; return whether it has jumped since the last look."""
        before = self._offset
        self._offset = self._present_offset()
        jump = self._offset - before
        if abs(jump) < CLOCK_JUMP:
            return False
        at = self._wall()
        where = "ahead" if jump > 0 else "back"
        time_text = iso(round(at - jump * 1e6))
        self._texts.append(
            (self._monotonic(), f"{_duration(abs(jump))} {where} at {time_text}, to {iso(at)}")
        )
        return True

    def text(self) -> str:
        """Return the jumps of the last day; "": there was none."""
        since = self._monotonic() - JUMP_REPORT_SECONDS
        self._texts = [timed for timed in self._texts if timed[0] >= since]
        if not self._texts:
            return ""
        jumps = ", then ".join(text for _, text in self._texts[-4:])
        return (
            f"the computer's clock jumped {jumps}: what was recorded from one jump to the next has times of "
            "that clock; see to its time server, and confirm that it is right now"
        )

    def last(self) -> str:
        """Return the last jump, which there was."""
        return f"the computer's clock jumped {self._texts[-1][1]}" if self._texts else ""

    def confirm(self) -> None:
        """Forget the jumps up to now, which are not reported any more."""
        self._texts = []

    def _present_offset(self) -> float:
        """Return the seconds that the clock is ahead of the one that never jumps."""
        return self._wall() / 1e6 - self._monotonic()


def _duration(seconds: float) -> str:
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"
