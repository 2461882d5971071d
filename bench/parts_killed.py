"""Parts of 1 to 12 views at a station that is killed again and again: is each judged once, whole and in time?

    python bench/parts_killed.py
    python bench/parts_killed.py --parts 200 --kills 4 --databases sqlite

Two senders with keys send parts of twelve products by HTTP, in turns: of 1, 2, ... 12 views. Every tenth part
comes from both at once, every fifth is sent again after its answer, every seventh is sent first by a client
that leaves after a moment, and some have a picture of up to 30 megapixels. A third client sends parts of its
own and leaves before most answers, for good. Beside them, files of a further product's parts are written into
a folder for each camera, two parts at a time. Meanwhile the station is ended at random moments, with
`kill -9`, each fourth time with SIGTERM, and started again. Then its records are compared with what was
handed in and with the answers that came, and its files with its records.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import common
from common import Args, Cell, Record

sys.path.insert(0, str(common.ROOT / "station" / "tests"))
sys.path.insert(0, str(common.ROOT / "tests"))

import flawscope
from flawscope.cli import main as command
from small_network import SMALL_NETWORK
from station_helpers import Served, free_port, png, running_postgres, until

VIEWS = {f"of{count}": count for count in range(1, 13)}  # of the products by HTTP
FOLDERS, OF_FOLDERS = "folders", 3  # the product by folders, and its views
LARGE, MEGAPIXELS = 24, (1, 4, 12, 30)  # each so many parts of a product one has such a picture
WAIT, SIGTERM_SECONDS = 60.0, 75.0  # seconds: of `limits: wait`; in which a station ends
# Of parts that a client sends and leaves alone: beside these numbers there are none of the senders
LEFT_ALONE = 100_000
DOUBT_SECONDS = 3.0  # before a kill: the station may have ended before it knew that a client had left
KINDS = ("sqlite", "postgresql")
Part = tuple[str, int]  # product and number


def view(product: str, number: int, place: int, scale: int = 1) -> bytes:
    """PNG of a drawn part from one side, unlike every other."""
    rng = np.random.default_rng([sum(product.encode()), number, place])
    picture = np.full((80, 80, 3), (60, 80 + 3 * place, 120), np.float64)
    picture[20:60, 20 + place : 60] = 150
    drawn = (picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8)
    return png(drawn.repeat(scale, 0).repeat(scale, 1))


def names_of(number: int, count: int) -> list[str]:
    """File names of a part's views."""
    return [f"p{number}_v{place:02}.png" for place in range(count)] if count > 1 else [f"p{number}.png"]


def pictures(part: Part, count: int) -> dict[str, bytes]:
    """Pictures of a part, by name: one of some is large."""
    product, number = part
    large = number // LARGE % len(MEGAPIXELS) if number % LARGE == LARGE // 2 else None
    scale = 1 if large is None else round((MEGAPIXELS[large] * 1e6) ** 0.5 / 80)
    sides = (view(product, number, place, 1 if place else scale) for place in range(count))
    return dict(zip(names_of(number, count), sides, strict=True))


def model_of(work: Path, product: str, count: int) -> Path:
    """Fit and export a model of parts in so many views, once."""
    fitted, made = work / f"{product}.safetensors", work / f"{product}.onnx"
    if not made.is_file():
        (good := work / f"good-{product}").mkdir(exist_ok=True)
        for number in range(1000, 1009):
            for place, name in enumerate(names_of(number, count)):
                (good / name).write_bytes(view(product, number, place))
        how: dict[str, Any] = {"size": 64, "check": False, "device": "cpu"}
        how |= {"part": r"p\d+", "each_view": False} if count > 1 else {}
        flawscope.fit(good, **how, **SMALL_NETWORK).save(fitted)
        assert command(["export", str(fitted), "--out", str(made), "--quiet"]) == 0
    return made


def settings_of(work: Path, home: Path, database: str | None) -> Path:
    """Settings of a station whose models lie in `work`, and all else in `home`."""
    products: dict[str, Any] = {
        name: {"model": str(model_of(work, name, count))} for name, count in VIEWS.items()
    }
    sources = []
    for place in range(OF_FOLDERS):
        (folder := home / f"camera{place}").mkdir(exist_ok=True)
        sources.append({"folder": str(folder), "view": f"v{place:02}", "then": str(home / "done")})
    products[FOLDERS] = {"model": str(model_of(work, FOLDERS, OF_FOLDERS)), "sources": sources}
    settings = {"products": products, "store": str(home / "store"), "device": "cpu", "threads": 1}
    settings["limits"] = {"wait": f"{WAIT:.0f} s"}
    settings |= {"database": database} if database else {}
    (path := home / "station.yaml").write_text(json.dumps(settings))
    return path


class Sender(threading.Thread):
    """Sends parts with their names as keys, each until it is answered, some again."""

    def __init__(self, url: str, parts: list[Part]):
        super().__init__(daemon=True)
        self.url, self.parts = url, parts
        self.answered: dict[Part, int] = {}  # number of the inspection
        self.longest, self.said, self.odd = 0.0, Counter[int](), list[str]()
        self.left = 0

    def run(self) -> None:
        rng = random.Random(len(self.parts))
        with httpx.Client(base_url=f"{self.url}/api/v1/products", timeout=WAIT + 30) as http:
            for place, part in enumerate(self.parts):
                if place % 7 == 0:
                    with suppress(OSError):  # the station is away
                        self.left += not send_and_leave(self.url, part, rng.uniform(0.01, 0.5))
                self._send(http, part)
                if place % 5 == 0:
                    self._send(http, random.Random(place).choice([*self.answered]))

    def _send(self, http: httpx.Client, part: Part) -> None:
        product, number = part
        files = [("files", one) for one in pictures(part, VIEWS[product]).items()]
        given = {"params": {"part": f"p{number}"}, "headers": {"Idempotency-Key": f"{product}-{number}"}}
        while True:
            begun = time.monotonic()
            try:
                answer = http.post(f"/{product}/inspections", files=files, **given)  # type: ignore[arg-type]
            except httpx.TransportError:  # it was killed
                time.sleep(0.1)
                continue
            self.longest = max(self.longest, time.monotonic() - begun)
            self.said[answer.status_code] += 1
            if answer.status_code in (200, 201):
                break
            if answer.status_code not in (207, 503, 504):
                self.odd.append(f"{part}: {answer.status_code} {answer.text}")
                return
            time.sleep(0.2)
        results = answer.json()["results"]
        found = int(results[0]["inspection"]["id"])
        if len(results) != 1 or self.answered.setdefault(part, found) != found:
            self.odd.append(f"{part}: another answer")


def send_and_leave(url: str, part: Part, seconds: float) -> bool:
    """Send a part and leave after so many seconds; return whether an answer came. OSError: the station broke
    the connection, so that nobody knows."""
    product, number = part
    files = [("files", one) for one in pictures(part, VIEWS[product]).items()]
    request = httpx.Request(
        "POST",
        f"{url}/api/v1/products/{product}/inspections",
        params={"part": f"p{number}"},
        headers={"Idempotency-Key": f"{product}-{number}", "Connection": "close"},
        files=files,
    )
    head = [f"POST {request.url.raw_path.decode()} HTTP/1.1"]
    head += [f"{name}: {value}" for name, value in request.headers.items()]
    place = request.url.host, int(request.url.port or 80)
    with socket.create_connection(place, 10) as line:
        line.sendall("\r\n".join([*head, "", ""]).encode() + request.read())
        line.settimeout(seconds)
        try:
            status = line.recv(1 << 16).split(b" ")[1:2]
            if status not in ([b"200"], [b"201"]):
                raise ConnectionResetError("it has no place, or ended without an answer")
            return True
        except TimeoutError:
            # it leaves at once, and what comes from now on is thrown away
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False


@dataclass
class Leaver(threading.Thread):
    """Sends parts that nobody else sends, each until it has left or has an answer.

    Attributes:
        answered, left: those with an answer, and those that it left, with the time.
        broken: those of which a connection was broken, by a kill or for want of a place.
        in_doubt: sent before, to a station that broke the connection.
    """

    url: str
    parts: list[Part]
    answered: set[Part] = field(default_factory=set)
    left: dict[Part, float] = field(default_factory=dict)
    broken: set[Part] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        rng = random.Random(2)
        for part in self.parts:
            while part not in self.answered and part not in self.left:
                try:
                    has_answer = send_and_leave(self.url, part, rng.choice([0.02, 0.1, 0.3, 1.0, 30.0]))
                except OSError:
                    self.broken.add(part)
                    time.sleep(0.1)
                    continue
                if has_answer:
                    self.answered.add(part)
                else:
                    self.left[part] = time.monotonic()
                time.sleep(0.1)


def write_files(work: Path, parts: list[Part], pause: float) -> None:
    """Let the cameras write the pictures of two parts at a time, in any order."""
    rng = random.Random(1)
    for begin in range(0, len(parts), 2):
        files = [
            (place, *one)
            for part in parts[begin : begin + 2]
            for place, one in enumerate(pictures(part, OF_FOLDERS).items())
        ]
        rng.shuffle(files)
        for place, name, data in files:
            folder = work / f"camera{place}"
            (folder / f".{name}").write_bytes(data)
            (folder / f".{name}").rename(folder / name)
        time.sleep(pause)


def recorded(url: str, product: str) -> Iterator[dict[str, Any]]:
    cursor: str | None = ""
    with httpx.Client(base_url=f"{url}/api/v1/products/{product}", timeout=60) as http:
        while cursor is not None:
            page = http.get("/inspections", params={"limit": 500, "cursor": cursor}).json()
            yield from page["inspections"]
            cursor = page["next"]


def is_whole(one: dict[str, Any], part: Part, count: int) -> bool:
    """Whether an inspection was made from the pictures of its part, and all of them."""
    own = {hashlib.sha256(data).hexdigest() for data in pictures(part, count).values()}
    return digests_of(one) == own


@dataclass
class Lives:
    """Ends of a station. at: when each began. longest: seconds that SIGTERM took."""

    served: Served
    at: list[float] = field(default_factory=list)
    longest: float = 0.0

    def live(self, rng: random.Random, number: int) -> None:
        """Start the station, and end it at a random moment."""
        self.served.start()
        time.sleep(rng.uniform(0.2, 4.0))
        self.at.append(time.monotonic())
        if number % 4:
            self.served.kill()
            return
        self.longest = max(self.longest, common.seconds(lambda: self.served.kill(signal.SIGTERM)))


@contextmanager
def new_database(kind: str) -> Iterator[str | None]:
    """URL of an empty database; None: SQLite in the station's folder."""
    if kind == "sqlite":
        yield None
        return
    with running_postgres(durable=True) as cluster, cluster.database() as url:
        yield url


def parts(args: Args, kind: str) -> Cell:
    with common.workspace(args.work) as work, new_database(kind) as database:
        (home := work / f"{kind}-{time.time_ns()}").mkdir()
        served = Served([str(settings_of(work, home, database))], free_port())
        by_http = int(0.8 * args.parts)
        all_parts = [(name, n) for n in range(by_http // len(VIEWS)) for name in VIEWS]
        of_folders = [(FOLDERS, n) for n in range(args.parts - len(all_parts))]
        alone = [(name, LEFT_ALONE + n) for n in range(len(all_parts) // 100) for name in VIEWS]
        both = all_parts[::10]
        senders = [Sender(served.url, sorted({*all_parts[k::2], *both}, key=all_parts.index)) for k in (0, 1)]
        leaver = Leaver(served.url, alone)
        writer = threading.Thread(
            target=write_files, args=(home, of_folders, args.pause), daemon=True, name="cameras"
        )
        rng, lives, begun = random.Random(0), Lives(served), time.monotonic()
        threads = [*senders, leaver, writer]
        for one in threads:
            one.start()
        try:
            for number in range(args.kills):
                lives.live(rng, number)
            served.start()
            for one in threads:
                one.join()
            folders = [home / f"camera{place}" for place in range(OF_FOLDERS)]
            until(lambda: not any(any(folder.glob("*.png")) for folder in folders), "files are left")
            seconds = time.monotonic() - begun
            store = {name: list(recorded(served.url, name)) for name in (*VIEWS, FOLDERS)}
            last = common.seconds(lambda: served.kill(signal.SIGTERM))
        finally:
            served.close()
        there = {path.stem for path in (home / "store" / "pictures").rglob("*.*")}
    return {
        "parts": len(all_parts) + len(of_folders),
        "kills": args.kills,
        **compare(store, senders, leaver, [*all_parts, *of_folders], lives.at),
        "pictures_gone": sum(not digests_of(one) <= there for found in store.values() for one in found),
        "odd": [text for sender in senders for text in sender.odd][:5],
        "statuses": dict(sum((sender.said for sender in senders), Counter())),
        "longest_answer_s": round(max(sender.longest for sender in senders), 1),
        "longest_sigterm_s": round(max(lives.longest, last), 1),
        "seconds": round(seconds),
    }


def digests_of(one: dict[str, Any]) -> set[str]:
    """Hashes of an inspection's pictures."""
    return {seen["picture"] for seen in one["views"] or [one]}


def compare(
    store: dict[str, list[dict[str, Any]]],
    senders: list[Sender],
    leaver: Leaver,
    handed_in: list[Part],
    kills: list[float],
) -> Cell:
    """Compare records with what was handed in, and with the answers."""
    counts = {**VIEWS, FOLDERS: OF_FOLDERS}
    there = [((name, int(one["part"][1:])), one) for name, found in store.items() for one in found]
    by_id = {one["id"]: part for part, one in there}
    answered = [pair for sender in senders for pair in sender.answered.items()]
    with_answer = {part for part, _ in answered} | leaver.answered
    doubtful = set(leaver.broken)  # an answer may have been on its way
    for part, at in leaver.left.items():
        if any(0 <= kill - at < DOUBT_SECONDS for kill in kills):
            doubtful.add(part)
    seen = Counter(part for part, _ in there)
    told = {part: one["unanswered"] is None for part, one in there if part[0] != FOLDERS}
    not_said = sorted(part for part in with_answer if not told.get(part, False))
    return {
        "answered": len(with_answer),
        "left_for_good": len(leaver.left),
        "left_and_recorded": sum(part in seen for part in leaver.left),
        "left_before_a_retry": sum(sender.left for sender in senders),
        "lost": sum(by_id.get(number) != part for part, number in answered),
        "not_recorded": sum(part not in seen for part in handed_in),
        "twice": sum(count > 1 for count in seen.values()),
        "from_two_parts": sum(not is_whole(one, part, counts[part[0]]) for part, one in there),
        "answered_and_not_said": len(not_said),
        "not_said": [f"{name} {number}" for name, number in not_said[:5]],
        "said_and_not_answered": sum(
            is_said and part not in with_answer and part not in doubtful for part, is_said in told.items()
        ),
        "in_doubt_by_a_kill": len(doubtful & told.keys()),
    }


def main() -> int:
    parser = common.make_parser(__doc__, "parts_killed", data=False)
    parser.add_argument("--parts", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between the cameras' parts")
    parser.add_argument("--databases", default=",".join(KINDS), help="default: %(default)s")
    args: Args = common.parse_arguments(parser, parts=60, kills=2, databases="sqlite")
    record = Record(args, "parts of 1 to 12 views at a station that is killed")
    nothing = ("lost", "not_recorded", "twice", "from_two_parts", "pictures_gone")
    nothing += ("answered_and_not_said", "said_and_not_answered")
    most = {**dict.fromkeys(nothing, 0), "longest_answer_s": WAIT, "longest_sigterm_s": SIGTERM_SECONDS}
    is_missed = False
    for kind in args.databases.split(","):
        found = record.attempt(f"{kind} {args.parts}", lambda k=kind: parts(args, k))  # type: ignore[misc]
        if found is None:
            continue
        rows = [
            {"": name, "found": value, "!": "MISSED" * (name in most and value > most[name])}
            for name, value in found.items()
            if not isinstance(value, list | dict)
        ]
        rows.append({"": "odd", "found": len(found["odd"]), "!": "MISSED" * bool(found["odd"])})
        common.print_table(f"parts in views, and kills: {kind}", rows)
        is_missed |= any(row["!"] for row in rows)
    return record.status() or int(is_missed)


if __name__ == "__main__":
    sys.exit(common.run_script(main))
