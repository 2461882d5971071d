"""A video file: every frame once, in order, whatever ends in between.

A frame's key is the file's content and the frame's number, as it is decoded from the beginning. A start
decodes what was inspected before without doing more with it; a file that was inspected to its end is known by
an event.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from flawscope.errors import FlawscopeError, InputError
from flawscope.progress import counted
from flawscope.station.background import Background
from flawscope.station.inspecting.worker import Picture
from flawscope.station.inspecting.writer import Recorded
from flawscope.station.settings import addresses
from flawscope.station.settings.sources import CameraOf
from flawscope.station.sources.file_stamp import plain
from flawscope.station.sources.frames import Frames, LostError, encoded
from flawscope.station.sources.source import AWAY, ENDED, RUNNING, WAITING, Line, State, handed_in
from flawscope.station.store.database import now

if TYPE_CHECKING:
    from av import VideoFrame

SOURCE = "video"  # of an inspection, and of events
AHEAD = 8  # frames that are handed in and not answered, at most
TOGETHER = 256  # keys that are looked up at once
SETTLE = 2.0  # seconds for which a file must not have changed
SHORTEST, LONGEST = 1.0, 30.0  # seconds until what went wrong is tried again
BLOCK = 1 << 20  # bytes of its beginning and its end by which a file is known


class Video(Background):
    """Takes the frames of one file; one that is put in its place later is taken, too.

    Args:
        number: which one it is of the product's cameras; from 1.
    """

    def __init__(self, line: Line, camera: CameraOf, number: int):
        super().__init__(f"video-{number}")
        self.line, self.camera, self.number = line, camera, number
        self.name = plain(addresses.name_of(camera.camera))
        self._show = partial(line.show, number)
        self._state, self._why = WAITING, ""
        self._last: int | None = None
        self._taken = self._broken = 0
        self._flying: deque[tuple[int, Future[Recorded]]] = deque()

    def state(self) -> State:
        return State(
            kind=SOURCE,
            name=self.name,
            place=plain(self.camera.shown),
            takes=self.camera.every,
            state=self._state,
            why=self._why or None,
            last=self._last,
            taken=self._taken,
            broken=self._broken,
        )

    # ---- again and again

    def _work(self) -> None:
        pause, seen = SHORTEST, None
        while not self._ended.is_set():
            try:
                mark = _mark(self.camera.camera)
                if mark != seen:
                    self._wait_until_whole()
                    mark = _mark(self.camera.camera)
                    self._play()
                    seen = mark
                pause = SETTLE
            except Exception as error:
                self._failed(error)
                pause = min(LONGEST, 2 * pause)
            finally:
                self._settle()
            self._ended.wait(pause)

    def _wait_until_whole(self) -> None:
        while not self._ended.is_set():
            mark = _mark(self.camera.camera)
            if time.time() - mark[0] / 1e9 > SETTLE or self._ended.wait(SETTLE):
                return
            if _mark(self.camera.camera) == mark:
                return

    def _play(self) -> None:
        """From the first frame that was not inspected to the last one."""
        identity = _identity(self.camera.camera)
        done = f"{identity}, every {self.camera.every}"
        if any(str(row.text).endswith(done) for row in self.line.store.events(SOURCE, self.line.product_id)):
            self._is(ENDED)
            return
        frames, number, known, slot = Frames(self.camera, self.line.share.limits.pixels), -1, set[int](), -1
        try:
            for number, frame in enumerate(frames):
                if self._ended.is_set():
                    return
                if number % TOGETHER == 0:
                    known = self._known(identity, number)
                if frame is None:
                    continue
                if (seconds := self.camera.seconds) is not None:
                    before, slot = slot, int(frames.seconds(frame, number) / seconds)
                    if slot == before:
                        continue
                if number not in known and not self._take(identity, number, frame):
                    return
                if self._state != RUNNING:
                    self._is(RUNNING)
        finally:
            self._broken += frames.broken
            frames.close()
        if number < 0:
            raise LostError("it has no frame that can be decoded")
        while self._flying:
            self._answered()
        text = f"{self.name} was inspected to its end: {counted(number + 1, 'frame')}, "
        text += f"{frames.broken} of them damaged" if frames.broken else "none damaged"
        self.line.store.note_event(SOURCE, SOURCE, f"{text}; {done}", self.line.product_id)
        self._is(ENDED)

    def _known(self, identity: str, first: int) -> set[int]:
        keys = {_key(identity, number): number for number in range(first, first + TOGETHER)}
        return {keys[key] for key in self.line.store.numbers_of(self.line.product_id, list(keys))}

    # ---- a frame

    def _take(self, identity: str, number: int, frame: VideoFrame) -> bool:
        """Hand it in, when there is room; False where all ends before."""
        try:
            data = encoded(frame, self.line.share.limits.pixels)
        except InputError as error:
            self._spoilt(number, error)
            return True
        name = f"{os.path.splitext(self.name)[0]}-{number + 1:06d}.png"
        picture = Picture(self.line.product_id, data, name, SOURCE, _key(identity, number))
        while len(self._flying) >= AHEAD:
            self._answered()
        future = self._submitted(picture)
        if future is None:
            return False
        self._flying.append((number, future))
        return True

    def _submitted(self, picture: Picture) -> Future[Recorded] | None:
        share, size = self.line.share, len(picture.data)
        if not share.take(size, self._ended):
            return None
        future = None
        try:
            future = handed_in(picture, self.line.submit, self._ended)
        finally:
            if future is None:
                share.give(size)
        if future is not None:
            future.add_done_callback(lambda _: share.give(size))
        return future

    def _answered(self) -> None:
        """Of the oldest one on its way. What is no fault of the frame's ends this turn: the next one takes it
        again, for its key is not known."""
        number, future = self._flying.popleft()
        error = future.exception()
        if isinstance(error, InputError):
            self._spoilt(number, error)
        elif error is not None:
            raise error
        else:
            self._taken, self._last = self._taken + 1, now()

    def _settle(self) -> None:
        """Wait for what is on its way, whatever becomes of it."""
        while self._flying:
            _, future = self._flying.popleft()
            self._taken += future.exception() is None

    def _spoilt(self, number: int, error: InputError) -> None:
        self._broken += 1
        self._show("camera_refused", f"frame {number + 1} of {self.name} is not inspected: {error}")

    # ---- what a person should know

    def _is(self, state: str) -> None:
        self._state, self._why = state, ""
        self._show("camera_away", None)
        self._show("camera_waits", None)

    def _failed(self, error: Exception) -> None:
        why = str(error) if isinstance(error, FlawscopeError) else f"{type(error).__name__}: {error}"
        if not isinstance(error, InputError):
            self._show("camera_waits", f"frames of {self.name} wait: {why}")
        elif self._state != ENDED:  # else nobody needs it any more
            self._state, self._why = AWAY, plain(why)
            called = f"camera {self.number} ({self.camera.shown})"
            self._show("camera_away", f"{called} is away: {why}; it is tried again by itself")


def _key(identity: str, number: int) -> str:
    return f"{SOURCE}:{identity}:{number}"


def _mark(path: str) -> tuple[int, int]:
    """Time of change, ns, and size. LostError where it is not there."""
    try:
        facts = os.stat(path)
    except OSError as error:
        raise LostError(str(error.strerror or type(error).__name__)) from None
    return facts.st_mtime_ns, facts.st_size


def _identity(path: str) -> str:
    """What the file is known by, whatever it is called: its size, its beginning and its end."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            made = hashlib.sha256(f"{size}:".encode() + file.read(BLOCK))
            file.seek(max(0, size - BLOCK))
            made.update(file.read(BLOCK))
    except OSError as error:
        raise LostError(str(error.strerror or type(error).__name__)) from None
    return made.hexdigest()[:32]
