"""Live cameras: frames that come faster than they are inspected are dropped, so that the newest counts.

A thread decodes and never waits for anything else, so that no frame gets old in a buffer; others encode the
newest frame and submit it. A camera that is lost is opened again, for ever. A trigger gets a frame that was
exposed after it, or none: see `LiveCamera.next_shot`. A frame counts once: a frame with the pixels of a
recent one does not count, and the camera is frozen until a new one comes. FFmpeg reads the cameras in
`frames`.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from flawscope.errors import FlawscopeError, InputError
from flawscope_station.inspecting.interlock import PausedError
from flawscope_station.inspecting.memory import BusyError
from flawscope_station.inspecting.picture import Part, Picture
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.monitoring.background import Backoff, GuardedThread
from flawscope_station.settings.sources import EVERY_FRAME, MEASURE_LATENCY, ON_TRIGGER, CameraSourceSettings
from flawscope_station.sources.frames import FrameReader, encode_png, pixel_hash
from flawscope_station.sources.source import (
    AWAY,
    FROZEN,
    RUNNING,
    AwayError,
    CameraFrozenError,
    SourceContext,
    State,
    to_utf8,
)
from flawscope_station.store.database import now
from flawscope_station.store.inspection import KeyedRequest
from flawscope_station.store.records import iso

if TYPE_CHECKING:
    from av import VideoFrame

SOURCE = "camera"  # of an inspection
CAMERA_PROBLEMS = ("camera_away", "camera_frozen")  # for which it gives no frame
MAX_IN_FLIGHT = 4  # frames of a camera that are submitted and not answered, at most: more would be old
# seconds until a lost camera is tried again
MIN_RETRY_DELAY = 0.5
MAX_RETRY_DELAY = 30.0
CHECK_INTERVAL = 0.25  # seconds between two checks whether frames still come
DRIVER_SECONDS = 30.0  # beyond the time for a frame, after which a driver that does not return is told
FROZEN_SECONDS = 1.0  # seconds of repeats after which people are told, unless a part is refused before
FROZEN_TEXT = "it sends a frame that came before"
RECENT_FRAMES = 64  # whose pixels are remembered: buffers give their last ones in turn


@dataclass(frozen=True)
class Trigger:
    """Trigger that waits for a frame.

    Attributes:
        request: Request that caused it.
        at: Time at which it came, as `time.monotonic` counts.
    """

    request: object
    at: float


@dataclass(frozen=True)
class Shot:
    """Frame of a camera.

    Attributes:
        frame: Decoded frame.
        at: Time, microseconds since 1970, which no other frame of the camera has.
        triggers: Number of triggers that it answers.
        exposed_at: Time of the exposure, as `time.monotonic` counts, as far as it is known.
    """

    frame: VideoFrame
    at: int
    triggers: int = 0
    exposed_at: float = field(default_factory=time.monotonic)
    _encoded: list[bytes] = field(default_factory=list, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def encode(self, pixels: int) -> bytes:
        """Return the frame encoded by `encode_png`, which is called once.

        Two threads that convert a frame at the same time, for two triggers that share it, would end the
        process.
        """
        with self._lock:
            if not self._encoded:
                self._encoded.append(encode_png(self.frame, pixels))
            return self._encoded[0]


class LiveCameraSettings(Protocol):
    """Settings of a live camera; `CameraSourceSettings` has them."""

    @property
    def view(self) -> str | None:
        """View of a part that it shows; None: it shows whole parts."""

    @property
    def every(self) -> str:
        """Frames that it takes: setting `every`."""

    @property
    def frame_interval(self) -> float | None:
        """Seconds between two frames that are inspected; None: all frames."""

    @property
    def frame_timeout(self) -> float:
        """Seconds without a frame after which the camera is away."""

    @property
    def display_name(self) -> str:
        """Name for people, without a password."""


class LiveCamera:
    """Source of the frames that the settings select, and of a frame for each trigger.

    Each kind of camera defines `_run_session`.

    Args:
        line: Access to the station.
        settings: Settings of the camera.
        number: Number among the product's cameras, from 1.

    Attributes:
        untimed: Why the time of a frame's exposure is not known, so that no trigger can be answered; None: it
            is known.
    """

    untimed: str | None = None
    _most_in_flight = MAX_IN_FLIGHT

    def __init__(self, line: SourceContext, settings: LiveCameraSettings, number: int):
        self.line = line
        self.settings = settings
        self.number = number
        self.view = settings.view
        self.state = State(SOURCE, f"camera{number}", settings.display_name, settings.every)
        self._changed = threading.Condition()
        self._pending: deque[Shot] = deque()  # due, and not submitted yet
        self._frame_bytes = 1  # of the last frame
        self._triggers: dict[Future[Shot], Trigger] = {}
        self._in_flight = 0  # frames that are submitted and not answered
        self._next_due = 0.0
        self._last_frame_at = time.monotonic()  # when the last frame came, or the camera was opened
        # hashes of the last frames, also of the session before: some send one again
        self._recent: deque[int] = deque(maxlen=RECENT_FRAMES)
        self._newest_clock: int | None = None
        self._new_at = time.monotonic()  # when the last new frame came
        self._ended = threading.Event()
        targets = [self._run_sessions, self._submit_frames]
        if settings.every == EVERY_FRAME:
            targets.append(self._submit_frames)  # to encode a large frame takes longer than it lasts
        name = f"camera-{line.product_id}-{number}"
        self.threads = [GuardedThread(name, target, self._ended) for target in targets]
        self.threads[0].stops_all = False  # one camera's driver hangs: `_check_driver` says so

    def start(self) -> None:
        """Start the threads that read and submit frames."""
        for thread in self.threads:
            thread.start()

    def stop(self, seconds: float = 30.0) -> None:
        """Take no more frames; return when the submitted ones are answered, or after so many seconds."""
        deadline = time.monotonic() + seconds
        self._ended.set()
        self._fail_waiting_triggers(AwayError("the station ends"))
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._in_flight, max(0.0, deadline - time.monotonic()))
        for thread in self.threads:
            thread.join(max(0.1, deadline - time.monotonic()))

    # ---- triggers

    def next_shot(self, request: KeyedRequest | None = None) -> Future[Shot]:
        """Return the first frame that was certainly exposed from now on, as a future.

        Where `untimed` says that exposures are not known, it is the first frame that comes.

        Raises:
            AwayError: the camera is lost.
            CameraFrozenError: it repeats a frame.
        """
        if self.state.is_lost:
            raise self._lost_error()
        waiting: Future[Shot] = Future()
        with self._changed:
            self._triggers[waiting] = Trigger(request or waiting, time.monotonic())
            self._changed.notify_all()
        return waiting

    def forget(self, waiting: Future[Shot]) -> None:
        """Withdraw a trigger."""
        with self._changed:
            self._triggers.pop(waiting, None)

    def picture(self, shot: Shot) -> Picture:
        """Encode a frame as a picture of a part.

        Raises:
            TooLargeError: the frame has more pixels than are accepted.
        """
        data = shot.encode(self.line.share.limits.pixels)
        return Picture(data, f"{self.state.name}-{iso(shot.at).replace(':', '-')}.png", self.view)

    def _take_triggers(self, exposed_at: float = math.inf) -> dict[Future[Shot], Trigger]:
        """Take the triggers that had come when a frame was exposed."""
        with self._changed:
            ready = {
                future: trigger for future, trigger in self._triggers.items() if trigger.at <= exposed_at
            }
            for future in ready:
                del self._triggers[future]
        return {future: trigger for future, trigger in ready.items() if future.set_running_or_notify_cancel()}

    def _fail_waiting_triggers(self, error: AwayError) -> None:
        for trigger in self._take_triggers():
            trigger.set_exception(error)

    def _lost_error(self) -> AwayError:
        """Return the error for triggers while the camera is lost."""
        kind = CameraFrozenError if self.state.state == FROZEN else AwayError
        return kind(f"{self._label} is {self.state.state}: {self.state.why}; trigger again when it is back")

    # ---- reading frames

    def _run_sessions(self) -> None:
        """Open the camera and decode its frames, again and again until the end."""
        backoff = Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY)
        while not self._ended.is_set():
            try:
                with self.threads[0].call(self.settings.frame_timeout + DRIVER_SECONDS):
                    why = self._run_session(backoff)
            except FlawscopeError as error:
                why = str(error)
            except Exception as error:  # of the library: another try may succeed
                why = f"{type(error).__name__} in the decoder"
            if not self._ended.is_set():
                self._mark_away(why)
            self._ended.wait(backoff.next())

    def _run_session(self, backoff: Backoff) -> str:
        """Open the camera and pass its frames to `_handle_frame`; return why the session ended.

        It calls `_go_on` each time that the driver has returned.

        Raises:
            InputError: the camera cannot be opened for a reason that the settings can mend.
        """
        raise NotImplementedError

    def _go_on(self) -> None:
        """Note that the driver has returned, with a frame or without."""
        self.threads[0].go_on()

    def _check_driver(self) -> None:
        """Report a driver that does not return: nothing can end it, and it is not tried again."""
        if self.threads[0].is_stuck and self.state.state != AWAY:
            self.state.change(AWAY, "its driver does not return")
            self._fail_waiting_triggers(self._lost_error())
            why = f"{self._label} is away: its driver does not return; start the station anew"
            self._report("camera_away", why, stops=True)

    def _is_new(self, frame: VideoFrame, clock: int | None = None) -> bool:
        """Return whether a frame differs from the recent ones, and remember it.

        Args:
            frame: Decoded frame.
            clock: Time of the exposure by the camera's clock; None: the camera does not give it.
        """
        self._go_on()
        pixels = pixel_hash(frame)
        clock_before = self._newest_clock
        self._newest_clock, self._last_frame_at = clock, time.monotonic()
        if pixels in self._recent or (clock is not None and clock == clock_before):
            return False
        self._recent.append(pixels)
        self._new_at = self._last_frame_at
        return True

    def _handle_repeat(self, triggers: dict[Future[Shot], Trigger]) -> None:
        """Refuse these triggers, and all that come until a new frame is there."""
        self.state.change(FROZEN, FROZEN_TEXT)
        waiting = triggers | self._take_triggers()
        error = self._lost_error()
        for trigger in waiting:
            trigger.set_exception(error)
        if waiting or time.monotonic() - self._new_at >= FROZEN_SECONDS:
            self._report_frozen()

    def _report_frozen(self) -> None:
        why = f"{self._label} is frozen: {FROZEN_TEXT}; nothing is inspected until a new one comes"
        self._report("camera_frozen", why, stops=True)

    def _handle_frame(
        self, frame: VideoFrame, triggers: dict[Future[Shot], Trigger], exposed_at: float | None = None
    ) -> None:
        """Answer the triggers with a new frame, and queue it where it is due.

        Args:
            frame: Decoded frame.
            triggers: Triggers that it answers.
            exposed_at: Time of the exposure, as `time.monotonic` counts; None: now.
        """
        self._go_on()
        at = max(now(), (self.state.last or 0) + 1)
        exposed_at = time.monotonic() if exposed_at is None else exposed_at
        shot = Shot(frame, at, len({trigger.request for trigger in triggers.values()}), exposed_at)
        with self._changed:
            self.state.last = at
            self._frame_bytes = 3 * frame.width * frame.height
            if self._claim_if_due(is_trigger_answer=bool(triggers)):
                self._queue_shot(shot)
                self._changed.notify()
        self._mark_running()
        for trigger in triggers:
            trigger.set_result(shot)

    def _queue_shot(self, shot: Shot) -> None:
        self.state.dropped += len(self._pending)
        self._pending.clear()
        self._pending.append(shot)

    def _mark_running(self) -> None:
        if self.state.state != RUNNING:
            self.state.change(RUNNING)
            self._report("camera_away", None)
            self._report("camera_frozen", None)

    def _claim_if_due(self, *, is_trigger_answer: bool) -> bool:
        """Return whether the last frame is inspected without a trigger, and set the time of the next one.

        Args:
            is_trigger_answer: Whether the frame answers triggers.
        """
        if is_trigger_answer or self.settings.every == ON_TRIGGER:
            return False
        seconds = self.settings.frame_interval
        if seconds is None:
            return True
        if self._last_frame_at < self._next_due:
            return False
        self._next_due = max(self._next_due + seconds, self._last_frame_at)
        return True

    def _mark_away(self, why: str) -> None:
        self.state.change(AWAY, to_utf8(why))
        self._fail_waiting_triggers(self._lost_error())
        self._report("camera_frozen", None)
        why = f"{self._label} is away: {self.state.why}; it is tried again by itself"
        self._report("camera_away", why, stops=True)

    # ---- submitting frames

    def _submit_frames(self) -> None:
        while not self._ended.is_set():
            with self._changed:
                if not self._can_submit:
                    self._changed.wait(CHECK_INTERVAL)
            self._check_driver()
            self._check_silence()
            with self._changed:
                size = self._frame_bytes
                ready = self._can_submit
                self._in_flight += ready
            if ready:
                self._take_turn(size)

    def _take_turn(self, size: int) -> None:
        """Submit the next frame, which counts as in flight until it is answered.

        Where the thread is ended meanwhile it stops counting, too, so that it does not count for ever.
        """
        is_submitted = False
        try:
            if self.line.share.acquire(size, self._ended):
                is_submitted = self._submit_next_frame(size)
        finally:
            if not is_submitted:
                self._count_answered()

    @property
    def _can_submit(self) -> bool:
        return bool(self._pending) and self._in_flight < self._most_in_flight

    def _submit_next_frame(self, size: int) -> bool:
        """Submit the next frame, for which the share has room; return whether it is inspected."""
        with self._changed:  # newer by now, or another thread has it
            shot = self._pending.popleft() if self._pending else None
        answer = part = None
        try:
            if shot is not None:
                self.line.check(None)  # NotReadyError: the next frame may be taken
                self._check_single()
                key = f"{SOURCE}:{self.number}:{shot.at}"
                triggers = shot.triggers or None
                pictures = (self.picture(shot),)
                part = Part(self.line.product_id, pictures, SOURCE, key=key, triggers=triggers)
                answer = self._submit_part(part)
        except BaseException as error:  # also where the thread is ended: the frame is told
            if part is None:
                self.line.refused(error)
            self._report_refusal(error)
            if not isinstance(error, Exception):
                raise
        finally:
            if answer is None:
                self.line.share.release(size)
        if answer is None:
            return False

        def answered(done: Future[RecordedInspection]) -> None:
            self.line.share.release(size)
            error = done.exception()
            if error is None:
                self.state.taken += 1
                self._report("camera_refused", None)
            else:
                self._report_refusal(error)
            self._count_answered()

        answer.add_done_callback(answered)
        return True

    def _check_single(self) -> None:
        """Raise InputError where the model judges parts in views: a frame that comes by itself shows one."""
        views = [] if self.line.parts is None else self.line.parts.views(self.line.product_id)
        if views:
            raise InputError(
                f"the model judges parts in the views {', '.join(views)}, and a frame that comes by itself "
                "shows one: let the station trigger the cameras together, with `every: trigger` or `trigger: "
                "software`"
            )

    def _submit_part(self, part: Part) -> Future[RecordedInspection] | None:
        """Submit a frame; where the queue is full it is dropped, for a newer frame comes."""
        try:
            return self.line.submit(part)
        except BusyError:
            self.state.dropped += 1
            self._ended.wait(0.05)
            return None

    def _count_answered(self) -> None:
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    # ---- reports

    def _report_refusal(self, error: BaseException) -> None:
        """Report that a frame was not inspected; the next may be."""
        if isinstance(error, PausedError):
            return
        self.state.broken += 1
        why = why_refused(error)
        self._report("camera_refused", f"frames of {self._label} are not inspected: {why}")

    def _check_silence(self) -> None:
        """Report a camera that sends nothing: some drivers block the reading thread for ever."""
        timeout = self.settings.frame_timeout
        is_open = self.state.state in (RUNNING, FROZEN)
        if is_open and time.monotonic() - self._last_frame_at > timeout + CHECK_INTERVAL:
            self._mark_away(f"it sends nothing for {timeout:g} s")

    def _report(self, code: str, why: str | None, *, stops: bool = False) -> None:
        self.line.show(code, self.number, why, stops=stops)

    @property
    def _label(self) -> str:
        return f"camera {self.number} ({self.settings.display_name})"


def why_refused(error: BaseException) -> str:
    """Return the reason why a frame was not inspected, for engineers."""
    return str(error) if isinstance(error, FlawscopeError) else f"{type(error).__name__} in the decoder"


class FfmpegCamera(LiveCamera):
    """Camera that FFmpeg reads."""

    def __init__(self, line: SourceContext, settings: CameraSourceSettings, number: int):
        super().__init__(line, settings, number)
        self._stream_settings = settings
        self._latency = settings.latency or 0.0
        if settings.latency is None:
            self.untimed = (
                f"{self._label} has no `latency`, so nothing is known of when a frame was exposed: "
            )
            self.untimed += MEASURE_LATENCY

    @override
    def _run_session(self, backoff: Backoff) -> str:
        frames = FrameReader(self._stream_settings, self.line.share.limits.pixels)
        try:
            self._last_frame_at = time.monotonic()
            before = 0
            for frame in frames:
                self._go_on()
                if self._ended.is_set():
                    break
                self.state.broken = self.state.broken + frames.broken - before
                before = frames.broken
                if frame is None:
                    continue
                backoff.reset()
                exposed_at = frames.arrived - self._latency
                triggers = self._take_triggers(exposed_at)
                if self._is_new(frame) or frames.is_recording:
                    self._handle_frame(frame, triggers, exposed_at)
                else:
                    self._handle_repeat(triggers)
        finally:
            frames.close()
        return "the stream ended"
