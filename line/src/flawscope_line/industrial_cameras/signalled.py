"""Cameras that a signal at the part triggers: each frame is a part, which is inspected or reported."""

from __future__ import annotations

import math
import time
from collections import deque
from concurrent.futures import Future
from contextlib import closing, suppress

from typing_extensions import override

from flawscope.errors import pluralize
from flawscope_line.industrial_cameras.camera import DeviceFactory, frames_after
from flawscope_line.industrial_cameras.settings import IndustrialCameraSettings
from flawscope_station.plugins import (
    CHECK_INTERVAL,
    MISSED,
    Backoff,
    BusyError,
    CameraLostError,
    LiveCamera,
    Part,
    RecordedInspection,
    Shot,
    SourceContext,
    Trigger,
    why_refused,
)

MAX_PARTS_WAITING = 16  # frames that wait to be submitted, at most: they take memory
MISSED_INTERVAL = 1.0  # seconds between two events
MISSED_SECONDS = 3600.0  # seconds for which parts that were not inspected are a problem; the event stays


class SignalledCamera(LiveCamera):
    """Source of a part for each frame that comes."""

    def __init__(
        self, line: SourceContext, settings: IndustrialCameraSettings, number: int, opener: DeviceFactory
    ):
        super().__init__(line, settings, number)
        self.state.takes = settings.trigger
        self.untimed = (
            f"{self._label} is triggered by a signal of its own, and every frame is inspected by itself: "
            "write `trigger: software` for one that the station triggers"
        )
        self._most_in_flight = line.share.limits.queue
        self._settings = settings
        self._open_device = opener
        self._missed: deque[float] = deque()  # when parts were not inspected
        self._unreported = 0  # of these, without an event
        self._reported_at = -math.inf
        self._why_missed = ""

    @override
    def stop(self, seconds: float = 30.0) -> None:
        """Stop the camera within `seconds`, and report the waiting parts as not inspected."""
        super().stop(seconds)
        self._note_missed(len(self._pending), "the station ended")
        self._report_missed(0.0)

    @override
    def _run_session(self, backoff: Backoff) -> str:
        """Take the frames that come, until the end."""
        last: int | None = None
        with closing(self._open_device(self._settings)) as device:
            backoff.reset()
            self._mark_running()
            while not self._ended.is_set():
                frame = device.next(CHECK_INTERVAL)
                self._go_on()
                if frame is None:
                    self._report_missed()  # the others may all wait for room in the queue
                    continue
                step = 1 if last is None else frames_after(last, frame.number)
                lost = max(0, step - 1) + (frame.picture is None)
                last = frame.number
                if lost:
                    error = CameraLostError(f"{pluralize(lost, 'frame')} did not arrive whole")
                    self.state.broken += lost - 1
                    self._note_missed(lost - 1, str(error))
                    self.line.refused(error)
                    self._report_refusal(error)
                if frame.picture is None:
                    continue
                if self._is_new(frame.picture, frame.clock) and step > 0:
                    self._handle_frame(frame.picture, self._take_triggers())
                else:
                    self._handle_repeat({})
        return "the station ends"

    @override
    def _handle_repeat(self, triggers: dict[Future[Shot], Trigger]) -> None:
        """Report that the part which a repeated frame should show is not inspected."""
        super()._handle_repeat(triggers)
        error = self._lost_error()
        self._report_frozen()
        self.line.refused(error)
        self._report_refusal(error)

    @override
    def _claim_if_due(self, *, is_trigger_answer: bool) -> bool:
        return True

    @override
    def _queue_shot(self, shot: Shot) -> None:
        if len(self._pending) == MAX_PARTS_WAITING:
            self._pending.popleft()
            self.state.dropped += 1
            self._note_missed(1, "they come faster than they are inspected")
        self._pending.append(shot)

    @override
    def _submit_part(self, part: Part) -> Future[RecordedInspection]:
        """Submit a part as soon as the queue has room."""
        pause = Backoff(0.02, 1.0)
        while True:
            try:
                return self.line.submit(part)
            except BusyError:
                if self._ended.wait(pause.next()):
                    raise

    # ---- reports

    @override
    def _report_refusal(self, error: BaseException) -> None:
        super()._report_refusal(error)
        self._note_missed(1, why_refused(error))

    @override
    def _check_silence(self) -> None:
        """Report parts that were not inspected; silence is no fault: parts may stand still for hours."""
        self._report_missed()

    def _note_missed(self, count: int, why: str) -> None:
        with self._changed:
            self._missed.extend([time.monotonic()] * count)
            self._unreported = self._unreported + count
            self._why_missed = why

    def _report_missed(self, interval: float = MISSED_INTERVAL) -> None:
        """Report parts that were not inspected: as an event once a second, and as a problem for an hour.

        Args:
            interval: Smallest time between two events, in seconds.
        """
        at = time.monotonic()
        with self._changed:
            if at - self._reported_at < interval:
                return
            self._reported_at = at
            count = self._unreported
            self._unreported = 0
            was_problem = bool(self._missed)
            while self._missed and at - self._missed[0] > MISSED_SECONDS:
                self._missed.popleft()
            missed = len(self._missed)
            why = self._why_missed
        if count:
            text = f"{pluralize(count, 'part')} of {self._label} not inspected: {why}"
            with suppress(Exception):  # a store that is away: the problem says it meanwhile
                self.line.store.note_event(MISSED, self.state.kind, text, self.line.product_id)
        if missed:
            text = f"{pluralize(missed, 'part')} of {self._label} not inspected within the last hour: {why}"
            self._report("camera_missed", text)
        elif was_problem:
            self._report("camera_missed", None)
