"""A station after years: what do its pages, scrapes, sinks, learning and retention cost with N inspections?

    python bench/years.py
    python bench/years.py --parts 10000,100000

The station's own first parts are copied by SQL, N in all over 20 products and two years, a twentieth flagged,
a hundredth reviewed; a webhook of each product answers nothing, so that all of it waits there. Then the
station is opened in this process and asked; each time is the median of three, in milliseconds of the
processor, the client's among them, after a first one that is measured by itself; `transaction` is the longest
write meanwhile, on the clock. Before, the test of drift reads the last parts, as after each start: `drift_s`.
"""

from __future__ import annotations

import json
import resource
import secrets
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

import common
from common import Args, Cell, Record

sys.path.insert(0, str(common.ROOT / "station" / "tests"))

from flawscope_station.cli.serve import SWITCH_INTERVAL
from flawscope_station.learning.candidates import Learning
from flawscope_station.settings.station import ProductSettings, RetentionSettings, Settings
from flawscope_station.store.database import Database
from learning_helpers import drawn_part
from sink_helpers import make_sink
from station_helpers import Listening, Running, opened, recorded

MODEL = common.ROOT / "tests/fixtures/models/patchcore-two-sizes.onnx"
PRODUCTS, YEARS = 20, 2
MICROSECONDS = YEARS * 365 * 86400 * 1_000_000
REPEATS = 3
LIMIT, LONGEST = 300.0, 50.0  # milliseconds: of the processor for a page; of a write transaction


def settings_of(store: Path) -> Settings:
    sink = make_sink(webhook="http://127.0.0.1:9/")
    products = {f"p{k:02}": ProductSettings(str(MODEL), sinks=(sink,)) for k in range(PRODUCTS)}
    # none is removed before it is asked for
    keep = RetentionSettings(*[10 * 365 * 86400.0] * 4)
    return Settings(products, store=str(store), device="cpu", threads=1, port=0, keep=keep)


def first_parts(running: Running) -> None:
    """Let each product judge one good part: its row is copied."""
    data = drawn_part(0)
    with httpx.Client(base_url=running.url, timeout=120) as http:
        for name in running.station.products:
            http.post(f"/api/v1/products/{name}/inspections", content=data).raise_for_status()


def fill(store: Path, count: int) -> None:
    """Copy each product's first part until there are `count` of all: in the order of the tables' keys, the
    indexes made anew at the end, for one that grows row by row takes hours."""
    each, path = count // PRODUCTS, store / "station.sqlite"
    with closing(sqlite3.connect(path)) as small:  # the station may have a connection to this file yet
        small.execute("VACUUM INTO ?", [str(store / "filled")])
    for old in store.glob("station.sqlite*"):
        old.unlink()
    (store / "filled").rename(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as made:
        for setting in ("journal_mode = OFF", "synchronous = OFF", "foreign_keys = OFF"):
            made.execute(f"PRAGMA {setting}")
        made.execute("PRAGMA cache_size = -1000000")
        (end,) = made.execute("SELECT MAX(at) FROM inspections").fetchone()
        (last,) = made.execute("SELECT MAX(id) FROM inspections").fetchone()
        made.execute("CREATE TEMP TABLE n (i INTEGER PRIMARY KEY, at INTEGER)")
        made.execute(
            "INSERT INTO n WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?1)"
            " SELECT i, ?2 + i * (?3 / ?1) FROM c",
            [each, end - MICROSECONDS, MICROSECONDS],
        )
        made.execute(  # the first part of each product
            "CREATE TEMP TABLE first AS SELECT ROW_NUMBER() OVER (ORDER BY product_id) - 1 AS place, *"
            " FROM inspections WHERE id IN (SELECT MIN(id) FROM inspections GROUP BY product_id)"
        )
        names = [row[1] for row in made.execute("PRAGMA table_info(inspections)")]
        hash_ = "printf('%02d%062d', first.place, n.i)"
        own = {
            "id": f"{last} + 1 + (n.i - 1) * {PRODUCTS} + first.place",
            "picture": hash_,
            "at": "n.at",
            "name": "'part' || n.i || '.png'",
            "score": "first.score * (0.5 + (n.i * 7919 % 1000) / 1000.0)",
            "anomalous": "n.i % 20 = 0",
            "review": "CASE WHEN n.i % 100 = 0 THEN 'done' WHEN n.i % 2000 = 20 THEN 'waiting'"
            " ELSE 'none' END",
            "verdict": "CASE WHEN n.i % 100 = 0 THEN 'good' END",
            "part": "'P' || n.i",
        }
        filled = ("pictures", "inspections", "verdicts")
        indexes = made.execute(
            "SELECT name, sql FROM sqlite_master"
            f" WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN {filled}"
        ).fetchall()
        for name, _ in indexes:
            made.execute(f"DROP INDEX {name}")
        made.execute(
            "INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at, pixels)"
            f" SELECT first.product_id, {hash_}, '.png', 30000, 96, 96, n.at, {hash_}"
            " FROM first CROSS JOIN n"
        )
        values = ", ".join(own.get(name, f"first.{name}") for name in names)
        made.execute(f"INSERT INTO inspections ({', '.join(names)}) SELECT {values} FROM n CROSS JOIN first")
        made.execute(
            "INSERT INTO verdicts (inspection_id, product_id, verdict, at, who, note)"
            " SELECT id, product_id, verdict, at, 'anna', '' FROM inspections WHERE verdict IS NOT NULL"
        )
        made.execute("DELETE FROM hours")
        made.execute(
            "INSERT INTO hours SELECT product_id, version_id, at / 3600000000, COUNT(*),"
            " SUM(anomalous), 0, 0, SUM(score), MIN(score), MAX(score), SUM(verdict IS NOT NULL), 0,"
            " CAST(TOTAL(anomalous AND verdict = 'good') AS INTEGER), 0"
            " FROM inspections GROUP BY product_id, version_id, at / 3600000000"
        )
        for _, sql in indexes:
            made.execute(sql)
        made.execute("PRAGMA analysis_limit = 1000")
        made.execute("ANALYZE")
        made.execute("PRAGMA journal_mode = WAL")


@contextmanager
def watched_writes(found: list[float]) -> Iterator[None]:
    """Note how long each write transaction takes."""
    before = {name: getattr(Database, name) for name in ("writing", "writing_unchecked")}

    def timed(write: Callable[..., Any]) -> Any:
        @contextmanager
        def noted(self: Database) -> Iterator[Any]:
            with write(self) as connection:
                begun = time.monotonic()
                yield connection
            found.append(time.monotonic() - begun)

        return noted

    for name, write in before.items():
        setattr(Database, name, timed(write))
    try:
        yield
    finally:
        for name, write in before.items():
            setattr(Database, name, write)


def cost(work: Callable[[], object]) -> Cell:
    times, writes = [], list[float]()
    with watched_writes(writes):
        for _ in range(REPEATS + 1):
            begun = time.process_time()
            work()
            times.append(1000 * (time.process_time() - begun))
    return {
        "first_ms": round(times[0], 1),
        "median_ms": round(statistics.median(times[1:]), 1),
        "transaction_ms": round(1000 * max(writes, default=0.0), 1),
    }


def asked(running: Running) -> dict[str, Callable[[], object]]:
    """What people and programs ask, by name."""
    station, http = running.station, httpx.Client(base_url=running.url, timeout=600)
    name = next(iter(station.products))
    newest = recorded(station, name)[0]

    def get(path: str) -> Callable[[], object]:
        return lambda: http.get(path).raise_for_status()

    pages = ("live", "review", "history", "trends", "models", "challenge", f"inspections/{newest['id']}")
    found = {f"page {page.partition('/')[0]}": get(f"/{name}/{page}") for page in pages}
    found |= {
        "page audit": get("/-/audit"),
        "API: search, a part": get(f"/api/v1/products/{name}/inspections?part={newest['part']}"),
        "API: search, flagged": get(f"/api/v1/products/{name}/inspections?decision=anomalous&limit=100"),
        "scrape /metrics": get("/metrics"),
        "/readyz": get("/readyz"),
        "API: a product": get(f"/api/v1/products/{name}"),
        "API: learning": get(f"/api/v1/products/{name}/learning"),
        "API: the promise": get(f"/api/v1/products/{name}/promise"),
        "learning, a look": station.components[Learning]._look,
        "sinks' backlog": station.sinks.gauges,
        "retention, an hour's": station.housekeeping._remove_old,
        "removal of a version": removal(running, name),
    }
    return found


def removal(running: Running, name: str) -> Callable[[], object]:
    """Add versions that were never used, of the model that judges; return how to remove the next one."""
    versions, product = running.station.versions, running.station.products[name]
    model, found = versions.active_row(product), list[int]()
    assert model is not None
    for _ in range(REPEATS + 2):  # the newest stays
        new = {"hash": secrets.token_hex(32), "file": model.file, "origin": "a copy"}
        with versions.database.writing() as connection:
            manifest = versions.active(product)[1].manifest
            found.append(
                versions._insert(connection, product, new, "bench", json.loads(model.facts), manifest)
            )
    left = iter(found)
    return lambda: versions.remove(product, next(left))


def wait_for_drift(running: Running) -> float:
    """Wait until the test of drift has read the last parts of all products, as after each start; return the
    seconds of the processor."""
    begun = time.process_time()
    with httpx.Client(base_url=running.url, timeout=600) as http:
        for name in running.station.products:
            while not http.get(f"/api/v1/products/{name}/drift").raise_for_status().json()["ready"]:
                time.sleep(1.0)
    return round(time.process_time() - begun, 1)


def years(parts: int, kept: Path | None) -> Cell:
    sys.setswitchinterval(SWITCH_INTERVAL)
    with common.workspace(kept) as work:
        store, filled = work / f"store-{parts}", None
        if not store.exists():
            made = work / f"made-{parts}"
            running = opened(settings_of(made), Listening)
            first_parts(running)
            running.close()
            begun = time.monotonic()
            fill(made, parts)
            filled = round(time.monotonic() - begun, 1)
            made.rename(store)
        begun = time.process_time()
        running = opened(settings_of(store), Listening)
        found: Cell = {"parts": parts, "fill_s": filled, "gb": round(size(store) / 1e9, 2)}
        found["start_ms"] = round(1000 * (time.process_time() - begun), 1)
        try:
            with watched_writes(writes := list[float]()):  # statistics, too, and retention's first run
                found["drift_s"] = wait_for_drift(running)
            found["start_transaction_ms"] = round(1000 * max(writes, default=0.0), 1)
            before = memory()
            found["asked"] = {name: cost(work) for name, work in asked(running).items()}
            found["memory_grows_mib"] = round(memory() - before, 1)
            sent, data = list[float](), [drawn_part(seed) for seed in range(1, 12)]
            with httpx.Client(base_url=running.url, timeout=120) as http:
                for one in data:
                    began = time.monotonic()
                    http.post("/api/v1/products/p00/inspections", content=one).raise_for_status()
                    sent.append(1000 * (time.monotonic() - began))
            found["answer_ms"] = round(statistics.median(sent), 1)
        finally:
            running.close()
    return found


def size(store: Path) -> int:
    return (store / "station.sqlite").stat().st_size


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = common.make_parser(__doc__, "years", data=False)
    parser.add_argument("--parts", default="2000,100000,1000000,10000000", help="default: %(default)s")
    args: Args = common.parse_arguments(parser, parts="1000")
    record, missed = Record(args, "a station after years"), False
    for parts in common.ints(args.parts):
        if (found := record.attempt(f"{parts}", partial(years, parts, args.work))) is None:
            continue
        table = [
            {"": name, **one, "!": "MISSED" * (one["median_ms"] > LIMIT or one["transaction_ms"] > LONGEST)}
            for name, one in found["asked"].items()
        ]
        common.print_table(f"{parts:,} inspections", table)
        missed |= any(row["!"] for row in table)
    return record.status() or int(missed)


if __name__ == "__main__":
    sys.exit(common.run_script(main))
