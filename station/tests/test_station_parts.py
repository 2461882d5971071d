"""Parts in several views at the station: one decision for each part, whatever happens between its views; and
pictures of several parts."""

import threading
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import select

from flawscope.calibration.parts import PartCalibration, PartPattern
from flawscope.errors import InputError
from flawscope.predictor.parts import PartCollector
from flawscope_station.client import Client
from flawscope_station.inspecting.part_set import PartSet
from flawscope_station.inspecting.picture import Picture, with_part_and_view
from flawscope_station.inspecting.writer import Answer
from flawscope_station.settings.sources import DELETE, FolderSourceSettings
from flawscope_station.settings.station import ProductSettings, RetentionSettings
from flawscope_station.store.database import StoreError
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.insert import PartViews
from flawscope_station.store.records import Store
from flawscope_station.store.retention import Retention
from flawscope_station.store.schema import inspections, parts
from sink_helpers import Listener, Mosquitto, make_broker, new_folder
from station_helpers import NAME, Running, add_version, aged, delayed, held, recorded, taken, until
from view_helpers import (  # noqa: F401
    API,
    VIEWS,
    Tolerated,
    by_length_fixture,
    part_model_fixture,
    post,
    recorded_parts,
    view,
    whole,
)

GOOD = 20  # a part that is good; one of ten others would be a false alarm


@pytest.fixture
def line(part_model, open_station):
    """`line(part_deadline="1 s", ...)` opens a station that judges parts."""

    def opened(**product: Any) -> Running:
        more = {name: product.pop(name) for name in ("mqtt",) if name in product}
        return open_station(products={NAME: ProductSettings(str(part_model), **product)}, **more)

    return opened


@pytest.fixture
def client(line):
    with Client(line().url) as made:
        yield made


def judging(scores: Any, pattern: str = "") -> PartCollector:
    """Judge of parts of the views a and b by these scores of good ones."""
    judge = PartCollector.__new__(PartCollector)
    judge.calibration = PartCalibration(("",) * len(scores), ("a", "b"), scores, 0.05)
    judge.pattern = PartPattern(pattern)
    return judge


def decided(url: str, count: int) -> list[dict[str, Any]]:
    """The parts, the newest first, as soon as there are so many."""

    def found() -> Any:
        every = httpx.get(f"{url}{API}/parts").json()["parts"]
        return every if len(every) >= count else None

    return list(until(found))


def test_a_view_that_comes_after_another_has_failed_fails_too():
    one, late = Answer(), Answer()
    views = PartSet(count=2)
    views.join(one)
    one.set_exception(InputError("no picture"))
    views.join(late)
    assert str(late.exception(timeout=0)) == "no picture"


def test_a_key_names_the_whole_part(client):
    first = post(client.url, whole(GOOD), part="A", key="k")
    again = post(client.url, whole(GOOD), part="A", key="k")
    assert first.status_code == 201
    assert again.json() == first.json()
    assert post(client.url, whole(21), part="A", key="k").status_code == 409
    assert len(decided(client.url, 1)) == 1


def test_a_part_is_recorded_whole_or_not_at_all(line, monkeypatch):
    """Whatever fails on the way of one of its views."""
    running = line()
    files = running.station.files
    keep, fails = files.keep, ["right"]

    def failing(kind: str, data: bytes, *rest: Any, **more: Any) -> str:
        if fails and data == view(GOOD, fails[0]):
            raise StoreError("the disk is full", "disk_full")
        return keep(kind, data, *rest, **more)

    monkeypatch.setattr(files, "keep", failing)
    assert post(running.url, whole(GOOD), part="A").status_code == 507
    until(lambda: running.station.inspector.backlog() == 0)
    assert httpx.get(f"{running.url}{API}/parts").json()["parts"] == []
    assert httpx.get(f"{running.url}{API}").json()["inspections"] == 0
    fails.clear()
    assert (
        post(running.url, whole(GOOD), part="A").json()["results"][0]["inspection"]["part_decision"] == "good"
    )
    late = post(running.url, whole(GOOD), part="B", deadline="1")
    assert late.status_code == 504
    until(lambda: running.station.inspector.backlog() == 0)
    for one in decided(running.url, 1):
        assert len(one["views"]) == 3, "one that was late may be recorded, and then whole"


def test_names_that_the_station_gives_tell_no_part():
    """Else each frame of a camera would be a view of part 1."""
    judge = judging(np.ones((19, 2)), r"\d+")
    frame = Picture(1, b"", "camera1-a.png", "camera")
    with pytest.raises(InputError, match="send its `part`, and as `view` one of a, b"):
        with_part_and_view(frame, judge)
    asked = with_part_and_view(replace(frame, part="4711", view="a"), judge)
    assert (asked.part, asked.view) == ("4711", "a")
    sent = with_part_and_view(replace(frame, source="http", name="7_b.png"), judge)
    assert (sent.part, sent.view) == ("7", "b")


@pytest.mark.both_databases
def test_the_worst_view_of_an_anomalous_part_waits_for_a_review(database):
    """Though each picture is good alone."""
    product, version = add_version(database)
    store, judge = Store(database), judging(np.column_stack([np.linspace(0, 1, 19)] * 2))
    part = PartViews(judge)
    both = [
        taken(product, version, part="A", view=name, score=score, part_views=part)
        for name, score in (("a", 0.5), ("b", 2.0))
    ]
    (first, _), (second, _) = store.record(both)
    found = store.inspections_by_number(product, [first, second])
    assert [found[number]["review"] for number in (first, second)] == ["none", "waiting"]
    assert {one["part_decision"] for one in found.values()} == {"anomalous"}
    assert (part.decision, part.worst, part.number) == ("anomalous", "b", 1)
    store.add_verdict(product, second, "good", "anna")
    assert store.add_verdict(product, second, "undo", "anna")["review"] == "waiting"
    store.add_verdict(product, first, "good", "anna")
    assert store.add_verdict(product, first, "undo", "anna")["review"] == "none"


def test_a_part_whose_anomalous_views_are_tolerated_is(database):
    product, version = add_version(database)
    store, judge = Store(database), judging(np.column_stack([np.linspace(0, 1, 19)] * 2))
    for tolerated, decision in (((True, True), "within tolerance"), ((True, False), "anomalous")):
        part = PartViews(judge)
        rows = [
            taken(
                product,
                version,
                part="A",
                view=name,
                score=9.0,
                anomalous=True,
                tolerated=one,
                part_views=part,
            )
            for name, one in zip("ab", tolerated, strict=True)
        ]
        store.record(rows)
        assert part.decision == decision


@pytest.mark.skipif(Mosquitto.program() is None, reason="no Mosquitto: apt-get install mosquitto")
def test_mqtt_has_a_topic_for_parts(line):
    broker = Mosquitto(new_folder())
    broker.start()
    try:
        listener = Listener(broker.port, "flawscope/#")
        running = line(mqtt=make_broker(broker=broker.url))
        topic = f"flawscope/station/{NAME}"
        with Client(running.url) as client:
            client.inspect_part(whole(90, "top"), "4711")
            (message,) = until(lambda: listener.of(f"{topic}/part"))
            assert (message["data"]["decision"], message["data"]["worst"]) == ("anomalous", "top")
            until(lambda: (listener.last(f"{topic}/state") or {}).get("last_part"))
            assert listener.last(f"{topic}/state")["last_part"]["decision"] == "anomalous"
        listener.close()
    finally:
        broker.kill()


@pytest.mark.both_databases
def test_records_of_a_part_go_together(database, tmp_path):
    product, version = add_version(database)
    store, files, judge = Store(database), Files(tmp_path), judging(np.ones((19, 2)))
    for k in range(3):
        digest = files.keep(PICTURES, f"picture {k}".encode(), ".png")
        part = PartViews(judge)
        store.record(
            [taken(product, version, part=str(k), view=v, picture=digest, part_views=part) for v in "ab"]
        )
    store.record([taken(product, version, picture=files.keep(PICTURES, b"alone", ".png"))])
    Retention(database, files, RetentionSettings(good="1 hour", records="1 hour"), aged(database)).run()
    with database.reading() as connection:
        left = [row.part for row in connection.execute(select(parts).order_by(parts.c.id))]
        assert len(connection.execute(select(inspections.c.id)).all()) == 1, "the newest stays"
    assert left == ["2"], "the newest, whose number would be given again"


def test_a_part_that_is_late_is_so_in_all_views(line, monkeypatch, tmp_path):
    """It is judged by nobody, or recorded whole as late; a folder waits for its parts as long as it takes."""
    (incoming := tmp_path / "incoming").mkdir()
    running = line(deadline="1 s", sources=(FolderSourceSettings(str(incoming), DELETE),))
    with held(running.station):
        answer = post(running.url, whole(GOOD), part="A")
        assert (answer.status_code, {one["code"] for one in answer.json()["results"]}) == (504, {"late"})
        assert running.station.inspector.backlog() == 0, "its places are free"
    assert recorded_parts(running.url, {}) == {}
    going, store = threading.Event(), running.station.store
    with monkeypatch.context() as patch:
        patch.setattr(store, "record", delayed(store.record, going))
        assert post(running.url, whole(GOOD), part="B").status_code == 504
        for name, data in whole(23).items():
            (incoming / f"p23_{name}.png").write_bytes(data)
        until(lambda: running.station.inspector.backlog() == 6)
        going.set()
        decided(running.url, 2)
    assert recorded_parts(running.url, {"B": whole(GOOD), "p23": whole(23)}).keys() == {"B", "p23"}
    found = {(one["part"], one["unanswered"]) for one in recorded(running.station)}
    assert found == {("B", "late"), ("p23", None)}
