"""A station that gets more than it can bear: connections, half uploads, huge pictures, too many pictures.

    python bench/station_overload.py
    python bench/station_overload.py --only flood,products --seconds 30

PatchCore is fitted on drawn plates and exported; the station is `flawscope serve` in a process of its own,
on SQLite, with two products and a token, and 1,024 files at most, as a shell gives them.

half_open   1,100 connections that send half a head and are opened again when they are closed; meanwhile a
            client with a token asks, sends pictures, and opens connections, and somebody asks /readyz
half_sent   15 requests of 90 MB of which half is sent; memory, and ordinary pictures meanwhile
pixels      six PNG files of 177 megapixels at once; memory, and ordinary pictures meanwhile
flood       twice as many pictures as are judged in a second, each to be answered within a second
products    one product is flooded, the other one gets a picture now and then
"""

from __future__ import annotations

import asyncio
import http.client
import resource
import socket
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from struct import pack

import httpx

import common
import station as lone
from common import MIB, Args, Cell, Record

FILES, SOCKETS = 1024, 1100
UPLOADS, UPLOAD = 15, 90 * MIB
LARGE, SIDE = 6, 13300  # pictures, pixels
DEADLINE = 1000  # milliseconds


@contextmanager
def station(model: Path) -> Iterator[tuple[lone.Served, dict[str, str]]]:
    """One that runs, and the headers of who may send to it."""
    with common.workspace(None) as folder:
        settings = folder / "station.yaml"
        settings.write_text(f"products:\n  plate: {model}\n  other: {model}\nstore: store\ndevice: cpu\n")
        words = ("station", "token", "add", "line", "--role", "operator", "--settings", settings)
        token = common.flawscope(*words).stdout.split()[-1]
        served = lone.Served([str(settings)], lone.helpers.free_port())
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, before[1]))  # the station inherits it
        try:
            served.start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
        try:
            yield served, {"Authorization": f"Bearer {token}"}
        finally:
            lone.end(served)


class Asked:
    """Somebody who asks for something again and again, and how long it took."""

    def __init__(self, ask: Callable[[], int], pause: float):
        self.ask, self.pause = ask, pause
        self.times: list[float] = []
        self.failed: Counter[str] = Counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            began = time.perf_counter()
            try:
                status = self.ask()
            except Exception as error:
                self.failed[type(error).__name__] += 1
            else:
                if status not in (200, 201):
                    self.failed[str(status)] += 1
            self.times.append(time.perf_counter() - began)
            if self._ended.wait(self.pause):
                return

    def end(self) -> Cell:
        self._ended.set()
        self._thread.join()
        return {"slowest": common.sig(max(self.times), 3), **common.spread(self.times), "failed": self.failed}


def ask(served: lone.Served, path: str, headers: dict[str, str]) -> int:
    """With a connection of its own."""
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as client:
        client.request("GET", path, headers=headers)
        return client.getresponse().status


@contextmanager
def watched(
    served: lone.Served, headers: dict[str, str], pictures: list[bytes], found: Cell
) -> Iterator[None]:
    """What others see of the station meanwhile, and the most memory that it holds."""
    posted, place = f"/api/v1/{lone.INSPECTIONS}", iter(range(10**9))

    def post(client: httpx.Client) -> int:
        number = next(place)
        data = lone.fresh(pictures, f"w{number}", number)
        return client.post(posted, content=data, headers={"Content-Type": "image/png"}).status_code

    base = lone.resident(served)
    with httpx.Client(base_url=served.url, headers=headers, timeout=60) as kept:
        for _ in range(5):
            post(kept)
        several = {
            "readyz": Asked(lambda: ask(served, "/readyz", {}), 0.25),
            "page": Asked(lambda: kept.get("/api/v1/status").status_code, 0.25),
            "connects": Asked(lambda: ask(served, "/api/v1/status", headers), 0.25),
            "picture": Asked(lambda: post(kept), 0.25),
        }
        ended, held = threading.Event(), [lone.resident(served)]

        def watch() -> None:
            while not ended.wait(0.02):
                held.append(lone.resident(served))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            found["asked"] = {name: one.end() for name, one in several.items()}
            ended.set()
            watcher.join()
            found["resident_mib"] = {"before": base // MIB, "most": max(held) // MIB}
            found["log_bytes"] = len(served.said().encode())


def half_open(args: Args, model: Path, pictures: list[bytes]) -> Cell:
    found: Cell = {"sockets": SOCKETS, "files": FILES}
    with station(model) as (served, headers), watched(served, headers, pictures, found):
        asyncio.run(_half_open(served.port, args.seconds, found))
    return found


async def _half_open(port: int, seconds: float, found: Cell) -> None:
    opened: Counter[str] = Counter()

    async def hold() -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                opened["opened"] += 1
                writer.write(b"GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ")
                with suppress(OSError):
                    await reader.read()
                writer.close()
            opened["closed"] += 1
            await asyncio.sleep(1)

    tasks = [asyncio.create_task(hold()) for _ in range(SOCKETS)]
    await asyncio.sleep(seconds)
    found |= opened
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def half_sent(args: Args, model: Path, pictures: list[bytes]) -> Cell:
    found: Cell = {"uploads": UPLOADS, "mib": UPLOAD // MIB}
    with station(model) as (served, headers), watched(served, headers, pictures, found):
        answers: Counter[str] = Counter()
        ended = threading.Event()

        def send() -> None:
            lines = [f"POST /api/v1/{lone.INSPECTIONS} HTTP/1.1", f"Host: 127.0.0.1:{served.port}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            lines += ["Content-Type: image/png", f"Content-Length: {UPLOAD}", "", ""]
            with socket.create_connection(("127.0.0.1", served.port), timeout=60) as sender:
                began = time.perf_counter()
                try:
                    sender.sendall("\r\n".join(lines).encode())
                    for _ in range(UPLOAD // 2 // MIB):
                        sender.sendall(bytes(MIB))
                except OSError:
                    pass  # it has answered, and reads no more
                sender.settimeout(0.1)
                said = b""
                while not said and not ended.is_set():
                    try:
                        said = sender.recv(1000) or b"?? closed"
                    except TimeoutError:
                        continue
                    except OSError:
                        said = b"?? reset"
                answers[said[9:12].decode() if said else "none"] += 1
                found["last_answer_seconds"] = common.sig(time.perf_counter() - began, 3)

        threads = [threading.Thread(target=send) for _ in range(UPLOADS)]
        for thread in threads:
            thread.start()
        time.sleep(args.seconds)
        ended.set()
        for thread in threads:
            thread.join()
        found["answers"] = dict(answers)
    return found


def large_png(side: int) -> bytes:
    """A grey-blue square of so many pixels, in colour."""
    line, packer = b"\0" + b"\x60\x70\x80" * side, zlib.compressobj(9)
    rows = b"".join(packer.compress(line) for _ in range(side)) + packer.flush()
    parts = ((b"IHDR", pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    chunks = (pack(">I", len(d)) + k + d + pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def pixels(args: Args, model: Path, pictures: list[bytes]) -> Cell:
    data = large_png(args.large)
    found: Cell = {"pictures": LARGE, "megapixels": args.large**2 / 1e6, "bytes": len(data)}
    with station(model) as (served, headers), watched(served, headers, pictures, found):
        times: list[float] = []
        answers: Counter[int] = Counter()

        def send(number: int) -> None:
            began = time.perf_counter()
            there = f"{served.url}/api/v1/{lone.INSPECTIONS}"
            given = {"content": data + bytes([number]), "headers": headers | {"Content-Type": "image/png"}}
            answers[httpx.post(there, timeout=300, **given).status_code] += 1
            times.append(time.perf_counter() - began)

        threads = [threading.Thread(target=send, args=(number,)) for number in range(LARGE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found |= {"answers": dict(answers), "seconds": common.spread(times)}
    return found


def flood(args: Args, model: Path, pictures: list[bytes]) -> Cell:
    found: Cell = {"deadline": DEADLINE}
    with station(model) as (served, headers):
        capacity = _capacity(served, headers, pictures, args.seconds / 2)
        found |= {"per_second": common.sig(capacity, 4), "sent_per_second": common.sig(2 * capacity, 4)}
        query = {"deadline": DEADLINE}
        answers = asyncio.run(_storm(served, headers, pictures, 2 * capacity, args.seconds, query))
        good = [took for status, took in answers if status == 201]
        rest = [took for status, took in answers if status != 201]
        time.sleep(1)
        with httpx.Client(base_url=f"{served.url}/api/v1/", headers=headers, timeout=60) as client:
            totals = client.get("products/plate").json()
        found |= {
            "statuses": {str(k): v for k, v in sorted(Counter(status for status, _ in answers).items())},
            "in_time_per_second": common.sig(sum(took <= DEADLINE / 1000 for took in good) / args.seconds, 4),
            "answered": common.spread(good or [0.0]),
            "refused": common.spread(rest or [0.0]),
            "judged": totals.get("inspections", totals.get("total")),
        }
    return found


def _capacity(served: lone.Served, headers: dict[str, str], pictures: list[bytes], seconds: float) -> float:
    """Pictures a second with eight that wait for each other."""
    count, end = iter(range(10**9)), time.monotonic() + seconds
    done: list[float] = []

    def send() -> None:
        with httpx.Client(base_url=f"{served.url}/api/v1/", headers=headers, timeout=60) as client:
            while time.monotonic() < end:
                number = next(count)
                data = lone.fresh(pictures, f"c{number}", number)
                if client.post(lone.INSPECTIONS, content=data).status_code == 201:
                    done.append(time.monotonic())

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    late = [at for at in done if at > end - seconds * 0.8]
    return max(1.0, len(late) / (seconds * 0.8))


async def _storm(
    served: lone.Served,
    headers: dict[str, str],
    pictures: list[bytes],
    rate: float,
    seconds: float,
    query: dict[str, int],
) -> list[tuple[int, float]]:
    """Status and seconds of each; sent when it is due, whatever became of others."""
    found: list[tuple[int, float]] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    base = f"{served.url}/api/v1/"

    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=120, limits=limits) as client:

        async def send(number: int) -> None:
            began = time.perf_counter()
            data = lone.fresh(pictures, f"s{number}", number)
            try:
                answer = await client.post(lone.INSPECTIONS, params=query, content=data)
                found.append((answer.status_code, time.perf_counter() - began))
            except httpx.TransportError:
                found.append((0, time.perf_counter() - began))

        begin, tasks = time.perf_counter(), []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(send(number)))
        await asyncio.gather(*tasks)
    return found


def products(args: Args, model: Path, pictures: list[bytes]) -> Cell:
    found: Cell = {}
    with station(model) as (served, headers):
        capacity = _capacity(served, headers, pictures, args.seconds / 2)
        place = iter(range(10**9))
        with httpx.Client(base_url=f"{served.url}/api/v1/", headers=headers, timeout=120) as client:

            def other() -> int:
                number = next(place)
                data = lone.fresh(pictures, f"o{number}", number)
                return client.post("products/other/inspections", content=data).status_code

            quiet = [common.seconds(other) for _ in range(10)]
            asked = Asked(other, 0.5)
            answers = asyncio.run(_storm(served, headers, pictures, 2 * capacity, args.seconds, {}))
            found |= {
                "sent_per_second": common.sig(2 * capacity, 4),
                "flooded": {str(k): v for k, v in sorted(Counter(status for status, _ in answers).items())},
                "quiet": common.spread(quiet),
                "other": asked.end(),
            }
    return found


STEPS = {one.__name__: one for one in (half_open, half_sent, pixels, flood, products)}


def main() -> int:
    parser = common.parser(__doc__, "station_overload", data=False)
    parser.add_argument("--only", default=",".join(STEPS), help="default: %(default)s")
    parser.add_argument("--size", default="256", help="that the model sees (default: %(default)s)")
    parser.add_argument("--side", type=int, default=512, help="of the pictures (default: %(default)s)")
    parser.add_argument(
        "--large", type=int, default=SIDE, help="side of the large ones (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each (default: %(default)s)")
    args = common.arguments(parser, size="64", side=96, seconds=2.0, large=4000)
    record = Record(args, "the station: too many connections, bytes, pixels and pictures")
    with common.workspace(args.work) as work:
        model, pictures = lone.made(args, work)
        for step in args.only.split(","):
            found = record.attempt(step, lambda step=step: STEPS[step](args, model, pictures))
            if found:
                common.say(f"{step}: {found}")
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
