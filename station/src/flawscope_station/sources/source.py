"""Interface of sources, and the classes that they share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from typing_extensions import TypeVar

from flawscope_station.inspecting.memory import BusyError
from flawscope_station.inspecting.part_views import PartsCache
from flawscope_station.inspecting.picture import Part, Picture
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.monitoring.background import Backoff
from flawscope_station.monitoring.problems import Standstill
from flawscope_station.settings.station import Limits
from flawscope_station.store.inspection import KeyedRequest, RefusalError
from flawscope_station.store.records import Store, iso

# states of a source
WAITING = "waiting"  # for a first picture
RUNNING = "running"
AWAY = "away"
FROZEN = "frozen"  # a camera repeats a frame
MIN_RETRY_DELAY = 0.02  # seconds before a full queue is tried again
MAX_RETRY_DELAY = 1.0  # seconds before a queue that is full for long is tried again

Submit = Callable[[Part], Future[RecordedInspection]]


class ReportProblem(Protocol):
    """Function that reports a problem, or its end."""

    def __call__(self, code: str, why: str | None, *, stops: bool = False) -> None:
        """Report a problem under a code, or its end.

        Args:
            code: Code of the problem.
            why: Reason; None: the problem is over.
            stops: Whether the product in the code is not inspected meanwhile.
        """


@dataclass
class State:
    """State of a source, which its threads keep up to date.

    Attributes:
        kind: Folder or camera.
        name: Name of the source in names of pictures.
        place: Folder or address, without a password.
        takes: Frames that a camera takes (setting `every`); place to which a folder's inspected files go
            (setting `then`).
        state: `waiting` for a first picture, `running`, `away`, or `frozen`: the camera repeats a frame.
        why: Reason for which it is away or frozen; else None.
        last: Time of the last picture, microseconds since 1970; None: there was none.
        taken: Number of pictures since the start.
        dropped: Number of frames that came while others were inspected.
        broken: Number of frames that failed or were refused.
        listeners: Functions that `change` calls, in the source's thread: they return at once and raise
            nothing.
    """

    kind: str
    name: str
    place: str
    takes: str
    state: str = WAITING
    why: str | None = None
    last: int | None = None
    taken: int = 0
    dropped: int = 0
    broken: int = 0
    listeners: set[Callable[[], object]] = field(default_factory=set, repr=False, compare=False)

    def change(self, state: str, why: str | None = None) -> None:
        """Enter a state, and call the listeners: a PLC should know at once."""
        self.state = state
        self.why = why
        for listener in tuple(self.listeners):
            listener()

    @property
    def is_lost(self) -> bool:
        """Whether the source gives no picture now: it is away or frozen."""
        return self.state in (AWAY, FROZEN)

    def to_dict(self) -> dict[str, object]:
        """Return the state as JSON shows it, with `last` as text and without the listeners."""
        facts = {name: value for name, value in vars(self).items() if name != "listeners"}
        facts["last"] = None if self.last is None else iso(self.last)
        return facts


def lost_camera(cameras: Iterable[State]) -> Standstill | None:
    """Return why a part that needs all these cameras cannot be judged; None: no camera is lost."""
    lost = next((camera for camera in cameras if camera.is_lost), None)
    if lost is None:
        return None
    reason = lost.why or lost.state
    if lost.state == FROZEN:
        return Standstill("camera_frozen", CameraFrozenError(reason))
    return Standstill("camera_away", AwayError(reason))


class Source(Protocol):
    """Source that takes pictures by itself.

    A source is made of a `SourceContext`, its settings, and its number among the product's sources of its
    kind, from 1.
    """

    state: State

    def start(self) -> None:
        """Begin, and return at once: an unreachable source is a problem, not an error."""

    def stop(self) -> None:
        """Take no more pictures, and return when all submitted pictures are answered, or after half a minute.

        After half a minute the station ends even if a share hangs.
        """


ShotOf = TypeVar("ShotOf", default=Any)  # frame of a kind of camera


@runtime_checkable
class TriggeredSource(Source, Protocol[ShotOf]):
    """Source that takes a picture on a trigger: a camera.

    A camera that shows a view of a part has the name of the view as its attribute `view`.

    Attributes:
        number: Number among the product's cameras, from 1.
    """

    number: int

    def next_shot(self, request: KeyedRequest | None = None) -> Future[ShotOf]:
        """Return the first frame that is exposed from now on, as a future.

        Args:
            request: Request that triggers; one that is sent again counts as the same trigger.

        Raises:
            AwayError: The camera is lost.
        """

    def forget(self, waiting: Future[ShotOf]) -> None:
        """Withdraw a trigger."""

    def picture(self, shot: ShotOf) -> Picture:
        """Encode a frame as a picture of a part.

        Raises:
            InputError: The frame cannot be inspected.
        """


class AwayError(RefusalError):
    """The camera of a trigger is away."""

    code = "camera_away"


class ApartError(RefusalError):
    """The cameras of a trigger exposed their frames at different times, and may show two parts."""

    code = "views_apart"


class CameraFrozenError(AwayError):
    """The camera of a trigger repeats a frame that came before."""

    code = "camera_frozen"


class NoFrameError(RefusalError):
    """No frame came in time after a trigger."""

    status = 504
    code = "no_frame"


class QueueShare:
    """Half of the queue, for all sources together: clients that send parts always have the other half."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._count = 0  # parts that have room
        self._bytes = 0  # of these parts' pictures
        self._changed = threading.Condition()

    def acquire(self, size: int, ended: threading.Event) -> bool:
        """Wait for room for a part of `size` bytes, and take it.

        Args:
            size: Bytes of the part's pictures.
            ended: Set when the source ends.

        Returns:
            Whether the part has room; False: the source ended before.
        """
        with self._changed:
            while not self._has_room(size):
                if ended.is_set():
                    return False
                self._changed.wait(0.2)
            self._count += 1
            self._bytes += size
            return True

    def _has_room(self, size: int) -> bool:
        """Return whether a part fits into the share; a part that is alone always does."""
        if self._count == 0:
            return True
        max_count = max(1, self.limits.queue // 2)
        return self._count < max_count and self._bytes + size <= 2 * self.limits.upload

    def release(self, size: int) -> None:
        """Give back the room of a part that was answered."""
        with self._changed:
            self._count -= 1
            self._bytes -= size
            self._changed.notify_all()


@dataclass(frozen=True)
class SourceContext:
    """Access of a product's sources to the station.

    Attributes:
        product_id: Number of the product or entry.
        submit: Queues a part for inspection.
        report: Reports a problem under a code, with its reason; None: the problem is over.
        store: Records of the station, with the keys of inspected pictures.
        share: Share of the queue, the same for all sources of a station.
        refused: Gets the error for which a part was not even submitted.
        check: Raises why no part with this number is taken now (`Intake.check_standstill`): StoreError,
            NoModelError, or NotReadyError where an interlock holds it back. Called before a picture is read.
        parts: Knows whether the model judges parts in views; None: it does not.
        part_seconds: Seconds for which views of a part may be missing before that is reported.
    """

    product_id: int
    submit: Submit
    report: ReportProblem
    store: Store
    share: QueueShare
    refused: Callable[[BaseException], object] = lambda error: None
    check: Callable[[str | None], None] = lambda part: None
    parts: PartsCache | None = None
    part_seconds: float = 10.0

    def show(self, code: str, number: int | None, why: str | None, *, stops: bool = False) -> None:
        """Report a source's problem, such as `camera_away_1_2` of source 2 of product 1, from any thread.

        Args:
            code: Code of the problem, without numbers.
            number: Number of the source; None: the code names the product alone.
            why: Reason; None: the problem is over.
            stops: Whether the product is not inspected meanwhile.
        """
        suffix = "" if number is None else f"_{number}"
        reason = None if why is None else to_utf8(why)
        self.report(f"{code}_{self.product_id}{suffix}", reason, stops=stops)

    def hand_in(self, part: Part, ended: threading.Event) -> Future[RecordedInspection] | None:
        """Submit a part as soon as there is room, and return its future; None: the source ended before.

        The future may raise the errors below, too, and raises NotProductionError for a challenge part.

        Args:
            part: Part to inspect.
            ended: Set when the source ends.

        Raises:
            InputError: The pictures are not all views of the part.
            NotReadyError: An interlock holds this part back; other parts may be taken.
        """
        if not self.share.acquire(part.size, ended):
            return None
        answer = None
        pause = Backoff(MIN_RETRY_DELAY, MAX_RETRY_DELAY)
        try:
            while answer is None:
                try:
                    answer = self.submit(part)
                except BusyError:
                    if ended.wait(pause.next()):
                        return None
        finally:
            if answer is None:
                self.share.release(part.size)
        answer.add_done_callback(lambda _: self.share.release(part.size))
        return answer


def to_utf8(text: str) -> str:
    """Replace lone surrogates, which no database takes; file names have them for bytes that are no text."""
    return text.encode("utf-8", "replace").decode("utf-8")
