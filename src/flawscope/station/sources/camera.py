"""Live cameras: frames that come faster than they are inspected are dropped, so that the newest counts.

One thread decodes and never waits for anything else, so that no frame gets old in a buffer; others encode the
newest frame and submit it. A camera that is lost is opened again, for ever.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flawscope.errors import FlawscopeError, InputError
from flawscope.station.background import Backoff
from flawscope.station.inspecting.capacity import BusyError
from flawscope.station.inspecting.picture import Picture
from flawscope.station.inspecting.writer import RecordedInspection
from flawscope.station.settings.sources import EVERY_FRAME, ON_TRIGGER, CameraSourceSettings
from flawscope.station.sources.frames import FrameReader, encode_png
from flawscope.station.sources.source import AWAY, RUNNING, AwayError, Line, State, to_utf8
from flawscope.station.store.database import now
from flawscope.station.store.inspection import KeyedRequest
from flawscope.station.store.records import iso

if TYPE_CHECKING:
    from av import VideoFrame

SOURCE = "camera"  # of an inspection
MAX_IN_FLIGHT = 4  # frames of a camera that are submitted and not answered, at most: more would be old
MIN_RETRY_DELAY, MAX_RETRY_DELAY = 0.5, 30.0  # seconds until a lost camera is tried again
CHECK_INTERVAL = 0.25  # seconds between two checks whether frames still come


@dataclass(frozen=True)
class Shot:
    """Frame of a camera. at: microseconds since 1970. triggers: number of those that it answers."""

    frame: VideoFrame
    at: int
    triggers: int = 0


class LiveCameraSettings(Protocol):
    """Settings of a live camera, as `CameraSourceSettings` has them."""

    @property
    def view(self) -> str | None: ...

    @property
    def every(self) -> str: ...

    @property
    def frame_interval(self) -> float | None: ...

    @property
    def frame_timeout(self) -> float: ...

    @property
    def display_name(self) -> str: ...


class LiveCamera:
    """Source of the frames that the settings select, and of one for each trigger; each kind of camera defines
    `_run_session`. number: among the product's cameras, from 1."""

    def __init__(self, line: Line, settings: LiveCameraSettings, number: int):
        self.line, self.settings, self.number = line, settings, number
        self.state = State(SOURCE, f"camera{number}", settings.display_name, settings.every)
        self._changed = threading.Condition()
        self._pending_shot: Shot | None = None  # due, and not submitted yet
        self._frame_bytes = 1  # of the last frame
        self._triggers: dict[Future[Shot], object] = {}  # waiting, each with its request
        self._in_flight = 0  # frames that are submitted and not answered
        self._next_due = 0.0
        self._last_frame_at = time.monotonic()  # when the last frame came, or the camera was opened
        self._ended = threading.Event()
        targets = [self._run_sessions, self._submit_frames]
        if settings.every == EVERY_FRAME:
            targets.append(self._submit_frames)  # to encode a large frame takes longer than it lasts
        name = f"camera-{number}"
        self._threads = [threading.Thread(target=one, name=name, daemon=True) for one in targets]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float = 30.0) -> None:
        """Take nothing more; return when the submitted frames are answered, or after so many seconds."""
        deadline = time.monotonic() + seconds
        self._ended.set()
        self._fail_waiting_triggers("the station ends")
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._in_flight, max(0.0, deadline - time.monotonic()))
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.1, deadline - time.monotonic()))

    # ---- triggers

    def next_shot(self, request: KeyedRequest | None = None) -> Future[Shot]:
        """Return the first frame that is decoded from now on. AwayError where the camera is lost."""
        if self.state.state == AWAY:
            raise AwayError(f"{self._label} is away: {self.state.why}; trigger again when it is back")
        waiting: Future[Shot] = Future()
        with self._changed:
            self._triggers[waiting] = request or waiting
            self._changed.notify_all()
        return waiting

    def forget(self, waiting: Future[Shot]) -> None:
        """Withdraw a trigger."""
        with self._changed:
            self._triggers.pop(waiting, None)

    def picture(self, shot: Shot, key: str | None) -> Picture:
        """Encode a frame as a picture to submit. InputError where the frame is too large."""
        data = encode_png(shot.frame, self.line.share.limits.pixels)
        name = f"{self.state.name}-{iso(shot.at).replace(':', '-')}.png"
        triggers, view = shot.triggers or None, self.settings.view
        return Picture(self.line.product_id, data, name, SOURCE, key, triggers=triggers, view=view)

    def _take_triggers(self) -> dict[Future[Shot], object]:
        with self._changed:
            waiting, self._triggers = self._triggers, {}
        return {one: request for one, request in waiting.items() if one.set_running_or_notify_cancel()}

    def _fail_waiting_triggers(self, why: str) -> None:
        for trigger in self._take_triggers():
            trigger.set_exception(AwayError(why))

    # ---- reading frames

    def _run_sessions(self) -> None:
        """Open the camera and decode its frames, again and again until the end."""
        backoff = Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY)
        while not self._ended.is_set():
            try:
                why = self._run_session(backoff)
            except InputError as error:
                why = str(error)
            except Exception as error:  # of the library: another try may succeed
                why = f"{type(error).__name__} in the decoder"
            if not self._ended.is_set():
                self._mark_away(why)
            self._ended.wait(backoff.next())

    def _run_session(self, backoff: Backoff) -> str:
        """Open the camera and pass its frames to `_handle_frame`; return why it ended. InputError."""
        raise NotImplementedError

    def _handle_frame(self, frame: VideoFrame, triggers: dict[Future[Shot], object]) -> None:
        """Answer the triggers with a frame; without triggers, keep it where it is due."""
        at = max(now(), (self.state.last or 0) + 1)
        shot = Shot(frame, at, len(set(triggers.values())))
        with self._changed:
            self._last_frame_at, self.state.last = time.monotonic(), at
            self._frame_bytes = 3 * frame.width * frame.height
            if not triggers and self._is_due():
                self.state.dropped += self._pending_shot is not None
                self._pending_shot = shot
                self._changed.notify()
        for trigger in triggers:
            trigger.set_result(shot)
        self._mark_running()

    def _mark_running(self) -> None:
        if self.state.state != RUNNING:
            self.state.state, self.state.why = RUNNING, None
            self._report("camera_away", None)

    def _is_due(self) -> bool:
        if self.settings.every == ON_TRIGGER:
            return False
        seconds = self.settings.frame_interval
        if seconds is None:
            return True
        if self._last_frame_at < self._next_due:
            return False
        self._next_due = max(self._next_due + seconds, self._last_frame_at)
        return True

    def _mark_away(self, why: str) -> None:
        self.state.state, self.state.why = AWAY, to_utf8(why)
        text = f"{self._label} is away: {self.state.why}"
        self._fail_waiting_triggers(f"{text}; trigger again when it is back")
        self._report("camera_away", f"{text}; it is tried again by itself")

    # ---- submitting frames

    def _submit_frames(self) -> None:
        while not self._ended.is_set():
            with self._changed:
                if self._pending_shot is None or self._in_flight >= MAX_IN_FLIGHT:
                    self._changed.wait(CHECK_INTERVAL)
                size = self._frame_bytes
                ready = self._pending_shot is not None and self._in_flight < MAX_IN_FLIGHT
                self._in_flight += ready
            self._check_silence()
            if ready and not (self.line.share.acquire(size, self._ended) and self._submit_newest_frame(size)):
                self._count_answered()

    def _submit_newest_frame(self, size: int) -> bool:
        """Submit the newest frame, for which the share has room; return whether it is being inspected."""
        with self._changed:
            shot, self._pending_shot = self._pending_shot, None  # newer by now, or another thread has it
        answer = None
        try:
            if shot is not None:
                picture = self.picture(shot, f"{SOURCE}:{self.number}:{shot.at}")
                (answer,) = self.line.submit([picture])
        except BusyError:
            self.state.dropped += 1
            self._ended.wait(0.05)
        except Exception as error:
            self._report_refusal(error)
        if answer is None:
            self.line.share.release(size)
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

    def _count_answered(self) -> None:
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    # ---- reports

    def _report_refusal(self, error: BaseException) -> None:
        """Report that a frame was not inspected; the next may be."""
        self.state.broken += 1
        why = str(error) if isinstance(error, FlawscopeError) else f"{type(error).__name__} in the decoder"
        self._report("camera_refused", f"frames of {self._label} are not inspected: {why}")

    def _check_silence(self) -> None:
        """Report a camera that sends nothing: some drivers block the reading thread for ever."""
        timeout = self.settings.frame_timeout
        if self.state.state == RUNNING and time.monotonic() - self._last_frame_at > timeout + CHECK_INTERVAL:
            self._mark_away(f"it sends nothing for {timeout:g} s")

    def _report(self, code: str, why: str | None) -> None:
        self.line.show(code, self.number, why)

    @property
    def _label(self) -> str:
        return f"camera {self.number} ({self.settings.display_name})"


class FfmpegCamera(LiveCamera):
    """Camera that FFmpeg reads."""

    def __init__(self, line: Line, settings: CameraSourceSettings, number: int):
        super().__init__(line, settings, number)
        self._stream_settings = settings

    def _run_session(self, backoff: Backoff) -> str:
        frames = FrameReader(self._stream_settings, self.line.share.limits.pixels)
        try:
            self._last_frame_at, before = time.monotonic(), 0
            for frame in frames:
                if self._ended.is_set():
                    break
                self.state.broken, before = self.state.broken + frames.broken - before, frames.broken
                if frame is not None:
                    backoff.reset()
                    self._handle_frame(frame, self._take_triggers())
        finally:
            frames.close()
        return "the stream ended"
