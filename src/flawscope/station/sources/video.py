"""Video files: every frame is inspected once, in order, even after a restart.

A frame's key is the file's content and the frame's number from the beginning. After a restart the inspected
frames are only decoded; a file that was inspected to its end is known by an event.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from flawscope.errors import InputError, message_with_type, pluralize
from flawscope.station.background import BackgroundThread, Backoff
from flawscope.station.inspecting.picture import Picture
from flawscope.station.inspecting.writer import RecordedInspection
from flawscope.station.settings.sources import CameraSourceSettings
from flawscope.station.sources.frames import CameraLostError, FrameReader, encode_png
from flawscope.station.sources.source import AWAY, ENDED, RUNNING, Line, State, to_utf8
from flawscope.station.store.database import now

if TYPE_CHECKING:
    from av import VideoFrame

SOURCE = "video"  # of an inspection, and of events
MAX_IN_FLIGHT = 8  # frames that are submitted and not answered, at most
LOOKUP_BATCH = 256  # keys that are looked up at once
SETTLE_SECONDS = 2.0  # seconds for which a file must not have changed
MIN_RETRY_DELAY, MAX_RETRY_DELAY = 1.0, 30.0  # seconds until a failed file is tried again
HASHED_BYTES = 1 << 20  # bytes of a file's beginning and its end that identify it


class VideoSource(BackgroundThread):
    """Source of the frames of a file, and of one that replaces it later."""

    def __init__(self, line: Line, settings: CameraSourceSettings, number: int):
        super().__init__(f"video-{number}")
        self.line, self.settings, self.number = line, settings, number
        name = to_utf8(Path(settings.display_name).name)
        self.state = State(SOURCE, name, to_utf8(settings.display_name), settings.every)
        self._in_flight: deque[tuple[int, Future[RecordedInspection]]] = deque()

    def _work(self) -> None:
        backoff, last_stamp, inspected_stamp = Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY), None, None
        while not self._ended.is_set():
            pause = SETTLE_SECONDS
            try:
                stamp = _file_stamp(self.settings.camera)
                is_whole = stamp == last_stamp or time.time() - stamp[0] / 1e9 > SETTLE_SECONDS
                last_stamp = stamp
                if is_whole and stamp != inspected_stamp:
                    self._inspect_file()
                    inspected_stamp = stamp
                backoff.reset()
            except Exception as error:
                self._report_failure(error)
                pause = backoff.next()
            while self._in_flight:  # whatever their answers: frames that are not recorded are taken again
                self.state.taken += self._in_flight.popleft()[1].exception() is None
            self._ended.wait(pause)

    def _inspect_file(self) -> None:
        """Inspect the frames that were not inspected yet."""
        store, product_id = self.line.store, self.line.product_id
        identity = _content_hash(self.settings.camera)
        event_end = f"{identity}, every {self.settings.every}"
        if not any(str(row.text).endswith(event_end) for row in store.events(SOURCE, product_id)):
            with closing(FrameReader(self.settings, self.line.share.limits.pixels)) as frames:
                try:
                    count = self._submit_frames(identity, frames)
                finally:
                    self.state.broken += frames.broken
            if self._ended.is_set():
                return
            if not count:
                raise CameraLostError("it has no frame that can be decoded")
            self._collect_answers(0)
            text = f"{self.state.name} was inspected to its end: {pluralize(count, 'frame')}, "
            text += f"{frames.broken} of them damaged" if frames.broken else "none damaged"
            store.note_event(SOURCE, SOURCE, f"{text}; {event_end}", product_id)
        self._set_state(ENDED)

    def _submit_frames(self, identity: str, frames: FrameReader) -> int:
        """Submit all frames until the station ends, and return their number."""
        index, known, slot, seconds = -1, set[int](), -1, self.settings.frame_interval
        for index, frame in enumerate(frames):
            if self._ended.is_set():
                break
            if index % LOOKUP_BATCH == 0:
                keys = {_frame_key(identity, one): one for one in range(index, index + LOOKUP_BATCH)}
                found = self.line.store.numbers_by_key(self.line.product_id, list(keys))
                known = {keys[key] for key in found}
            if frame is None:
                continue
            if seconds is not None:
                before, slot = slot, int(frames.timestamp(frame, index) / seconds)
                if slot == before:
                    continue
            if index not in known:
                self._submit_frame(identity, index, frame)
            if self.state.state != RUNNING:
                self._set_state(RUNNING)
        return index + 1

    def _submit_frame(self, identity: str, number: int, frame: VideoFrame) -> None:
        """Submit a frame when there is room, or not at all where the station ends before."""
        try:
            data = encode_png(frame, self.line.share.limits.pixels)
        except InputError as error:
            self._report_bad_frame(number, error)
            return
        name = f"{Path(self.state.name).stem}-{number + 1:06d}.png"
        self._collect_answers(MAX_IN_FLIGHT - 1)
        view = self.settings.view
        picture = Picture(self.line.product_id, data, name, SOURCE, _frame_key(identity, number), view=view)
        if (future := self.line.hand_in(picture, self._ended)) is not None:
            self._in_flight.append((number, future))

    def _collect_answers(self, max_left: int) -> None:
        """Wait for the oldest submitted frames until so many are left. An error that is not the frame's is
        raised; the next try submits the frame again, for its key is not recorded."""
        while len(self._in_flight) > max_left:
            number, future = self._in_flight.popleft()
            error = future.exception()
            if isinstance(error, InputError):
                self._report_bad_frame(number, error)
            elif error is not None:
                raise error
            else:
                self.state.taken, self.state.last = self.state.taken + 1, now()

    # ---- reports

    def _report_bad_frame(self, number: int, error: InputError) -> None:
        self.state.broken += 1
        self._report("camera_refused", f"frame {number + 1} of {self.state.name} is not inspected: {error}")

    def _set_state(self, state: str) -> None:
        self.state.state, self.state.why = state, None
        self._report("camera_away", None)
        self._report("camera_waits", None)

    def _report_failure(self, error: Exception) -> None:
        if not isinstance(error, InputError):
            self._report("camera_waits", f"frames of {self.state.name} wait: {message_with_type(error)}")
        elif self.state.state != ENDED:  # else nobody needs it any more
            self.state.state, self.state.why = AWAY, to_utf8(str(error))
            called = f"camera {self.number} ({self.settings.display_name})"
            self._report("camera_away", f"{called} is away: {error}; it is tried again by itself")

    def _report(self, code: str, why: str | None) -> None:
        self.line.show(code, self.number, why)


def _frame_key(identity: str, number: int) -> str:
    return f"{SOURCE}:{identity}:{number}"


def _file_stamp(path: str) -> tuple[int, int]:
    """Return the time of change, in ns, and the size of a file. CameraLostError where there is none."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise CameraLostError(str(error.strerror or type(error).__name__)) from None
    return status.st_mtime_ns, status.st_size


def _content_hash(path: str) -> str:
    """Return a hash of size, beginning and end, which identifies the file under any name."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(f"{size}:".encode() + file.read(HASHED_BYTES))
            file.seek(max(0, size - HASHED_BYTES))
            digest.update(file.read(HASHED_BYTES))
    except OSError as error:
        raise CameraLostError(str(error.strerror or type(error).__name__)) from None
    return digest.hexdigest()[:32]
