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

MAX_PARTS_WAITING = 16  # frames that may wait to be submitted: they take memory
MISSED_INTERVAL = 1.0  # seconds between two events about parts that were not inspected
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
        self._missed_times: deque[float] = deque()  # when parts were missed, within the last hour
        self._unreported_count = 0  # missed parts that are in no event yet
        self._reported_at = -math.inf  # when missed parts were reported last
        self._missed_reason = ""  # why the last missed part was not inspected

    @override
    def stop(self, seconds: float = 30.0) -> None:
        """Stop the camera within `seconds`, and report the waiting parts as not inspected."""
        super().stop(seconds)
        self._note_missed(len(self._pending), "the station ended")
        self._report_missed(0.0)

    @override
    def _run_session(self, backoff: Backoff) -> str:
        """Take the frames that come until the station ends, and return that as the reason."""
        last_number: int | None = None
        with closing(self._open_device(self._settings)) as device:
            backoff.reset()
            self._mark_running()
            while not self._ended.is_set():
                frame = device.next(CHECK_INTERVAL)
                self._note_progress()
                if frame is None:
                    # reported here, too: the submitting threads may all wait for room in the queue
                    self._report_missed()
                    continue
                # 1: the frame follows the last one; 0 or less: it is an old frame
                step = 1 if last_number is None else frames_after(last_number, frame.number)
                lost_count = max(0, step - 1)  # frames whose numbers were left out
                if frame.picture is None:
                    lost_count += 1
                last_number = frame.number
                if lost_count:
                    error = CameraLostError(f"{pluralize(lost_count, 'frame')} did not arrive whole")
                    # `_report_refusal` counts one of the frames
                    self.state.broken += lost_count - 1
                    self._note_missed(lost_count - 1, str(error))
                    self.line.refused(error)
                    self._report_refusal(error)
                if frame.picture is None:
                    continue
                if self._remember_if_new(frame.picture, frame.clock) and step > 0:
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
        """Return True: every frame is inspected."""
        return True

    @override
    def _queue_shot(self, shot: Shot) -> None:
        """Queue a frame behind others; where too many wait, the oldest is dropped and reported."""
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
        """Report that a frame was not inspected, and count its part."""
        super()._report_refusal(error)
        self._note_missed(1, why_refused(error))

    @override
    def _check_silence(self) -> None:
        """Report parts that were not inspected; silence is no fault: parts may stand still for hours."""
        self._report_missed()

    def _note_missed(self, count: int, reason: str) -> None:
        """Note that `count` parts were not inspected."""
        with self._changed:
            self._missed_times.extend([time.monotonic()] * count)
            self._unreported_count += count
            self._missed_reason = reason

    def _report_missed(self, interval: float = MISSED_INTERVAL) -> None:
        """Report parts that were not inspected: as an event once a second, and as a problem for an hour.

        Args:
            interval: Least seconds between two events.
        """
        now = time.monotonic()
        with self._changed:
            if now - self._reported_at < interval:
                return
            self._reported_at = now
            count = self._unreported_count
            self._unreported_count = 0
            was_problem = bool(self._missed_times)
            while self._missed_times and now - self._missed_times[0] > MISSED_SECONDS:
                self._missed_times.popleft()
            missed_count = len(self._missed_times)
            reason = self._missed_reason
        if count:
            text = f"{pluralize(count, 'part')} of {self._label} not inspected: {reason}"
            with suppress(Exception):  # the store is away; the problem below reports the parts all the same
                self.line.store.note_event(MISSED, self.state.kind, text, self.line.product_id)
        if missed_count:
            parts = pluralize(missed_count, "part")
            text = f"{parts} of {self._label} not inspected within the last hour: {reason}"
            self._report("camera_missed", text)
        elif was_problem:
            self._report("camera_missed", None)
