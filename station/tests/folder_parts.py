"""Parts that a folder shows in two views, of which some are lost, while numbers come again, the station is
begun anew, files are renamed, overwritten, and their times rounded."""

import hashlib
import os
import random
import re
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from flawscope_station.inspecting.picture import Part
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.settings.sources import FolderSourceSettings
from flawscope_station.settings.station import Limits
from flawscope_station.sources.folder import FolderSource
from flawscope_station.sources.source import QueueShare, SourceContext
from flawscope_station.store.database import Database
from flawscope_station.store.records import Store
from flawscope_station.store.schema import NOT_INSPECTED_EVENTS
from station_helpers import ManualClock, add_version, taken, taken_view

VIEWS = ["left", "top"]
DEADLINE, BEGIN = 5.0, 1_700_000_000  # seconds


class TwoViews:
    """Knows that parts have two views, by their files' names."""

    def views(self, product: int) -> list[str]:
        return VIEWS

    def label(self, part: Part) -> tuple[str | None, str | None]:
        (picture,) = part.pictures
        found = re.search(r"(p\d+)_(left|top)", picture.name)
        return (found[1], found[2]) if found else (part.number, picture.view)


class Folder:
    """A watched folder beside a store; what is handed in is recorded at once."""

    def __init__(self, place: Path, then: str = "keep", parts: Any = None):
        self.place, self.parts, self.clock = place / "in", parts, ManualClock()
        self.place.mkdir()
        self.then = str(place / "done") if then == "move" else then
        self.database = Database(f"sqlite:///{place / 'station.sqlite'}")
        self.database.migrate()
        self.store = Store(self.database)
        self.product, self.version = add_version(self.database)
        self.judged: list[list[bytes]] = []
        self.refused: list[str] = []
        self.restart()

    def restart(self) -> None:
        line = SourceContext(
            *(self.product, self.submit, lambda *_, **__: None, self.store, QueueShare(Limits())),
            refused=lambda error: self.refused.append(str(error)),
            parts=self.parts,
            part_seconds=DEADLINE,
        )
        self.source = FolderSource(
            line, FolderSourceSettings(str(self.place), self.then), 1, clock=self.clock
        )

    def submit(self, part: Part) -> Future[RecordedInspection]:
        self.judged.append([one.data for one in part.pictures])
        seen = [
            taken_view(
                **{"name": one.name, "key": one.key, "view": VIEWS[place]},
                picture=hashlib.sha256(one.data).hexdigest(),
            )
            for place, one in enumerate(part.pictures)
        ]
        facts = {"name": seen[0].name, "source": part.source, "key": part.key, "picture": seen[0].picture}
        views = tuple(seen) if len(seen) > 1 else ()
        judged = taken(part.product_id, self.version, **facts, view=VIEWS[0], views=views)
        ((number, is_new),) = self.store.record([judged])
        answer = Future[RecordedInspection]()
        answer.set_result(RecordedInspection(number, judged, is_new))
        return answer

    def run(self, seconds: float, step: float = 0.5) -> None:
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            self.source.work_once()
            self.clock.advance(step)

    def put(self, name: str, data: bytes, at: float = BEGIN) -> Path:
        """Write a file in place, of this time."""
        path = self.place / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(round(at * 1e9),) * 2)
        return path

    def told(self) -> list[str]:
        """What was not inspected."""
        return [one.text for kind in NOT_INSPECTED_EVENTS for one in self.store.events(kind, self.product)]

    @property
    def singles(self) -> list[bytes]:
        return [one for several in self.judged for one in several]


def run_parts(place: Path, count: int, then: str = "keep", coarse: bool = False) -> dict[str, int]:
    """Show so many parts; return how many were judged whole, from two parts, told, and neither."""
    rng, folder, written = random.Random(count), Folder(place, then, TwoViews()), dict[bytes, str]()
    at = float(BEGIN)
    for k in range(count):
        number = f"p{k % 20}"
        subfolder = rng.choice(["", f"sub{k % 3}/"])
        down = rng.random() < 0.2  # the station is
        for view in rng.sample(VIEWS, 2 if rng.random() < 0.8 else 1):
            at += rng.choice([0.01, 0.4, 2.0])
            data = f"{k:04d} {view}".encode().ljust(40)
            name = f"{subfolder}{number}_{view}.bmp"
            folder.put(name, data, at // 2 * 2 if coarse else at)
            written[data] = name
            folder.run(0 if down else 0.5)
        at += rng.choice([8.0, 20.0, 86_400.0])
        folder.run(0 if down else 8)
        if rng.random() < 0.2:
            folder.restart()
        if then == "keep" and rng.random() < 0.2:  # sorted by a program
            for path in folder.place.glob("p*.bmp"):
                path.rename(path.with_name(f"{path.stem} of {k}.bmp"))
    folder.run(40)
    texts, seen = folder.told(), {*folder.singles}
    # one that was overwritten while the station was down is known to nobody
    there = {path.read_bytes() for path in folder.place.parent.rglob("*.bmp")}
    lost = [
        name
        for data, name in written.items()
        if data not in seen and data in there and not any(text.startswith(name[:-4]) for text in texts)
    ]
    folder.database.close()
    return {
        "parts": count,
        "judged": len(folder.judged),
        "from two parts": sum(len({one[:4] for one in several}) > 1 for several in folder.judged),
        "judged twice": len(folder.singles) - len(seen),
        "files told": len(texts),
        "files neither judged nor told": len(lost),
    }
