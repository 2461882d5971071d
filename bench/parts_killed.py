"""Parts of 1 to 12 views at a station that is killed again and again: is each judged once, whole and in time?

    python bench/parts_killed.py
    python bench/parts_killed.py --parts 200 --kills 4

Two senders with keys send parts of four products by HTTP, in turns; every tenth part comes from both at once,
every fifth is sent again after its answer, and some have a picture of up to 30 megapixels. Beside them, files
of a fifth product's parts are written into a folder for each camera, two parts at a time. Meanwhile the
station is ended at random moments, with `kill -9`, each fourth time with SIGTERM, and started again. Then its
records are compared with what was handed in.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import common
from common import Args, Cell, Record

sys.path.insert(0, str(common.ROOT / "station" / "tests"))
sys.path.insert(0, str(common.ROOT / "tests"))

import flawscope
from small_network import SMALL_NETWORK
from station_helpers import Served, free_port, png, until

VIEWS = {"one": 1, "three": 3, "six": 6, "twelve": 12}  # of the products by HTTP
FOLDERS, OF_FOLDERS = "folders", 3  # the product by folders, and its views
LARGE, MEGAPIXELS = 100, (1, 4, 12, 30)  # each so many parts one has such a picture
WAIT, SIGTERM_SECONDS = 60.0, 75.0  # seconds: of `limits: wait`; in which a station ends
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
        how |= {"part": r"p\d+"} if count > 1 else {}
        flawscope.fit(good, **how, **SMALL_NETWORK).save(fitted)
        common.flawscope("export", fitted, "--out", made, "--quiet")
    return made


def settings_of(work: Path) -> Path:
    products: dict[str, Any] = {
        name: {"model": str(model_of(work, name, count))} for name, count in VIEWS.items()
    }
    sources = []
    for place in range(OF_FOLDERS):
        (folder := work / f"camera{place}").mkdir(exist_ok=True)
        sources.append({"folder": str(folder), "view": f"v{place:02}", "then": str(work / "done")})
    products[FOLDERS] = {"model": str(model_of(work, FOLDERS, OF_FOLDERS)), "sources": sources}
    settings = {"products": products, "store": str(work / "store"), "device": "cpu", "threads": 1}
    settings["limits"] = {"wait": f"{WAIT:.0f} s"}
    (path := work / "station.yaml").write_text(json.dumps(settings))
    return path


class Sender(threading.Thread):
    """Sends parts with their names as keys, each until it is answered, some again."""

    def __init__(self, url: str, parts: list[Part]):
        super().__init__(daemon=True)
        self.url, self.parts = url, parts
        self.answered: dict[Part, int] = {}  # number of the inspection
        self.longest, self.said, self.odd = 0.0, Counter[int](), list[str]()

    def run(self) -> None:
        with httpx.Client(base_url=f"{self.url}/api/v1/products", timeout=WAIT + 30) as http:
            for place, part in enumerate(self.parts):
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
    return {seen["picture"] for seen in one["views"] or [one]} == own


def killed(served: Served, rng: random.Random, number: int) -> float:
    """End a station at a random moment; return the seconds that SIGTERM took, or 0."""
    served.start()
    time.sleep(rng.uniform(0.2, 4.0))
    if number % 4:
        served.kill()
        return 0.0
    return common.seconds(lambda: served.kill(signal.SIGTERM))


def parts(args: Args) -> Cell:
    with common.workspace(args.work) as work:
        served = Served([str(settings_of(work))], free_port())
        by_http = int(0.8 * args.parts)
        all_parts = [(name, n) for n in range(by_http // len(VIEWS)) for name in VIEWS]
        of_folders = [(FOLDERS, n) for n in range(args.parts - len(all_parts))]
        both = all_parts[::10]
        senders = [Sender(served.url, sorted({*all_parts[k::2], *both}, key=all_parts.index)) for k in (0, 1)]
        writer = threading.Thread(
            target=write_files, args=(work, of_folders, args.pause), daemon=True, name="cameras"
        )
        rng, ends, begun = random.Random(0), list[float](), time.monotonic()
        for one in (*senders, writer):
            one.start()
        try:
            ends = [killed(served, rng, number) for number in range(args.kills)]
            served.start()
            for one in (*senders, writer):
                one.join()
            folders = [work / f"camera{place}" for place in range(OF_FOLDERS)]
            until(lambda: not any(any(folder.glob("*.png")) for folder in folders), "files are left")
            seconds = time.monotonic() - begun
            store = {name: list(recorded(served.url, name)) for name in (*VIEWS, FOLDERS)}
            ends.append(common.seconds(lambda: served.kill(signal.SIGTERM)))
        finally:
            served.close()
    counts = {**VIEWS, FOLDERS: OF_FOLDERS}
    there = [((name, int(one["part"][1:])), one) for name, found in store.items() for one in found]
    by_id = {one["id"]: part for part, one in there}
    answered = [pair for sender in senders for pair in sender.answered.items()]
    seen = Counter(part for part, _ in there)
    return {
        "parts": len(all_parts) + len(of_folders),
        "kills": args.kills,
        "answered": len({part for part, _ in answered}),
        "lost": sum(by_id.get(number) != part for part, number in answered),
        "not_recorded": sum(part not in seen for part in (*all_parts, *of_folders)),
        "twice": sum(count > 1 for count in seen.values()),
        "from_two_parts": sum(not is_whole(one, part, counts[part[0]]) for part, one in there),
        "odd": [text for sender in senders for text in sender.odd][:5],
        "statuses": dict(sum((sender.said for sender in senders), Counter())),
        "longest_answer_s": round(max(sender.longest for sender in senders), 1),
        "longest_sigterm_s": round(max(ends), 1),
        "seconds": round(seconds),
    }


def main() -> int:
    parser = common.make_parser(__doc__, "parts_killed", data=False)
    parser.add_argument("--parts", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between the cameras' parts")
    args: Args = common.parse_arguments(parser, parts=40, kills=2)
    record = Record(args, "parts of 1 to 12 views at a station that is killed")
    if (found := record.attempt(f"{args.parts}", lambda: parts(args))) is None:
        return record.status()
    least = {"lost": 0, "not_recorded": 0, "twice": 0, "from_two_parts": 0}
    least |= {"longest_answer_s": WAIT, "longest_sigterm_s": SIGTERM_SECONDS}
    rows = [
        {"": name, "found": value, "!": "MISSED" * (name in least and value > least[name])}
        for name, value in found.items()
        if not isinstance(value, list | dict)
    ]
    rows.append({"": "odd", "found": len(found["odd"]), "!": "MISSED" * bool(found["odd"])})
    common.print_table("parts in views, and kills", rows)
    return record.status() or int(any(row["!"] for row in rows))


if __name__ == "__main__":
    sys.exit(common.run_script(main))
