"""Interface of sources, and the parts that they share."""

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

# states; FROZEN: a camera that repeats a frame
WAITING = "waiting"
RUNNING = "running"
AWAY = "away"
FROZEN = "frozen"
# seconds before a full queue is tried again
MIN_RETRY_DELAY = 0.02
MAX_RETRY_DELAY = 1.0

Submit = Callable[[Part], Future[RecordedInspection]]


class ReportProblem(Protocol):
    """Function that reports a problem under a code; None in place of the reason: it is over.

    `stops` says that the product in the code is not inspected meanwhile.
    """

    def __call__(self, code: str, why: str | None, *, stops: bool = False) -> None:
        """Report a problem under a code, or its end."""


@dataclass
class State:
    """State of a source, which its threads keep up to date.

    Attributes:
        kind: folder or camera.
        name: Name of the source in names of pictures.
        place: Folder or address, without a password.
        takes: Frames that it takes (setting `every`); of a folder, what happens to an inspected file
            (`then`).
        state: `waiting` for a first picture, `running`, `away`, or `frozen`: the camera repeats a frame.
        why: Reason where it is away or frozen.
        last: Time of the last picture, microseconds since 1970.
        taken: Pictures since the start.
        dropped: Frames that came while others were inspected.
        broken: Frames that failed or were refused.
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
        """Enter a state, and call the listeners: a PLC is not to wait until somebody looks."""
        self.state = state
        self.why = why
        for tell in tuple(self.listeners):
            tell()

    @property
    def is_lost(self) -> bool:
        """Whether no picture can be had: it is away or frozen."""
        return self.state in (AWAY, FROZEN)

    def to_dict(self) -> dict[str, object]:
        """Return the state as JSON shows it, with `last` as text and without the listeners."""
        shown = {name: value for name, value in vars(self).items() if name != "listeners"}
        return {**shown, "last": None if self.last is None else iso(self.last)}


def lost_camera(cameras: Iterable[State]) -> Standstill | None:
    """Return the standstill of parts that all of these cameras must show; None: no camera is lost."""
    lost = next((camera for camera in cameras if camera.is_lost), None)
    if lost is None:
        return None
    why = lost.why or lost.state
    if lost.state == FROZEN:
        return Standstill("camera_frozen", CameraFrozenError(why))
    return Standstill("camera_away", AwayError(why))


class Source(Protocol):
    """Source that takes pictures by itself.

    A source is made of a `SourceContext`, its settings, and its number among the product's sources of its
    kind, from 1.
    """

    state: State

    def start(self) -> None:
        """Begin, and return at once: an unreachable source is a problem, not an error."""

    def stop(self) -> None:
        """Take no more pictures, and return when the submitted ones are answered, or after half a minute.

        A share that hangs does not keep the station from ending.
        """


ShotOf = TypeVar("ShotOf", default=Any)  # frame of a kind of camera


@runtime_checkable
class TriggeredSource(Source, Protocol[ShotOf]):
    """Source that takes a picture on a trigger: a camera.

    A camera that shows a view of a part says which by an attribute `view`.

    Attributes:
        number: Number among the product's cameras, from 1.
    """

    number: int

    def next_shot(self, request: KeyedRequest | None = None) -> Future[ShotOf]:
        """Return the first frame that is exposed from now on; a request that is sent again counts once.

        Raises:
            AwayError: the camera is lost.
        """

    def forget(self, waiting: Future[ShotOf]) -> None:
        """Withdraw a trigger."""

    def picture(self, shot: ShotOf) -> Picture:
        """Encode a frame as a picture of a part.

        Raises:
            InputError: it cannot be inspected.
        """


class AwayError(RefusalError):
    """The camera of a trigger is away."""

    code = "camera_away"


class ApartError(RefusalError):
    """The cameras of a trigger exposed their frames at different times: they may show two parts."""

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
        self._count = self._bytes = 0
        self._changed = threading.Condition()

    def acquire(self, size: int, ended: threading.Event) -> bool:
        """Wait for room for a part of `size` bytes; return False where the source ends before."""
        with self._changed:
            while self._count and (
                self._count >= max(1, self.limits.queue // 2) or self._bytes + size > 2 * self.limits.upload
            ):
                if ended.is_set():
                    return False
                self._changed.wait(0.2)
            self._count = self._count + 1
            self._bytes = self._bytes + size
            return True

    def release(self, size: int) -> None:
        """Give back the room of a part that was answered."""
        with self._changed:
            self._count = self._count - 1
            self._bytes = self._bytes - size
            self._changed.notify_all()


@dataclass(frozen=True)
class SourceContext:
    """Access of a product's sources to the station.

    Attributes:
        product_id: Number of the product or entry.
        submit: Queues a part for inspection.
        report: Reports a problem under a code, or with None its end.
        store: Holds the keys of pictures that were inspected before.
        share: Share of the queue, the same for all sources of a station.
        refused: Gets the reason why a part was not judged that was not submitted.
        check: Raises why no part with this number is taken now (`Intake.check_standstill`): StoreError,
            NoModelError, or NotReadyError where an interlock holds it back. Called before a picture is read.
        parts: Knows whether the model judges parts in views; None: it does not.
        part_seconds: Seconds for which the other views of a part may be missing before that is reported.
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
        ending = "" if number is None else f"_{number}"
        why = None if why is None else to_utf8(why)
        self.report(f"{code}_{self.product_id}{ending}", why, stops=stops)

    def hand_in(self, part: Part, ended: threading.Event) -> Future[RecordedInspection] | None:
        """Submit a part as soon as there is room; return None where the source ends before.

        Raises:
            InputError: its pictures are not all of its views.
            NotReadyError: an interlock holds this part back: go on with others. The future raises it, too,
                and NotProductionError, which is the answer to a challenge part.
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
    """Replace lone surrogates, which no database takes: a file's name can hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode("utf-8")
