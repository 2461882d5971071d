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
from flawscope_station.inspecting.picture import Part, Picture, with_views
from flawscope_station.settings.sources import FolderSourceSettings
from flawscope_station.settings.station import Limits, RetentionSettings
from flawscope_station.store.database import StoreError, now
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.records import NotFoundError, Store, describe_new
from flawscope_station.store.retention import Retention
from flawscope_station.store.schema import HOUR, inspections, views
from station_helpers import (
    NAME,
    add_version,
    aged,
    delayed,
    held,
    recorded,
    taken,
    taken_part,
    taken_view,
    until,
)
from view_helpers import (  # noqa: F401
    API,
    VIEWS,
    Tolerated,
    by_length_fixture,
    client_fixture,
    decided,
    line_fixture,
    part_model_fixture,
    post,
    recorded_parts,
    view,
    whole,
)

VIEWS_OF_ONE = (("a", "1", 0.5), ("b", "2", 2.0))  # with digits of their pictures' hashes, and scores
GOOD = 20  # a part that is good; one of ten others would be a false alarm


def judging(scores: Any, pattern: str = "") -> PartCollector:
    """Judge of parts of the views a and b by these scores of good ones."""
    judge = PartCollector.__new__(PartCollector)
    judge.calibrations = {"": PartCalibration(("",) * len(scores), ("a", "b"), scores, 0.05)}
    judge.pattern = PartPattern(pattern)
    return judge


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
    assert httpx.get(f"{running.url}{API}").json()["inspections"] == 0
    fails.clear()
    assert post(running.url, whole(GOOD), part="A").json()["results"][0]["inspection"]["decision"] == "good"
    late = post(running.url, whole(GOOD), part="B", deadline="1")
    assert late.status_code == 504
    until(lambda: running.station.inspector.backlog() == 0)
    for one in decided(running.url, 1):
        assert len(one["views"]) == 3, "one that was late may be recorded, and then whole"


def test_names_that_the_station_gives_tell_no_part():
    """Else each frame of a camera would be a view of part 1."""
    judge = judging(np.ones((19, 2)), r"\d+")
    frames = tuple(Picture(b"", f"camera{k}-a.png") for k in (1, 2))
    part = Part(1, frames, "camera")
    with pytest.raises(InputError, match="send its `part`, and as `view` one of a, b"):
        with_views(part, judge)
    seen = tuple(replace(one, view=view) for one, view in zip(frames, "ab", strict=True))
    asked = with_views(replace(part, number="4711", pictures=seen), judge)
    assert (asked.number, [one.view for one in asked.pictures]) == ("4711", ["a", "b"])
    sent = (Picture(b"", "7_b.png"), Picture(b"", "7_a.png"))
    named = with_views(Part(1, sent, "http"), judge)
    assert (named.number, [one.view for one in named.pictures]) == ("7", ["b", "a"])


@pytest.mark.both_databases
def test_a_part_is_one_row_with_its_pictures(database):
    """Also where each picture is good alone; a verdict is one on the part."""
    product, version = add_version(database)
    store = Store(database)
    seen = [taken_view(view=view, picture=digit * 64, score=score) for view, digit, score in VIEWS_OF_ONE]
    part = taken_part(product, version, seen, "b", part="A", anomalous=True, p_value=0.01)
    ((number, _),) = store.record([part])
    found = store.inspection(product, number)
    assert (found["decision"], found["review"], found["view"]) == ("anomalous", "waiting", "b")
    assert [(one["view"], one["decision"], one["picture"][0]) for one in found["views"]] == [
        ("a", "good", "1"),
        ("b", "good", "2"),
    ]
    assert describe_new(number, part, NAME) == found
    assert store.add_verdict(product, number, "good", "anna")["review"] == "done"
    assert store.add_verdict(product, number, "undo", "anna")["review"] == "waiting"
    assert store.totals(product)["inspections"] == 1
    assert store.picture(product, number, "a").hash[0] == "1"
    with pytest.raises(NotFoundError, match="with a view below"):
        store.picture(product, number, "below")


@pytest.mark.both_databases
def test_what_belongs_to_a_part_goes_together(database, tmp_path):
    product, version = add_version(database)
    store, files = Store(database), Files(tmp_path)
    for k in range(3):
        digests = [files.keep(PICTURES, f"picture {k} {view}".encode(), ".png") for view in "ab"]
        seen = [taken_view(view=view, picture=one) for view, one in zip("ab", digests, strict=True)]
        store.record([taken_part(product, version, seen, "b", part=str(k))])
    shared = files.keep(PICTURES, b"picture 0 a", ".png")  # it came again, and is kept longer
    store.record([taken(product, version, picture=shared, at=now() + 2 * HOUR)])
    clock = aged(database)
    Retention(database, files, RetentionSettings(good="1 hour", records="1 hour"), clock).run()
    with database.reading() as connection:
        left = [row.id for row in connection.execute(select(inspections.c.id))]
        assert left == [1, 4], "a record stays as long as a picture of its part"
        assert len(connection.execute(select(views)).all()) == 2
    assert [path.name[:64] for path in (tmp_path / PICTURES).glob("*/*")] == [shared]


def test_parts_of_large_pictures_do_not_wait_for_each_other(line, monkeypatch):
    """Each takes more than half of the memory, in three pictures."""
    monkeypatch.setattr("flawscope_station.inspecting.memory.LARGE_PIXELS", 0)
    running = line(limits=Limits(pixels=80 * 80 * 4))
    inspector, number = running.station.inspector, running.station.products[NAME]
    answers = []
    for part in range(GOOD, GOOD + 4):
        pictures = tuple(Picture(data, "a.png", name) for name, data in whole(part).items())
        answers.append(inspector.submit(Part(number, pictures, "http", f"p{part}")))
    assert len({answer.result(60).number for answer in answers}) == 4
    assert inspector.memory.used == 0


def test_a_part_that_is_late_is_so_in_all_views(line, monkeypatch, tmp_path):
    """It is judged by nobody, or recorded whole as late; a folder waits for its parts as long as it takes."""
    (incoming := tmp_path / "incoming").mkdir()
    running = line(deadline="1 s", sources=(FolderSourceSettings(str(incoming), str(tmp_path / "done")),))
    with held(running.station):
        answer = post(running.url, whole(GOOD), part="A")
        assert (answer.status_code, answer.json()["code"]) == (504, "late")
        assert running.station.inspector.backlog() == 0, "its places are free"
    assert recorded_parts(running.url, {}) == {}
    going, store = threading.Event(), running.station.store
    with monkeypatch.context() as patch:
        patch.setattr(store, "record", delayed(store.record, going))
        assert post(running.url, whole(GOOD), part="B").status_code == 504
        for name, data in whole(23).items():
            (incoming / f"p23_{name}.png").write_bytes(data)
        until(lambda: running.station.inspector.backlog() == 2)
        going.set()
        decided(running.url, 2)
    assert recorded_parts(running.url, {"B": whole(GOOD), "p23": whole(23)}).keys() == {"B", "p23"}
    found = {(one["part"], one["unanswered"]) for one in recorded(running.station)}
    assert found == {("B", "late"), ("p23", None)}
