"""Whatever a station asks its database is found by an index: no question reads a whole table that grows."""

import json
import re
from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, Engine, event, inspect, text

from flawscope_station.access.audit import trim_events
from flawscope_station.learning.candidate_plan import draw_good_pictures, read_verdicts
from flawscope_station.settings.station import RetentionSettings
from flawscope_station.store import line_alarms, throughput
from flawscope_station.store.database import Database, now
from flawscope_station.store.files import MASKS, MODELS, PICTURES, StrayFiles
from flawscope_station.store.filters import FILTERS
from flawscope_station.store.search import Filters, iterate_pages, search, summarize_period, trends
from sink_helpers import make_sink
from station_helpers import NAME, until

pytestmark = pytest.mark.both_databases

ROWS = 20_000
GROWING = ("inspections", "pictures", "verdicts", "events", "views", "hours")
WALKS = re.compile(
    r"ORDER BY .*\bLIMIT\b", re.IGNORECASE | re.DOTALL
)  # in the order of an index, and ended by its number of rows

# all that a product has, but hours, challenge parts that were shown, and what waits for a verdict, which
# SQLite sorts now and then; its first and last are found at once
BOUNDED = "INDEX inspections_(?:challenge|waiting)"
OF_A_PRODUCT = re.compile(rf"SEARCH ({'|'.join(GROWING[:-1])}) USING (?!{BOUNDED}).*\(product_id=\?\)$")
AT_AN_END = re.compile(r"SELECT (min|max)\([\w.]+\) AS \w+ \nFROM \w+ \nWHERE \w+\.product_id = \?$")
# a product of which there is an inspection: the first that is found ends it
IS_THERE = re.compile(r"SELECT products\.[^()]* \nFROM products \nWHERE .*\bEXISTS \(SELECT ", re.DOTALL)
# once an hour, in turns: the bytes of all pictures, for `keep: space` alone, and which events are too many;
# once a start: what `keep` would remove
HOURLY = re.compile(
    r"SELECT (coalesce\(sum\(anon_1.bytes\)|events.id \nFROM events \nWHERE \(?events.kind|"
    r"count\(\*\) AS count_1, coalesce\(sum\(pictures.bytes)"
)


class Asked:
    """Questions that are asked of a database, each with parameters."""

    def __init__(self) -> None:
        self.questions: dict[str, Any] = {}

    def note(self, connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if statement.split(None, 1)[0].upper() in ("SELECT", "UPDATE", "DELETE", "WITH"):
            given = parameters[0] if isinstance(parameters, list) and parameters else parameters
            self.questions.setdefault(statement, given)


@pytest.fixture(name="asked")
def asked_fixture():
    made = Asked()
    event.listen(Engine, "before_cursor_execute", made.note)
    yield made
    event.remove(Engine, "before_cursor_execute", made.note)


def ask_everything(running: Any, parts: list[bytes]) -> None:
    """Do once what a station does: inspect, show, count, review, learn, deliver, remove."""
    station, product = running.station, running.station.products[NAME]
    with httpx.Client(base_url=f"{running.url}/api/v1", timeout=60) as api:
        made = []
        for k, part in enumerate(parts[:3] + parts[-3:]):
            asked, key = {"part": f"47{k}", "batch": "b", "name": f"{k}.png"}, {"Idempotency-Key": f"{k}"}
            answer = api.post(f"/products/{NAME}/inspections", params=asked, headers=key, content=part)
            assert answer.status_code == 201, answer.text
            made.append(answer.json()["id"])
        for number, verdict in zip(made[-2:], ("good", "defect"), strict=True):
            asked = f"/products/{NAME}/inspections/{number}/verdict"
            assert api.post(asked, json={"verdict": verdict}).status_code == 200
            api.post(asked, json={"verdict": "undo"})
            api.post(asked, json={"verdict": verdict}, headers={"Idempotency-Key": "v"})
        for path in httpx_paths(api.get("/openapi.json").json()):
            api.get(path.replace("{name}", NAME).replace("{number}", f"{made[-1]}"))
        for page in ("", "/history", "/trends", "/review", "/models", "/problems", "/export"):
            httpx.get(f"{running.url}/{NAME}{page}", timeout=60)
        httpx.get(f"{running.url}/metrics", timeout=60)
    station.store.set_unanswered(made[0], "late")
    for asked in ({}, {"since": TIMES[0], "until": TIMES[1]}, *every_filter()):
        search(station.database, product, Filters.from_query(asked))
    list(iterate_pages(station.database, product, Filters()))
    trends(station.database, product, 0, now())
    summarize_period(station.database, product, 0, now())
    line_alarms.count_parts(station.database, product, 1)
    throughput.pictures_a_day(station.database, product)
    throughput.reviewed_defects(station.database, product, [1])
    with station.database.reading() as connection:
        read_verdicts(connection, product)
        draw_good_pictures(connection, product, 3, 0)
    boxes = [box for one in station.sinks.deliveries for box in one.outboxes]
    until(lambda: not any(box.waiting() for box in boxes))
    trim_events(station.database)
    station.store.has_picture("0" * 64)  # of a part that fails
    strays = StrayFiles(station.database, station.files, lambda seconds: None)
    for kind in (PICTURES, MASKS, MODELS):
        strays.needed_hashes(kind, ["0" * 64])
    station.housekeeping._remove_old()
    station.housekeeping._make_room()


TIMES = "2026-01-01T00:00:00Z", "2036-01-01T00:00:00Z"
EXAMPLES = {"since": TIMES[:1], "until": TIMES[1:], "least": ("1",), "most": ("1",), "number": ("1",)}


def every_filter() -> list[dict[str, str]]:
    """Each filter alone, with each of its words, and of texts the whole and a beginning."""
    found = []
    for one in FILTERS:
        values = one.words or EXAMPLES.get(one.kind, ("470", "47*", "b", "1.png"))
        found += [{one.name: value} for value in values]
    return found


def httpx_paths(schema: dict[str, Any]) -> list[str]:
    return [
        path.removeprefix("/api/v1")
        for path, ways in schema["paths"].items()
        if "get" in ways and "live" not in path
    ]


def fill(connection: Connection) -> None:
    """As after some weeks: every growing table has many rows like its last one."""
    sequence = f"WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < {ROWS})"
    for table in ("pictures", "inspections", "verdicts", "events", "hours"):
        columns = [one["name"] for one in inspect(connection).get_columns(table)]
        new = {
            "id": "id + n.k",
            "key": "NULL",
            "at": "at + n.k * CAST(1000000 AS BIGINT)",
            "hour": "hour + n.k",
        }
        if table == "pictures":
            new["hash"] = "substr(CAST(1000000 + n.k AS TEXT) || hash, 1, 64)"
        if table == "verdicts":
            new["inspection_id"] = "inspection_id + n.k"
        values = ", ".join(new.get(one, one) for one in columns)
        names = ", ".join(f'"{one}"' for one in columns)
        last = "id" if "id" in columns else "hour" if "hour" in columns else "created_at"
        connection.execute(
            text(
                f"{sequence} INSERT INTO {table} ({names}) SELECT {values} FROM n, (SELECT * FROM {table} "
                f"ORDER BY {last} DESC LIMIT 1) AS one"
            )
        )


def scans(database: Database, question: str, given: Any) -> list[str]:
    """Steps of the planner's answer that read a growing table from end to end, or all that a product has."""
    with database.reading() as connection:
        explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN (FORMAT JSON) "
        found = connection.exec_driver_sql(explain + question, given or ()).all()
    if database.is_sqlite:
        details = [row[-1] for row in found]
        is_sorted = any("USE TEMP B-TREE FOR ORDER BY" in one for one in details)
        is_walk = WALKS.search(question) and not is_sorted
        scanned = [one for one in details if re.match(rf"SCAN ({'|'.join(GROWING)})\b", one)]
        if (is_sorted or "LIMIT" not in question) and not (
            AT_AN_END.match(question) or IS_THERE.match(question)
        ):
            scanned += [one for one in details if OF_A_PRODUCT.match(one)]
        return [one for one in scanned if not (is_walk and ("INDEX" in one or "WHERE" not in question))]
    plan = found[0][0]
    return list(plan_scans((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"], False))


def plan_scans(node: dict[str, Any], is_limited: bool) -> Any:
    kind = node["Node Type"]
    if node.get("Relation Name") in GROWING:
        is_walk = kind.startswith("Index") and is_limited
        if not is_walk and (kind == "Seq Scan" or (kind.startswith("Index") and "Index Cond" not in node)):
            yield f"{kind} {node['Relation Name']} {node.get('Filter', '')}"
    is_limited = (is_limited or kind == "Limit") and kind not in ("Sort", "Aggregate", "Hash")
    for one in node.get("Plans", ()):
        yield from plan_scans(one, is_limited)


def test_no_question_reads_a_table_that_grows(asked, open_station, settings, parts, tmp_path):
    product = replace(settings.products[NAME], sinks=(make_sink(folder=str(tmp_path / "found")),))
    keep = RetentionSettings(good=86400.0, anomalous=86400.0, reviewed=86400.0, records=86400.0, space=10**12)
    running = open_station(products={NAME: product}, keep=keep)
    ask_everything(running, parts)
    running.station.close()
    questions = asked.questions.copy()
    database = Database(running.station.settings.url)
    with database.writing() as connection:
        fill(connection)
    database.tune()
    bad = {}
    for question, given in questions.items():
        if not HOURLY.search(question) and (found := scans(database, question, given)):
            bad[question] = found
    database.close()
    assert len(questions) > 60
    assert not bad, "\n\n".join(f"{found}\n{' '.join(question.split())}" for question, found in bad.items())
