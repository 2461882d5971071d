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
from flawscope.station.inspecting.writer import Recorded
from flawscope.station.settings.sources import EVERY_FRAME, ON_TRIGGER, CameraOf
from flawscope.station.sources.frames import FrameReader, encode_png
from flawscope.station.sources.source import AWAY, RUNNING, AwayError, Line, State, replace_surrogates
from flawscope.station.store.database import now
from flawscope.station.store.inspection import Request
from flawscope.station.store.records import iso

if TYPE_CHECKING:
    from av import VideoFrame

SOURCE = "camera"  # of an inspection
MAX_IN_FLIGHT = 4  # frames of a camera that are submitted and not answered, at most: more would be old
MIN_RETRY_DELAY, MAX_RETRY_DELAY = 0.5, 30.0  # seconds until a lost camera is tried again
CHECK_INTERVAL = 0.25  # seconds between two checks whether frames still come


@dataclass(frozen=True)
class Shot:
    """Frame as it came. at: microseconds since 1970. triggers: number that it answers."""

    frame: VideoFrame
    at: int
    triggers: int = 0


class LiveCameraSettings(Protocol):
    """Settings of a live camera, as `CameraOf` has them."""

    @property
    def view(self) -> str | None: ...

    @property
    def every(self) -> str: ...

    @property
    def seconds(self) -> float | None: ...

    @property
    def patience(self) -> float: ...

    @property
    def shown(self) -> str: ...


class LiveCamera:
    """Takes frames as the settings say, and one for each trigger. A kind of camera is a `_session`. number:
    of the camera among the product's, from 1."""

    def __init__(self, line: Line, camera: LiveCameraSettings, number: int):
        self.line, self.camera, self.number = line, camera, number
        self.state = State(SOURCE, f"camera{number}", camera.shown, camera.every)
        self._changed = threading.Condition()
        self._newest: Shot | None = None  # due, and not submitted yet
        self._size = 1  # bytes of a frame
        self._triggers: dict[Future[Shot], object] = {}  # with the request behind each
        self._flying = 0
        self._due = 0.0
        self._seen = time.monotonic()  # when the last frame came, or the camera was opened
        self._ended = threading.Event()
        jobs = [self._read, self._hand_in]
        if camera.every == EVERY_FRAME:
            jobs.append(self._hand_in)  # to encode a large frame takes longer than it lasts
        self._threads = [threading.Thread(target=job, name=f"camera-{number}", daemon=True) for job in jobs]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float = 30.0) -> None:
        """Take nothing more; return when the submitted frames are answered, or after so many seconds."""
        ends = time.monotonic() + seconds
        self._ended.set()
        self._disappoint("the station ends")
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._flying, max(0.0, ends - time.monotonic()))
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.1, ends - time.monotonic()))

    # ---- a trigger

    def next_shot(self, request: Request | None = None) -> Future[Shot]:
        """Return the first frame that is decoded from now on. AwayError where the camera is lost."""
        if self.state.state == AWAY:
            raise AwayError(f"{self._called} is away: {self.state.why}; trigger again when it is back")
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
        triggers, view = shot.triggers or None, self.camera.view
        return Picture(self.line.product_id, data, name, SOURCE, key, triggers=triggers, view=view)

    def _take_triggers(self) -> dict[Future[Shot], object]:
        with self._changed:
            waiting, self._triggers = self._triggers, {}
        return {one: request for one, request in waiting.items() if one.set_running_or_notify_cancel()}

    def _disappoint(self, why: str) -> None:
        """Fail all waiting triggers."""
        for trigger in self._take_triggers():
            trigger.set_exception(AwayError(why))

    # ---- frames come

    def _read(self) -> None:
        """Open the camera and decode its frames, again and again until the end."""
        pauses = Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY)
        while not self._ended.is_set():
            try:
                why = self._session(pauses)
            except InputError as error:
                why = str(error)
            except Exception as error:  # of the library: another try may succeed
                why = f"{type(error).__name__} in the decoder"
            if not self._ended.is_set():
                self._lose(why)
            self._ended.wait(pauses.next())

    def _session(self, pauses: Backoff) -> str:
        """Open the camera and hand its frames to `_came` until it is lost, or the station ends; return why.
        InputError."""
        raise NotImplementedError

    def _came(self, frame: VideoFrame, triggers: dict[Future[Shot], object]) -> None:
        """Take a frame, which answers these triggers."""
        at = max(now(), (self.state.last or 0) + 1)
        shot = Shot(frame, at, len(set(triggers.values())))
        with self._changed:
            self._seen, self.state.last = time.monotonic(), at
            self._size = 3 * frame.width * frame.height
            if not triggers and self._is_due():
                self.state.dropped += self._newest is not None
                self._newest = shot
                self._changed.notify()
        for trigger in triggers:
            trigger.set_result(shot)
        self._is_back()

    def _is_back(self) -> None:
        if self.state.state != RUNNING:
            self.state.state, self.state.why = RUNNING, None
            self._show("camera_away", None)

    def _is_due(self) -> bool:
        if self.camera.every == ON_TRIGGER:
            return False
        seconds = self.camera.seconds
        if seconds is None:
            return True
        if self._seen < self._due:
            return False
        self._due = max(self._due + seconds, self._seen)
        return True

    def _lose(self, why: str) -> None:
        self.state.state, self.state.why = AWAY, replace_surrogates(why)
        said = f"{self._called} is away: {self.state.why}"
        self._disappoint(f"{said}; trigger again when it is back")
        self._show("camera_away", f"{said}; it is tried again by itself")

    # ---- frames go

    def _hand_in(self) -> None:
        while not self._ended.is_set():
            with self._changed:
                if self._newest is None or self._flying >= MAX_IN_FLIGHT:
                    self._changed.wait(CHECK_INTERVAL)
                size = self._size
                ready = self._newest is not None and self._flying < MAX_IN_FLIGHT
                self._flying += ready
            self._look()
            if ready and not (self.line.share.take(size, self._ended) and self._submit(size)):
                self._landed()

    def _submit(self, size: int) -> bool:
        """Submit the newest frame, for which the share has room; return whether it is being inspected."""
        with self._changed:
            shot, self._newest = self._newest, None  # perhaps newer by now, or taken by another thread
        answer = None
        try:
            if shot is not None:
                picture = self.picture(shot, f"{SOURCE}:{self.number}:{shot.at}")
                (answer,) = self.line.submit([picture])
        except BusyError:
            self.state.dropped += 1
            self._ended.wait(0.05)
        except Exception as error:
            self._refused(error)
        if answer is None:
            self.line.share.give(size)
            return False

        def answered(done: Future[Recorded]) -> None:
            self.line.share.give(size)
            error = done.exception()
            if error is None:
                self.state.taken += 1
                self._show("camera_refused", None)
            else:
                self._refused(error)
            self._landed()

        answer.add_done_callback(answered)
        return True

    def _landed(self) -> None:
        with self._changed:
            self._flying -= 1
            self._changed.notify_all()

    # ---- what a person should know

    def _refused(self, error: BaseException) -> None:
        """Report that a frame was not inspected; the next may be."""
        self.state.broken += 1
        why = str(error) if isinstance(error, FlawscopeError) else f"{type(error).__name__} in the decoder"
        self._show("camera_refused", f"frames of {self._called} are not inspected: {why}")

    def _look(self) -> None:
        """Report a camera that sends nothing: some drivers block the reading thread for ever."""
        patience = self.camera.patience
        if self.state.state == RUNNING and time.monotonic() - self._seen > patience + CHECK_INTERVAL:
            self._lose(f"it sends nothing for {patience:g} s")

    def _show(self, code: str, why: str | None) -> None:
        self.line.show(code, self.number, why)

    @property
    def _called(self) -> str:
        return f"camera {self.number} ({self.camera.shown})"


class FfmpegCamera(LiveCamera):
    """Camera that FFmpeg reads."""

    def __init__(self, line: Line, camera: CameraOf, number: int):
        super().__init__(line, camera, number)
        self._address = camera

    def _session(self, pauses: Backoff) -> str:
        frames = FrameReader(self._address, self.line.share.limits.pixels)
        try:
            self._seen, before = time.monotonic(), 0
            for frame in frames:
                if self._ended.is_set():
                    break
                self.state.broken, before = self.state.broken + frames.broken - before, frames.broken
                if frame is not None:
                    pauses.reset()
                    self._came(frame, self._take_triggers())
        finally:
            frames.close()
        return "the stream ended"
