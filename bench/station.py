"""The station: what it adds to a prediction, and what it does under load and when it is killed.

    python bench/station.py
    python bench/station.py --only kill --kills 100
    python bench/station.py --only load --minutes 10 --stores sqlite

PatchCore is fitted on drawn plates and exported, so that nothing here needs torch once it runs. Stations are
`flawscope serve` in a process of their own, on SQLite and on a PostgreSQL of the distribution that is started
for it (`--stores`), which flushes as usual.

overhead    one client, one connection, pictures that the station has not seen: the time of a POST less that
            of `Predictor.predict` of the same bytes, in turns
load        8 clients that send twice as many pictures as `predict` alone does in a process, and do not wait
            for each other: every one answered or refused with 503, every answered one in the store and no
            other; answers a second beside bare `predict` before and after; memory
learning    answers a second to the same load before a new product is learnt, and meanwhile, three times
kill        `kill -9` at random moments under load, and a new start: acknowledged inspections that are lost,
            pictures that are there twice
outage      the same where PostgreSQL is ended without a word at random moments, and started again
"""

from __future__ import annotations

import asyncio
import http.client
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

import common
from common import MIB, Args, Cell, Record

sys.path.insert(0, str(common.ROOT / "station" / "tests"))

import station_helpers as helpers
from station_helpers import INSPECTIONS, Load, Served

CLIENTS, TWICE = 8, 2.0
ADDED = {"median": 8.0, "p99": 30.0}  # milliseconds
THROUGHPUT = 0.9  # of bare predict
WHILE_LEARNING = 0.8  # of the answers a second without a product that is learnt


# ------------------------------------------------------------------------------------------------- to measure


def made(args: Args, work: Path) -> tuple[Path, list[bytes]]:
    """An exported model, and pictures for it."""
    exported, data = common.exported_model(work, args.size, train=24, good=12, side=args.side)
    return exported, [path.read_bytes() for path in common.pictures_below(data / "test")]


@contextmanager
def station(args: Args, kind: str, model: Path, *more: str) -> Iterator[Served]:
    """One that is not started yet, on an empty store. It is shown the same pictures again and again."""
    with common.workspace(None) as folder:
        (settings := folder / "station.yaml").write_text(
            f"products: {{plate: {{model: {model}, camera_checks: false}}}}\nstore: store\ndevice: cpu\n"
        )
        served = Served([str(settings), *more], helpers.free_port())
        with ExitStack() as ending:
            if kind == "postgresql":
                try:
                    cluster = ending.enter_context(helpers.running_postgres(durable=True))
                except helpers.Unavailable as error:
                    raise SystemExit(str(error)) from None
                served.words += ["--database", ending.enter_context(cluster.database())]
            ending.callback(end, served)
            yield served


def end(served: Served) -> None:
    if served.process is not None and served.process.poll() is None:
        served.kill()


def resident(served: Served) -> int:
    import psutil

    assert served.process is not None
    return int(psutil.Process(served.process.pid).memory_info().rss)


def fresh(pictures: list[bytes], name: str, place: int) -> bytes:
    """A picture that nobody has seen: what follows a PNG is not read."""
    return pictures[place % len(pictures)] + name.encode()


# --------------------------------------------------------------------------------------------------- overhead


def overhead(args: Args, kind: str, model: Path, pictures: list[bytes]) -> Cell:
    from flawscope import load

    predictor = load(model, device="cpu", threads=args.threads)
    with station(args, kind, model) as served:
        served.start()
        # the standard library's client: of what is measured, httpx alone would be more than a millisecond
        with closing(http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=60)) as client:
            place = iter(range(10**9))

            def post(data: bytes) -> None:
                client.request("POST", f"/api/v1/{INSPECTIONS}", data, {"Content-Type": "image/png"})
                answer = client.getresponse()
                assert answer.status == 201, answer.read()
                answer.read()

            bare, whole = [], []
            for round_ in range(args.repeats + 5):
                data = fresh(pictures, f"o{next(place)}", round_)
                pair = []
                for act in (predictor.predict, post):
                    time.sleep(0.03)  # an engine's threads spin on for a while: not while the other one works
                    pair.append(common.seconds(lambda act=act, data=data: act(data)))
                if round_ >= 5:
                    bare.append(pair[0])
                    whole.append(pair[1])
    added = [b - a for a, b in zip(bare, whole, strict=True)]
    return {"predict": common.p50_p99(bare), "post": common.p50_p99(whole), "added": common.p50_p99(added)}


# ------------------------------------------------------------------------------------------------------- load


def bare(model: str, folder: str, threads: int, seconds: float) -> Cell:
    """Pictures a second of `predict` alone."""
    from flawscope import load

    predictor = load(model, device="cpu", threads=threads)
    given = [path.read_bytes() for path in common.pictures_below(Path(folder))]
    for data in given[:3]:
        predictor.predict(data)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        predictor.predict(given[count % len(given)])
        count += 1
    return {"rate": count / (time.perf_counter() - began)}


async def storm(
    url: str, pictures: list[bytes], rate: float, seconds: float, begins: str = ""
) -> list[tuple[int, str, int, float]]:
    """Status, name, number and seconds of each picture: sent when it is due, whatever became of others.

    begins: of all names, which are keys: what was sent before is not judged again.
    """
    found: list[tuple[int, str, int, float]] = []
    how: Any = {"timeout": 120, "limits": httpx.Limits(max_connections=None, max_keepalive_connections=64)}
    clients = [httpx.AsyncClient(base_url=f"{url}/api/v1/", **how) for _ in range(CLIENTS)]

    async def send(client: httpx.AsyncClient, name: str, place: int) -> None:
        headers = {"Idempotency-Key": name, "Content-Type": "image/png"}
        began = time.perf_counter()
        try:
            data = fresh(pictures, name, place)
            answer = await client.post(INSPECTIONS, params={"name": name}, content=data, headers=headers)
            number = answer.json().get("id", 0)
            found.append((answer.status_code, name, number, time.perf_counter() - began))
        except httpx.TransportError as error:
            found.append((0, f"{name} {type(error).__name__}", 0, time.perf_counter() - began))

    async def client_of(which: int) -> None:
        begin, tasks = time.perf_counter(), set[asyncio.Task[None]]()
        for place in range(int(seconds * rate / CLIENTS)):
            due = begin + (place + which / CLIENTS) * CLIENTS / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(send(clients[which], f"{begins}{which}-{place}", place))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    await asyncio.gather(*(client_of(which) for which in range(CLIENTS)))
    for client in clients:
        await client.aclose()
    return found


def load(args: Args, kind: str, model: Path, pictures: list[bytes]) -> Cell:
    seconds = 60 * args.minutes
    alone = {"model": model, "folder": args.folder, "threads": args.threads, "seconds": min(20.0, seconds)}
    before = common.run_function(bare, **alone).json["rate"]
    memory: list[tuple[float, int]] = []
    with station(args, kind, model) as served:
        served.start()
        ended, began = threading.Event(), time.perf_counter()

        def watch() -> None:
            while not ended.wait(min(2.0, seconds / 20)):
                memory.append((time.perf_counter() - began, resident(served)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        found = asyncio.run(storm(served.url, pictures, TWICE * before, seconds))
        took = time.perf_counter() - began
        ended.set()
        watcher.join()
        there = {one["id"]: one["name"] for one in helpers.everything(served.url)}
        end(served)
    after = common.run_function(bare, **alone).json["rate"]
    answered = {number: name for status, name, number, _ in found if status in (200, 201)}
    warm = [held / MIB for at, held in memory if at > took / 5] or [held / MIB for _, held in memory]
    return {
        "sent": len(found),
        "statuses": {str(k): v for k, v in sorted(Counter(status for status, *_ in found).items())},
        "neither": sum(status not in (200, 201, 503) for status, *_ in found),
        "not_there": sum(there.get(number) != name for number, name in answered.items()),
        "there_unanswered": len(there.keys() - answered.keys()),
        "bare_per_second": [common.round_to(before), common.round_to(after)],
        "answered_per_second": common.round_to(len(answered) / took),
        "of_bare": common.round_to(len(answered) / took / ((before + after) / 2), 4),
        "answer": common.p50_p99([s for status, _, _, s in found if status == 201] or [0.0]),
        "refusal": common.p50_p99([s for status, _, _, s in found if status == 503] or [0.0]),
        "resident_mib": [held // MIB for _, held in memory[:: max(1, len(memory) // 60)]],
        "growth_mib": round(statistics.mean(warm[-5:]) - statistics.mean(warm[:5]), 1),
    }


# --------------------------------------------------------------------------------------------------- learning


def learning(args: Args, kind: str, model: Path, pictures: list[bytes]) -> Cell:
    """Answer what comes before a new product is learnt, and meanwhile, three times."""
    seconds = 6 * args.minutes
    alone = {"model": model, "folder": args.folder, "threads": args.threads, "seconds": min(20.0, seconds)}
    rate = TWICE * common.run_function(bare, **alone).json["rate"]
    new, stages, before, during = "/api/v1/new", [], [], []

    def learns(state: Any) -> bool:
        return state["stage"] == "running" and bool(state["step"])

    def answered() -> float:
        part = f"{len(before) + len(during)}-"
        found = asyncio.run(storm(served.url, pictures, rate, seconds, part))
        return sum(status == 201 for status, *_ in found) / seconds

    with station(args, kind, model) as served:
        served.start()
        with httpx.Client(base_url=served.url, timeout=120) as http:
            http.post(new, json={"name": "learnt"}).raise_for_status()
            for place, picture in enumerate(pictures[:40]):
                sent = http.post(f"{new}/learnt/pictures", params={"name": f"{place}.png"}, content=picture)
                sent.raise_for_status()
            for _ in range(3):  # in turn: other programs of the machine slow down both
                before.append(answered())
                how = {"method": "efficientad", "minutes": 600}
                http.post(f"{new}/learnt/learn", json=how).raise_for_status()
                helpers.until(lambda: learns(http.get(f"{new}/learnt").json()))
                during.append(answered())
                stages.append(http.get(f"{new}/learnt").json()["stage"])
                http.post(f"{new}/learnt/stop").raise_for_status()
                helpers.until(lambda: http.get(f"{new}/learnt").json()["stage"] == "stopped")
        end(served)
    return {
        "answered_per_second": [common.round_to(one) for one in before],
        "while_learning": [common.round_to(one) for one in during],
        "of_undisturbed": common.round_to(sum(during) / sum(before), 4),
        "learnt_throughout": stages == ["running"] * 3,
    }


# ------------------------------------------------------------------------------------------------------- kill


def goes_on(load: Load, rng: random.Random) -> None:
    """Wait until something more was answered, and up to a second."""
    before, patience = len(load.taken), time.monotonic() + 60
    while len(load.taken) == before and time.monotonic() < patience:
        time.sleep(0.01)
    time.sleep(rng.random())


def kill(args: Args, kind: str, model: Path, pictures: list[bytes]) -> Cell:
    rng, starts = random.Random(7), []
    with station(args, kind, model) as served:
        load = Load(served.url, pictures, CLIENTS)
        starts.append(common.seconds(served.start))
        load.start()
        for _ in range(args.kills):
            goes_on(load, rng)
            served.kill()
            starts.append(common.seconds(served.start))
        load.end()
        lost, doubles = helpers.missing(served.url, load)
        count = len(helpers.everything(served.url))
        store = Path(served.words[served.words.index("--station") + 1])
        left = len(list(store.rglob("*.part")))
    return {
        "kills": args.kills,
        "acknowledged": len(load.taken),
        "in_store": count,
        "lost": len(lost),
        "doubles": doubles,
        "odd": load.odd[:5],
        "half_written": left,
        "starts": len(starts) - 1,
        "start": common.p50_p99(starts),
    }


# ----------------------------------------------------------------------------------------------------- outage


def outage(args: Args, kind: str, model: Path, pictures: list[bytes]) -> Cell:
    rng = random.Random(11)
    with (
        helpers.running_postgres(durable=True) as cluster,
        cluster.database() as url,
        station(args, "sqlite", model, "--database", url) as served,
    ):
        served.start()
        load = Load(served.url, pictures, CLIENTS)
        load.start()
        for _ in range(args.outages):
            goes_on(load, rng)
            cluster.stop("immediate")
            cluster.start()
        load.end()
        lost, doubles = helpers.missing(served.url, load)
    found = {"outages": args.outages, "acknowledged": len(load.taken), "lost": len(lost)}
    return found | {"doubles": doubles, "odd": load.odd[:5]}


# ----------------------------------------------------------------------------------------------------- tables


def rows(step: str, kind: str, cell: Cell) -> list[Cell]:
    """What was found beside what it has to be."""

    def row(what: str, found: Any, least: str, good: bool) -> Cell:
        return {"store": kind, "what": what, "found": found, "target": least, "": "" if good else "MISSED"}

    def none(what: str, count: int) -> Cell:
        return row(what, count, "0", count == 0)

    if step == "overhead":
        found = [row("predict, median, ms", common.to_ms(cell["predict"]), "", True)]
        for name, limit in ADDED.items():
            added = 1000 * cell["added"][name]
            text = common.round_to(added, 3)
            found.append(row(f"added, {name}, ms", text, f"<= {limit:g}", added <= limit))
        return found
    if step == "load":
        share = cell["of_bare"]
        return [
            none("neither answered nor refused", cell["neither"]),
            none("answered and not in the store", cell["not_there"]),
            none("in the store and not answered", cell["there_unanswered"]),
            row("answered / bare predict", share, f">= {THROUGHPUT}", share >= THROUGHPUT),
            row("memory grows, MiB", cell["growth_mib"], "flat: <= 30", cell["growth_mib"] <= 30),
            row("refusal, 99 %, ms", common.round_to(1000 * cell["refusal"]["p99"], 3), "", True),
        ]
    if step == "learning":
        share = cell["of_undisturbed"]
        is_kept = share >= WHILE_LEARNING and cell["learnt_throughout"]
        return [row("answered while learning / undisturbed", share, f">= {WHILE_LEARNING}", is_kept)]
    if step == "kill":
        started = cell["starts"] == cell["kills"]
        return [
            row("acknowledged", cell["acknowledged"], "", True),
            *(none(what, cell[what]) for what in ("lost", "doubles")),
            row("starts", cell["starts"], f"{cell['kills']}", started and not cell["odd"]),
            row("start, median, s", common.round_to(cell["start"]["median"], 3), "", True),
        ]
    counts = [none(what, cell[what]) for what in ("lost", "doubles")]
    return [row("acknowledged", cell["acknowledged"], "", True), *counts, none("odd", len(cell["odd"]))]


STEPS: dict[str, Callable[..., Cell]] = {
    one.__name__: one for one in (overhead, load, learning, kill, outage)
}


def main() -> int:
    parser = common.make_parser(__doc__, "station", data=False)
    parser.add_argument("--only", default=",".join(STEPS), help="default: %(default)s")
    parser.add_argument("--stores", default="sqlite,postgresql", help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=10.0, help="of load (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--outages", type=int, default=20, help="of PostgreSQL (default: %(default)s)")
    parser.set_defaults(size="256", side=512, repeats=500)
    quick = {"size": "64", "side": 96, "repeats": 20}
    args = common.parse_arguments(parser, threads=1, minutes=0.1, kills=2, outages=2, **quick)
    record = Record(args, "the station: overhead, load, kill -9")
    missed = False
    with common.workspace(args.work) as work:
        model, pictures = made(args, work)
        args.folder = work / "plate" / "test"
        for step in args.only.split(","):
            table: list[Cell] = []
            for kind in ["postgresql"] if step == "outage" else args.stores.split(","):
                work_of = partial(STEPS[step], args, kind, model, pictures)
                found = record.attempt(f"{step}/{kind}", work_of)
                table += rows(step, kind, found) if found else []
            common.print_table(step, table)
            missed |= any(row[""] for row in table)
    return record.status() or int(missed)


if __name__ == "__main__":
    sys.exit(common.run_script(main))
