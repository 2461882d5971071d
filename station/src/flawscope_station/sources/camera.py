"""Live cameras: where frames come faster than they are inspected, older frames are dropped for the newest.

A thread decodes and never waits for anything else, so that no frame gets old in a buffer; other threads
encode the newest frame and submit it. A camera that is lost is opened again and again. A trigger gets a
frame that was exposed after it, or none: see `LiveCamera.next_shot`. A frame counts once: a frame with the
pixels of a recent frame does not count, and the camera is frozen until a new frame comes. FFmpeg reads the
cameras in `frames`.
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

SOURCE = "camera"  # source of an inspection
CAMERA_PROBLEMS = ("camera_away", "camera_frozen")  # kinds of problems in which a camera gives no frame
MAX_IN_FLIGHT = 4  # frames of a camera that may be submitted and not answered: further ones would get old
MIN_RETRY_DELAY = 0.5  # seconds until a lost camera is opened again
MAX_RETRY_DELAY = 30.0  # seconds until a lost camera is opened again after many failures
CHECK_INTERVAL = 0.25  # seconds between two checks whether frames still come
DRIVER_SECONDS = 30.0  # seconds beyond `frame_timeout` after which a driver that does not return is reported
FROZEN_SECONDS = 1.0  # seconds of repeats after which they are reported, unless a part is refused earlier
FROZEN_TEXT = "it sends a frame that came before"
BUSY_SECONDS = 0.05  # seconds of pause after a frame that was dropped because the queue is full
RECENT_FRAMES = 64  # frames whose pixels are remembered: a buffer may give its last frames again in turn


@dataclass(frozen=True)
class Trigger:
    """Trigger that waits for a frame.

    Attributes:
        request: Request that caused the trigger.
        at: Time at which the trigger came, as `time.monotonic` counts.
    """

    request: object
    at: float


@dataclass(frozen=True)
class Shot:
    """Frame of a camera.

    Attributes:
        frame: Decoded frame.
        at: Moment of the frame, microseconds since 1970, which no other frame of the camera has.
        triggers: Number of triggers that the frame answers.
        exposed_at: Time of the exposure, as `time.monotonic` counts; where it is not known, of the arrival.
    """

    frame: VideoFrame
    at: int
    triggers: int = 0
    exposed_at: float = field(default_factory=time.monotonic)
    # empty until the frame is encoded, then its only item is the picture
    _encoded: list[bytes] = field(default_factory=list, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def encode(self, pixels: int) -> bytes:
        """Return the frame as `encode_png` encodes it, with at most `pixels` pixels.

        A frame is encoded once, under a lock: two triggers may share a frame, and two threads that convert
        the same frame at the same time would crash the process.
        """
        with self._lock:
            if not self._encoded:
                self._encoded.append(encode_png(self.frame, pixels))
            return self._encoded[0]


class LiveCameraSettings(Protocol):
    """Settings of a live camera; `CameraSourceSettings` has them."""

    @property
    def view(self) -> str | None:
        """View of a part that the camera shows; None: it shows whole parts."""

    @property
    def every(self) -> str:
        """Frames that the camera takes: setting `every`."""

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
        untimed: Why exposure times are not known, so that no trigger can be answered; None: they are known.
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
        self._pending: deque[Shot] = deque()  # frames that are due, and not submitted yet
        self._frame_bytes = 1  # bytes of the last frame, about
        self._triggers: dict[Future[Shot], Trigger] = {}
        self._in_flight = 0  # number of frames that are submitted and not answered
        self._next_due = 0.0  # time from which on a frame is due, as `time.monotonic` counts
        self._last_frame_at = time.monotonic()  # when the last frame came, or the camera was opened
        # hashes of the last frames, also from before a reconnection: some cameras then send a frame again
        self._recent_hashes: deque[int] = deque(maxlen=RECENT_FRAMES)
        self._newest_clock: int | None = None  # exposure time of the last frame by the camera's clock
        self._new_frame_at = time.monotonic()  # when the last new frame came
        self._ended = threading.Event()
        targets = [self._run_sessions, self._submit_frames]
        if settings.every == EVERY_FRAME:
            # encoding a large frame takes longer than the time to the next frame: two threads encode
            targets.append(self._submit_frames)
        name = f"camera-{line.product_id}-{number}"
        self.threads = [GuardedThread(name, target, self._ended) for target in targets]
        self.threads[0].stops_all = False  # `_check_driver` reports a driver that hangs

    def start(self) -> None:
        """Start the threads that read and submit frames."""
        for thread in self.threads:
            thread.start()

    def stop(self, seconds: float = 30.0) -> None:
        """Take no more frames; return when the submitted ones are answered, or after `seconds`."""
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
        """Return a future of the first frame that is certainly exposed after this call.

        If exposure times are not known (`untimed`), it is the first frame that comes.

        Raises:
            AwayError: The camera is lost.
            CameraFrozenError: The camera repeats a frame.
        """
        if self.state.is_lost:
            raise self._lost_error()
        waiting: Future[Shot] = Future()
        with self._changed:
            # a trigger without a request counts as a request of its own
            self._triggers[waiting] = Trigger(request or waiting, at=time.monotonic())
            self._changed.notify_all()
        return waiting

    def forget(self, waiting: Future[Shot]) -> None:
        """Withdraw a trigger."""
        with self._changed:
            self._triggers.pop(waiting, None)

    def picture(self, shot: Shot) -> Picture:
        """Encode a frame as a picture of a part.

        Raises:
            TooLargeError: The frame has more pixels than are accepted.
        """
        data = shot.encode(self.line.share.limits.pixels)
        return Picture(data, f"{self.state.name}-{iso(shot.at).replace(':', '-')}.png", self.view)

    def _take_triggers(self, exposed_at: float = math.inf) -> dict[Future[Shot], Trigger]:
        """Remove and return the triggers that came before a frame was exposed; by default all triggers."""
        with self._changed:
            ready_triggers = {
                future: trigger for future, trigger in self._triggers.items() if trigger.at <= exposed_at
            }
            for future in ready_triggers:
                del self._triggers[future]
        # a cancelled trigger is left out, for nobody waits for it any more
        uncancelled = [future for future in ready_triggers if future.set_running_or_notify_cancel()]
        return {future: ready_triggers[future] for future in uncancelled}

    def _fail_waiting_triggers(self, error: AwayError) -> None:
        """Answer all waiting triggers with an error."""
        for future in self._take_triggers():
            future.set_exception(error)

    def _lost_error(self) -> AwayError:
        """Return the error for triggers while the camera is lost."""
        error_class = CameraFrozenError if self.state.state == FROZEN else AwayError
        return error_class(
            f"{self._label} is {self.state.state}: {self.state.why}; trigger again when it is back"
        )

    # ---- reading frames

    def _run_sessions(self) -> None:
        """Open the camera and decode its frames, again and again until the end."""
        backoff = Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY)
        while not self._ended.is_set():
            try:
                with self.threads[0].call(self.settings.frame_timeout + DRIVER_SECONDS):
                    end_reason = self._run_session(backoff)
            except FlawscopeError as error:
                end_reason = str(error)
            except Exception as error:  # the library failed: another try may succeed
                end_reason = f"{type(error).__name__} in the decoder"
            if not self._ended.is_set():
                self._mark_away(end_reason)
            self._ended.wait(backoff.next())

    def _run_session(self, backoff: Backoff) -> str:
        """Open the camera and pass its frames to `_handle_frame`; return why the session ended.

        Each implementation calls `_note_progress` whenever the driver has returned.

        Raises:
            InputError: The camera cannot be opened for a reason that the settings can mend.
        """
        raise NotImplementedError

    def _note_progress(self) -> None:
        """Note that the driver has returned, with a frame or without."""
        self.threads[0].go_on()

    def _check_driver(self) -> None:
        """Report a driver that does not return: nothing can end its call, or open the camera again."""
        if self.threads[0].is_stuck and self.state.state != AWAY:
            self.state.change(AWAY, "its driver does not return")
            self._fail_waiting_triggers(self._lost_error())
            text = f"{self._label} is away: its driver does not return; start the station anew"
            self._report("camera_away", text, stops=True)

    def _remember_if_new(self, frame: VideoFrame, clock: int | None = None) -> bool:
        """Return whether a frame differs from the recent frames, and remember it.

        Args:
            frame: Decoded frame.
            clock: Time of the exposure by the camera's clock; None: the camera does not give it.
        """
        self._note_progress()
        frame_hash = pixel_hash(frame)
        previous_clock = self._newest_clock
        self._newest_clock = clock
        self._last_frame_at = time.monotonic()
        has_same_clock = clock is not None and clock == previous_clock
        if has_same_clock or frame_hash in self._recent_hashes:
            return False
        self._recent_hashes.append(frame_hash)
        self._new_frame_at = self._last_frame_at
        return True

    def _handle_repeat(self, triggers: dict[Future[Shot], Trigger]) -> None:
        """Note that the camera repeats a frame: refuse these triggers, and all that wait."""
        self.state.change(FROZEN, FROZEN_TEXT)
        refused_triggers = triggers | self._take_triggers()
        error = self._lost_error()
        for future in refused_triggers:
            future.set_exception(error)
        if refused_triggers or time.monotonic() - self._new_frame_at >= FROZEN_SECONDS:
            self._report_frozen()

    def _report_frozen(self) -> None:
        text = f"{self._label} is frozen: {FROZEN_TEXT}; nothing is inspected until a new one comes"
        self._report("camera_frozen", text, stops=True)

    def _handle_frame(
        self, frame: VideoFrame, triggers: dict[Future[Shot], Trigger], exposed_at: float | None = None
    ) -> None:
        """Answer the triggers with a new frame, and queue it where it is due.

        Args:
            frame: Decoded frame.
            triggers: Triggers that the frame answers.
            exposed_at: Time of the exposure, as `time.monotonic` counts; None: now.
        """
        self._note_progress()
        # later than the last frame's moment, even where the clock was set back
        moment = max(now(), (self.state.last or 0) + 1)
        exposed_at = time.monotonic() if exposed_at is None else exposed_at
        requests = {trigger.request for trigger in triggers.values()}  # a repeated request counts once
        shot = Shot(frame, moment, triggers=len(requests), exposed_at=exposed_at)
        with self._changed:
            self.state.last = moment
            self._frame_bytes = 3 * frame.width * frame.height  # estimate: a byte for each of three colours
            if self._claim_if_due(is_trigger_answer=bool(triggers)):
                self._queue_shot(shot)
                self._changed.notify()
        self._mark_running()
        for future in triggers:
            future.set_result(shot)

    def _queue_shot(self, shot: Shot) -> None:
        """Queue a frame in place of one that was not submitted yet; the caller holds the lock."""
        self.state.dropped += len(self._pending)
        self._pending.clear()
        self._pending.append(shot)

    def _mark_running(self) -> None:
        """Note that new frames come: problems of the camera are over."""
        if self.state.state != RUNNING:
            self.state.change(RUNNING)
            self._report("camera_away", None)
            self._report("camera_frozen", None)

    def _claim_if_due(self, *, is_trigger_answer: bool) -> bool:
        """Return whether the last frame is due to be inspected; if so, set when the next one is due.

        Args:
            is_trigger_answer: Whether the frame answers triggers: then it is inspected as their answer, and
                not a second time.
        """
        if is_trigger_answer or self.settings.every == ON_TRIGGER:
            return False
        seconds = self.settings.frame_interval
        if seconds is None:
            return True
        if self._last_frame_at < self._next_due:
            return False
        # Counting from the last due time keeps the mean interval. After a pause of the camera the count
        # begins anew at this frame, so that at most one additional frame is due.
        self._next_due = max(self._next_due + seconds, self._last_frame_at)
        return True

    def _mark_away(self, why: str) -> None:
        """Note that the camera is away, and fail the waiting triggers."""
        self.state.change(AWAY, to_utf8(why))
        self._fail_waiting_triggers(self._lost_error())
        self._report("camera_frozen", None)
        text = f"{self._label} is away: {self.state.why}; it is tried again by itself"
        self._report("camera_away", text, stops=True)

    # ---- submitting frames

    def _submit_frames(self) -> None:
        """Submit frames that are due, and check the camera meanwhile, until the end."""
        while not self._ended.is_set():
            with self._changed:
                if not self._can_submit:
                    self._changed.wait(CHECK_INTERVAL)
            self._check_driver()
            self._check_silence()
            with self._changed:
                size = self._frame_bytes
                can_submit = self._can_submit
                if can_submit:
                    self._in_flight += 1
            if can_submit:
                self._submit_in_flight(size)

    def _submit_in_flight(self, size: int) -> None:
        """Submit the next frame, which the caller has counted as in flight.

        If it is not submitted, it is taken out of the count again, even after an error that ends the thread.

        Args:
            size: Bytes of the frame.
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
        """Submit the next frame, for which the share has room; return whether it is submitted."""
        with self._changed:  # a newer frame may have replaced it, or another thread may have taken it
            shot = self._pending.popleft() if self._pending else None
        answer = part = None  # no part: refused before it was made; no answer: not submitted
        try:
            if shot is not None:
                # NotReadyError: not this frame, but a later one may be inspected; None: it has no part number
                self.line.check(None)
                self._check_single()
                key = f"{SOURCE}:{self.number}:{shot.at}"
                triggers = shot.triggers or None  # None: no trigger caused the part
                pictures = (self.picture(shot),)
                part = Part(self.line.product_id, pictures, SOURCE, key=key, triggers=triggers)
                answer = self._submit_part(part)
        except BaseException as error:  # a frame is also reported where an error ends the thread
            if part is None:  # once there is a part, `submit` reports its errors
                self.line.refused(error)
            self._report_refusal(error)
            if not isinstance(error, Exception):
                raise
        finally:
            if answer is None:
                self.line.share.release(size)
        if answer is None:
            return False

        def on_answer(done: Future[RecordedInspection]) -> None:
            self.line.share.release(size)
            error = done.exception()
            if error is None:
                self.state.taken += 1
                self._report("camera_refused", None)  # None: the problem is over
            else:
                self._report_refusal(error)
            self._count_answered()

        answer.add_done_callback(on_answer)
        return True

    def _check_single(self) -> None:
        """Raise InputError where the model judges parts in views: a single frame shows only one view."""
        views = [] if self.line.parts is None else self.line.parts.views(self.line.product_id)
        if views:
            raise InputError(
                f"the model judges parts in the views {', '.join(views)}, and a frame that comes by itself "
                "shows one: let the station trigger the cameras together, with `every: trigger` or `trigger: "
                "software`"
            )

    def _submit_part(self, part: Part) -> Future[RecordedInspection] | None:
        """Submit a frame; None: the queue is full, and the frame is dropped, for a newer frame comes."""
        try:
            return self.line.submit(part)
        except BusyError:
            self.state.dropped += 1
            self._ended.wait(BUSY_SECONDS)
            return None

    def _count_answered(self) -> None:
        """Note that a frame is not in flight any more."""
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    # ---- reports

    def _report_refusal(self, error: BaseException) -> None:
        """Report that a frame was not inspected, unless a person paused the product."""
        if isinstance(error, PausedError):
            return
        self.state.broken += 1
        reason = why_refused(error)
        self._report("camera_refused", f"frames of {self._label} are not inspected: {reason}")

    def _check_silence(self) -> None:
        """Report a camera that sends nothing, for some drivers block the reading thread."""
        timeout = self.settings.frame_timeout
        is_open = self.state.state in (RUNNING, FROZEN)
        if is_open and time.monotonic() - self._last_frame_at > timeout + CHECK_INTERVAL:
            self._mark_away(f"it sends nothing for {timeout:g} s")

    def _report(self, code: str, why: str | None, *, stops: bool = False) -> None:
        """Report a problem of this camera, as `SourceContext.show` does; `why` None: the problem is over."""
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
            # a text: the error of a source that would trigger this camera
            self.untimed = (
                f"{self._label} has no `latency`, so nothing is known of when a frame was exposed: "
                f"{MEASURE_LATENCY}"
            )

    @override
    def _run_session(self, backoff: Backoff) -> str:
        """Open the camera and handle its frames; return why they ended."""
        frames = FrameReader(self._stream_settings, self.line.share.limits.pixels)
        try:
            self._last_frame_at = time.monotonic()
            previous_broken_count = 0
            for frame in frames:
                self._note_progress()
                if self._ended.is_set():
                    break
                self.state.broken += frames.broken - previous_broken_count
                previous_broken_count = frames.broken
                if frame is None:  # it is damaged
                    continue
                backoff.reset()
                exposed_at = frames.arrived - self._latency
                triggers = self._take_triggers(exposed_at)
                # a recording may show a still picture for long
                if self._remember_if_new(frame) or frames.is_recording:
                    self._handle_frame(frame, triggers, exposed_at)
                else:
                    self._handle_repeat(triggers)
        finally:
            frames.close()
        return "the stream ended"
