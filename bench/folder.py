"""Folders: how soon is a new picture inspected beside very many, what does a listing cost, and are parts made
of views of two?

    python bench/folder.py
    python bench/folder.py --files 1000,10000 --parts 60

listing    files that are kept lie there; milliseconds of the processor for a listing of the known ones
latency    a source runs beside as many that it knows; a new picture comes each second: milliseconds until it
           is handed in; in a model's place stands what answers at once
parts      parts in two views, of which a fifth lacks one, whose numbers come again, while the station is
           begun anew, files are renamed or overwritten and times rounded (`folder_parts` of the tests)
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import common
from common import Args, Cell

sys.path.insert(0, str(common.ROOT / "station" / "tests"))

from flawscope_station.monitoring.background import CLOCK
from flawscope_station.sources.arrivals import Arrivals
from folder_parts import Folder, run_parts

LISTINGS = 20


def fill(folder: Path, count: int) -> None:
    for k in range(count):
        (folder / f"{k:06d}.png").write_bytes(b"%d" % k)


def judged(folder: Path) -> Arrivals:
    """What a source knows of a folder when all that lies there is inspected."""
    arrivals = Arrivals(folder)
    arrivals.scan(0)
    for path in arrivals.scan(1):
        arrivals.done(path, digest=b"")
    return arrivals


def listing(count: int) -> Cell:
    with tempfile.TemporaryDirectory() as place:
        fill(Path(place), count)
        arrivals = judged(Path(place))
        begun = time.process_time()
        for now in range(LISTINGS):
            assert arrivals.scan(2 + now) == []
        seconds = (time.process_time() - begun) / LISTINGS
    return {"files": count, "listing_ms": 1e3 * seconds, "microseconds_a_file": 1e6 * seconds / count}


def latency(count: int, new: int) -> Cell:
    """A source that works by itself; the files that lie there are handed in first."""
    came: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Folder(Path(place))
        fill(folder.place, count)

        def submit(part: Any) -> Future[Any]:
            came[part.pictures[0].name] = time.monotonic()
            answer = Future[Any]()
            answer.set_result(None)
            return answer

        folder.submit, folder.clock = submit, CLOCK  # type: ignore[method-assign, assignment]
        folder.restart()
        folder.source.folders[0]._arrivals = judged(folder.place)
        folder.source.start()
        time.sleep(5)
        cpu, begun, times = time.process_time(), time.monotonic(), []
        for k in range(new):
            time.sleep(max(0.0, begun + k - time.monotonic()))
            written = time.monotonic()
            (folder.place / f"new{k}.png").write_bytes(b"new%d" % k)
            times.append((f"new{k}.png", written))
        time.sleep(3)
        cores = (time.process_time() - cpu) / (time.monotonic() - begun)
        folder.source.stop()
        folder.database.close()
    waits = sorted(1e3 * (came[name] - written) for name, written in times)
    return {
        "files": count,
        "new": new,
        "median_ms": waits[len(waits) // 2],
        "max_ms": waits[-1],
        "cores": cores,
    }


def parts(count: int) -> Cell:
    found: Cell = {"parts": 0}
    for then in ("keep", "move"):
        for coarse in (False, True):
            with tempfile.TemporaryDirectory() as place:
                one = run_parts(Path(place), count // 4, then, coarse)
            found = {name: found.get(name, 0) + number for name, number in one.items()}
    return found


def main() -> int:
    parser = common.make_parser(__doc__, "folder", data=False)
    parser.add_argument("--files", type=common.ints, default=[1000, 10_000, 100_000])
    parser.add_argument("--new", type=int, default=60)
    parser.add_argument("--parts", type=int, default=300)
    args: Args = common.parse_arguments(parser, files=[100, 1000], new=3, parts=30)
    record = common.Record(args, "folders with many files, and of parts in views")
    for count in args.files:
        record.cell(f"listing {count}", partial(listing, count))
    record.cell("latency", partial(latency, max(args.files), args.new))
    record.cell("parts", partial(parts, args.parts))
    for name, cell in record.cells.items():
        common.print_table(name, [common.without_metadata(cell)])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
