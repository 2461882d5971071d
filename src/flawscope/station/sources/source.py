"""The contract of everything that takes pictures by itself, and what each is given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from flawscope.station.inspecting.memory import BusyError
from flawscope.station.inspecting.worker import Picture
from flawscope.station.inspecting.writer import Recorded
from flawscope.station.sources.file_stamp import plain
from flawscope.station.sources.queue_quota import Share
from flawscope.station.store.records import Store, iso

WAITING, RUNNING, AWAY, ENDED = "waiting", "running", "away", "ended"  # states

Submit = Callable[[Sequence[Picture]], list[Future[Recorded]]]
Report = Callable[[str, str | None], None]


@dataclass(frozen=True)
class State:
    """How a source is.

    kind: folder, video or camera. name: in names of pictures. place: folder or address, without a password.
    takes: every frame, or when; of a folder what happens to a file then. state: `waiting` for a first
    picture, `running`, `away`, or `ended` (a video file). why: it is away. last: microseconds since 1970 of
    the last picture. taken: pictures since the start. dropped: frames that came while others were inspected.
    broken: frames that could not be decoded or were refused.
    """

    kind: str
    name: str
    place: str
    takes: str
    state: str
    why: str | None = None
    last: int | None = None
    taken: int = 0
    dropped: int = 0
    broken: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "last": None if self.last is None else iso(self.last)}


class Source(Protocol):
    """What the station calls."""

    def start(self) -> None:
        """Begin, and return at once: what cannot be reached is a problem, not an error."""

    def stop(self) -> None:
        """Take nothing more, and return when what was taken is answered, or after half a minute: a share that
        hangs does not keep the station from ending."""

    def state(self) -> State:
        """From any thread, without waiting."""


@dataclass(frozen=True)
class Line:
    """What every source is given.

    submit: the inspector's. report: shows a problem under a code, or ends it with None. store: knows what was
    taken before. share: of the queue; the same one for all sources of a station.
    """

    product_id: int
    submit: Submit
    report: Report
    store: Store
    share: Share

    def show(self, number: int, code: str, why: str | None) -> None:
        """A problem of the product's camera of this number; None: it is over."""
        self.report(f"{code}_{self.product_id}_{number}", None if why is None else plain(why))


def handed_in(picture: Picture, submit: Submit, ended: threading.Event) -> Future[Recorded] | None:
    """When there is room for it; None where all ends before."""
    pause = 0.02
    while True:
        try:
            return submit([picture])[0]
        except BusyError:
            if ended.wait(pause):
                return None
            pause = min(1.0, 2 * pause)
