"""People who look at a station, and a disk that is nearly full: does the line notice?

    python bench/viewers.py
    python bench/viewers.py --only viewers --minutes 2
    python bench/viewers.py --only space --minutes 60

A station in a process of its own on SQLite, with a drawn product and pictures of 5 megapixels.

viewers     two clients that send a part at a fixed pace with a deadline, and a folder at full speed, first
            alone, then while 8 viewers ask without a rest for everything that is drawn, searched and
            exported: answers that were late or refused, and what the viewers were answered.
            `line.py --viewers 8` does the same with two PLCs
space       pictures as fast as they are judged, with `keep: space`: the most that the pictures took on the
            disk, looked at ten times a second
"""

from __future__ import annotations

import io
import itertools
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

import common
from common import MIB, Args, Cell

sys.path.insert(0, str(common.ROOT / "station" / "tests"))

import station_helpers as helpers
from station_helpers import INSPECTIONS, NAME, Served

WIDTH, HEIGHT = 2560, 1920  # pixels of a picture
VIEWERS = 8
SETTINGS = """\
products:
  {name}:
    model: {model}
    sources:
      - {{folder: {folder}, then: delete}}
store: {store}
threads: {threads}
device: cpu
keep: {{space: {space}}}
limits: {{queue: 4}}          # half of it is the folder's: a part waits for two of its pictures at most
"""


class Viewers:
    """People who look: everything that is drawn, searched, counted and exported, each without a rest.

    Attributes:
        statuses: of all answers; 0: none came.
    """

    def __init__(self, url: str, count: int = VIEWERS):
        self.url, self.statuses = url, Counter[int]()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._look, args=(n,), daemon=True) for n in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(120)

    def _look(self, seed: int) -> None:
        rng, api = random.Random(seed), f"{self.url}/api/v1/products/{NAME}"
        with httpx.Client(timeout=120) as client:
            for kind in itertools.cycle(range(12)):
                if self._ended.is_set():
                    return
                try:
                    there = client.get(f"{self.url}/api/v1/products/{NAME}").json().get("inspections", 1)
                    address = self._address(api, rng.randint(1, max(1, there)), kind)
                    self.statuses[client.get(address).status_code] += 1
                except httpx.TransportError:
                    self.statuses[0] += 1

    def _address(self, api: str, number: int, kind: int) -> str:
        one, report = f"{api}/inspections/{number}", "shift-report?since=2020-01-01&until=2021-01-01"
        return (
            *(f"{one}/{what}" for what in ("overlay", "view?side=320", "overlay", "map", "mask", "picture")),
            *(f"{api}/{what}" for what in ("trends", "review", "export?limit=500", "export?format=xlsx")),
            f"{api}/{report}" if number % 2 else f"{api}/learning",
            f"{self.url}/{NAME}/{('history', 'live', 'review', 'models')[number % 4]}",
        )[kind]


def made(args: Args, work: Path) -> tuple[Path, list[bytes]]:
    """An exported model, and pictures of parts."""
    exported, data = common.exported_model(work, args.size, train=24, good=12, side=256)
    several = []
    for path in common.pictures_below(data / "test")[: args.parts]:
        with Image.open(path) as small:
            size = WIDTH // args.shrink, HEIGHT // args.shrink
            grain = np.random.default_rng(0).integers(0, 8, (size[1], size[0], 1), np.uint8)
            large = np.asarray(small.convert("RGB").resize(size)) // 2 + grain  # as of a sensor: 6 MB
            buffer = io.BytesIO()
            Image.fromarray(large).save(buffer, "PNG", compress_level=1)
        several.append(buffer.getvalue())
    return exported, several


def fresh(pictures: list[bytes], number: int) -> bytes:
    """A picture that nobody has seen: what follows a PNG is not read."""
    return pictures[number % len(pictures)] + str(number).encode()


@contextmanager
def station(args: Args, model: Path, space: str) -> Iterator[tuple[Served, Path]]:
    """A station that runs, and its folder."""
    with common.workspace(None) as folder:
        (folder / "incoming").mkdir()
        facts = {"name": NAME, "model": model, "threads": args.threads, "space": space}
        text = SETTINGS.format(folder=folder / "incoming", store=folder / "store", **facts)
        (folder / "station.yaml").write_text(text)
        served = Served([str(folder / "station.yaml")], helpers.free_port())
        served.start()
        try:
            yield served, folder
        finally:
            served.kill()


class Feeder:
    """Keeps pictures in a folder."""

    def __init__(self, folder: Path, pictures: list[bytes]):
        self.folder, self.pictures, self._ended = folder, pictures, threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._thread.join(60)

    def _feed(self) -> None:
        for number in itertools.count():
            while len(list(self.folder.glob("*.png"))) > 20:
                if self._ended.wait(0.1):
                    return
            if self._ended.is_set():
                return
            part = self.folder / f"{number}.part"
            part.write_bytes(fresh(self.pictures, -1 - number))
            part.rename(part.with_suffix(".png"))


def parts_with_deadlines(
    args: Args, url: str, pictures: list[bytes], seconds: float, first: int
) -> list[tuple[int, float]]:
    """Status and seconds of each part that two clients send."""
    answers: list[tuple[int, float]] = []

    def send(client_number: int) -> None:
        with httpx.Client(base_url=f"{url}/api/v1/", timeout=60) as client:
            begun, number = time.perf_counter(), first + client_number
            while (due := begun + (number - first) / 2 * args.period) < begun + seconds:
                time.sleep(max(0.0, due - time.perf_counter()))
                data, sent = fresh(pictures, number), time.perf_counter()
                query = {"deadline": round(1000 * args.deadline), "name": f"{number}.png"}
                headers = {"Content-Type": "image/png", "Idempotency-Key": str(number)}
                answer = client.post(INSPECTIONS, params=query, content=data, headers=headers)
                answers.append((answer.status_code, time.perf_counter() - sent))
                number += 2

    threads = [threading.Thread(target=send, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def viewers(args: Args, model: Path, pictures: list[bytes]) -> Cell:
    """Parts alone, and beside viewers, in turns: other programs of the machine disturb both alike."""
    seconds, found, seen = 60 * args.minutes / 4, {False: [], True: []}, Counter[int]()
    with (
        station(args, model, "100 GB") as (served, folder),
        Feeder(folder / "incoming", pictures),
    ):
        for turn in range(4):
            watched = turn % 2 == 1
            people = Viewers(served.url)
            if watched:
                people.start()
            found[watched] += parts_with_deadlines(
                args, served.url, pictures, seconds, 1_000_000 * (turn + 1)
            )
            people.end()
            seen += people.statuses
        recorded = len(helpers.everything(served.url))
    return {
        **{
            name: {
                "parts": len(found[watched]),
                "late": sum(status == 504 for status, _ in found[watched]),
                "statuses": {str(k): n for k, n in sorted(Counter(s for s, _ in found[watched]).items())},
                "answer": common.p50_p99([took for status, took in found[watched] if status == 201] or [0.0]),
            }
            for name, watched in (("alone", False), ("watched", True))
        },
        "viewers": {str(k): n for k, n in sorted(seen.items())},
        "recorded": recorded,
    }


def space(args: Args, model: Path, pictures: list[bytes]) -> Cell:
    """Pictures at full speed, and what they take."""
    highest, last, seconds = 0, 0.0, 60 * args.minutes
    with station(args, model, args.space) as (served, folder), Feeder(folder / "incoming", pictures):
        begun, sent = time.perf_counter(), itertools.count()
        ended = threading.Event()

        def send() -> None:
            with httpx.Client(base_url=f"{served.url}/api/v1/", timeout=120) as client:
                while not ended.is_set():
                    query = {"name": f"{(number := next(sent))}.png"}
                    if (
                        client.post(INSPECTIONS, params=query, content=fresh(pictures, number)).status_code
                        != 201
                    ):
                        time.sleep(0.05)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        while (last := time.perf_counter() - begun) < seconds:
            time.sleep(0.1)
            highest = max(highest, size_of(folder / "store" / "pictures"))
        ended.set()
        for thread in threads:
            thread.join()
        with httpx.Client(base_url=f"{served.url}/api/v1/", timeout=60) as client:
            recorded = client.get(f"products/{NAME}").json()["inspections"]
            problems = [one["text"] for one in client.get("status").json()["problems"]]
    return {
        "space_mib": round(args.space_bytes / MIB),
        "highest_mib": round(highest / MIB, 1),
        "written_mib": round(recorded * sum(map(len, pictures)) / len(pictures) / MIB),
        "pictures_per_second": common.round_to(recorded / last, 3),
        "problems": problems,
    }


def size_of(folder: Path) -> int:
    total = 0
    for path in folder.glob("*/*"):
        try:
            total += path.stat().st_size
        except OSError:  # it was just removed
            continue
    return total


def rows(step: str, cell: Cell) -> list[Cell]:
    """What was found beside what it has to be."""

    def row(what: str, found: Any, target: str = "", good: bool = True) -> Cell:
        return {"what": what, "found": found, "target": target, "": "" if good else "MISSED"}

    if step == "space":
        is_below = cell["highest_mib"] <= cell["space_mib"]
        return [
            row("written, MiB", cell["written_mib"]),
            row("pictures a second", cell["pictures_per_second"]),
            row("most on the disk, MiB", cell["highest_mib"], f"<= {cell['space_mib']}", is_below),
        ]
    alone, watched = cell["alone"], cell["watched"]
    faults = sum(n for status, n in cell["viewers"].items() if status == "0" or 500 <= int(status) != 503)
    return [
        row("parts alone, answers", alone["statuses"]),
        row("parts beside viewers, answers", watched["statuses"]),
        row("late alone", alone["late"]),
        row("late beside viewers", watched["late"], f"<= {alone['late']}", watched["late"] <= alone["late"]),
        row("median alone, s", common.round_to(alone["answer"]["median"], 3)),
        row("median beside viewers, s", common.round_to(watched["answer"]["median"], 3)),
        row("viewers, answers", cell["viewers"]),
        row("faults that viewers saw", faults, "0", faults == 0),
    ]


STEPS: dict[str, Callable[..., Cell]] = {"viewers": viewers, "space": space}


def main() -> int:
    from flawscope_station.settings.values import parse_size

    parser = common.make_parser(__doc__, "viewers", data=False)
    parser.add_argument("--only", default="viewers,space", help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=4.0, help="of each (default: %(default)s)")
    parser.add_argument(
        "--deadline", type=float, default=3.0, help="seconds of a part (default: %(default)s)"
    )
    parser.add_argument("--period", type=float, default=4.0, help="seconds from part to part of a client")
    parser.add_argument("--space", default="2 GB", help="of `keep` (default: %(default)s)")
    parser.set_defaults(size="256", parts=6, shrink=1)
    args = common.parse_arguments(
        parser, threads=1, minutes=0.3, size="64", shrink=8, space="10 MB", deadline=3.0, period=0.5
    )
    args.space_bytes = parse_size(args.space, "--space")
    record = common.Record(args, "people who look at a station, and a disk that is nearly full")
    missed = False
    with common.workspace(args.work) as work:
        model, pictures = made(args, work)
        for step in args.only.split(","):
            found = record.attempt(
                f"{step}, {args.minutes:g} minutes", partial(STEPS[step], args, model, pictures)
            )
            table = rows(step, found) if found else []
            common.print_table(step, table)
            missed |= any(row[""] for row in table)
    return record.status() or int(missed)


if __name__ == "__main__":
    sys.exit(common.run_script(main))
