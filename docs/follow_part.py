"""Follow a part through a station: `python docs/follow_part.py` sends a picture under a key to one that runs,
and prints which packages its calls enter in each thread, and how often they return to one that they had left.

Every call of a function of the station counts that a thread on the part's way makes, from the request's first
byte until all who listen have the answer; an `await` that goes on enters its function anew. A place is a
package of the station; `--files`: a file. A stay is a run of calls in one place, and a return is a stay in a
place that the thread had left. Of several parts, the one that made the fewest is reported: a timer may fall
into one.

The background's threads, the server's own tick, and the look-up of who sends, which is kept for seconds, are
not on the way.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import httpx

import flawscope
import flawscope_station
from flawscope.synthesis.demo.dataset import draw_dataset
from flawscope_station.assembly import open_station
from flawscope_station.core.station import Station
from flawscope_station.settings.station import override_settings, single_product_settings
from flawscope_station.web.app import StationServer

ROOT = Path(flawscope_station.__file__).parent
PRODUCT = "plate"
WARM, FOLLOWED = 3, 4  # parts before those that are followed: what is made once is made; parts followed
PAUSE_SECONDS = 1.0  # between two parts
TOLD_SECONDS = 0.05  # after the answer, in which who listens gets it
TICK = ("on_tick", "close_if_stalled", "_timeout")  # functions of the server's tick, each second
# beginnings of threads' names
WAY = ("event loop", "request", "upload", "beside", "judge", "recorder", "observers")


class Call(NamedTuple):
    """Call of a function of the station. place: package or file in which it stands."""

    thread: str
    place: str
    function: str


class Way(NamedTuple):
    """Way of a part through the places. stays: runs of calls in one place, of all threads. returns: those in
    a place that their thread had left before."""

    calls: int
    places: int
    stays: int
    returns: int


class Follower:
    """Notes the calls of a station while it is `on`. files: places are files."""

    def __init__(self, files: bool = False):
        self.files, self.on, self.calls = files, False, list[Call]()

    def begin(self) -> None:
        """Forget what was followed, and follow."""
        self.calls, self.on = [], True

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if not self.on or event != "call":
            return
        code = frame.f_code
        if not code.co_filename.startswith(f"{ROOT}/") or code.co_name in TICK:
            return
        path = Path(code.co_filename).relative_to(ROOT)
        place = path.as_posix() if self.files else path.parts[0]
        thread = threading.current_thread().name
        if thread.startswith(WAY):
            self.calls.append(Call(thread, place, code.co_name))

    def by_thread(self) -> dict[str, list[list[Call]]]:
        """Stays of each thread, in their order."""
        calls = defaultdict[str, list[Call]](list)
        for call in self.calls:
            calls[call.thread].append(call)
        return {
            thread: [list(stay) for _, stay in groupby(own, itemgetter(1))] for thread, own in calls.items()
        }

    def way(self) -> Way:
        """What the stays of all threads come to."""
        stays, returns = 0, 0
        for own in self.by_thread().values():
            stays += len(own)
            returns += len(own) - len({stay[0].place for stay in own})
        return Way(len(self.calls), len({call.place for call in self.calls}), stays, returns)

    def report(self) -> str:
        """Lines on the stays of each thread, and what they come to."""
        lines = []
        for thread, stays in self.by_thread().items():
            lines.append(thread)
            for number, stay in enumerate(stays, 1):
                names = ", ".join(dict.fromkeys(call.function for call in stay))
                lines.append(f"  {number:3} {stay[0].place:28} {names}")
        way = self.way()
        lines.append(f"{way.calls} calls, {way.places} places, {way.stays} stays, {way.returns} returns")
        return "\n".join(lines)


@contextmanager
def served(station: Station) -> Iterator[str]:
    """A station that has started; its address."""
    station.start()
    server = StationServer(station)
    thread = threading.Thread(target=server.run, name="event loop")
    thread.start()
    try:
        while not server.started:
            time.sleep(0.1)
        yield server.url
    finally:
        server.should_exit = True
        thread.join()
        station.close()


def follow(model: Path, pictures: list[bytes], store: Path, follower: Follower) -> Iterator[Way]:
    """Follow the pictures through a station that judges by a model; `WARM` of them are sent before."""
    settings = override_settings(
        single_product_settings(str(model), PRODUCT), store=str(store), port=0, device="cpu", threads=1
    )
    sys.setprofile(follower)
    threading.setprofile(follower)
    with served(open_station(settings)) as url, httpx.Client(base_url=url, timeout=60) as client:
        for number, picture in enumerate(pictures, 1):
            time.sleep(PAUSE_SECONDS)
            if number > WARM:
                follower.begin()
            answer = client.post(
                f"/api/v1/products/{PRODUCT}/inspections",
                content=picture,
                params={"part": str(number)},
                headers={"Idempotency-Key": f"part-{number}"},
            )
            assert answer.status_code == 201, answer.text
            time.sleep(TOLD_SECONDS)
            follower.on = False
            if number > WARM:
                yield follower.way()
    sys.setprofile(None)
    threading.setprofile(None)


def shortest(follower: Follower) -> tuple[Way, str]:
    """Follow generated parts; return the way of the one that made the fewest stays, and its report."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), WARM + FOLLOWED
        data = draw_dataset(folder / "drawn", category=PRODUCT, train=12, good=count, bad_per_kind=1)
        model = folder / "plate.safetensors"
        flawscope.fit(data, size=64, cap=200, device="cpu").save(model)
        good = [one.read_bytes() for one in sorted((data / "test" / "good").iterdir())]
        for way in follow(model, good, folder / "store", follower):
            found.append((way, follower.report()))
    return min(found, key=lambda one: one[0].stays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", action="store_true", help="a place is a file")
    args = parser.parse_args()
    print(shortest(Follower(args.files))[1])


if __name__ == "__main__":
    main()
