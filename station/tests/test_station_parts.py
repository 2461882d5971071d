"""Parts in several views at the station: one decision for each part, whatever happens between its views; and
pictures of several parts."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

import flawscope
from brackets import SIDE, drawn
from flawscope.artefact import model_file
from flawscope.calibration.parts import PartCalibration, PartPattern
from flawscope.errors import InputError
from flawscope.predictor.parts import PartCollector
from flawscope_station.client import Client, RefusedError
from flawscope_station.inspecting.parts import PartDeadlines
from flawscope_station.inspecting.picture import Picture, with_part_and_view
from flawscope_station.settings.sinks import MqttSettings, SinkSettings
from flawscope_station.settings.sources import CameraSourceSettings, FolderSourceSettings
from flawscope_station.settings.station import ProductSettings, RetentionSettings
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.inspection import Label, trigger_request, upload_request
from flawscope_station.store.parts import open_rounds
from flawscope_station.store.records import Store
from flawscope_station.store.retention import Retention
from flawscope_station.store.schema import inspections, parts
from sink_helpers import Listener, Mosquitto, new_folder
from station_helpers import NAME, PATIENCE, Running, add_version, aged, png, taken, until
from tablet import PHONE, SLATE, Tablet, needs_chromium
from tablet import driver_fixture as driver_fixture

VIEWS = ("left", "right", "top")
LONG = "1 h"
GOOD = 20  # a part that is good; one of ten others would be a false alarm
API = f"/api/v1/products/{NAME}"


def view(part: int, name: str, defect: bool = False) -> bytes:
    """PNG of a drawn part from one side."""
    k = VIEWS.index(name)
    rng = np.random.default_rng([part, k])
    picture = np.full((80, 80, 3), (60, 80 + 50 * k, 120), np.float64)
    picture[20:60, 20 + 8 * k : 60] = 150
    if defect:
        picture[34:44, 44:54] = 30
    return png((picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8))


def of_product(product: str, part: int, name: str) -> bytes:
    """PNG of a part of one of two products: the lid is the box in other colours."""
    shown = np.asarray(Image.open(io.BytesIO(view(part, name))))
    return png(255 - shown if product == "lid" else shown)


@pytest.fixture(scope="session")
def part_model(shared):
    """Judges parts of three views. Read only."""

    def fill(folder: Path) -> None:
        (folder / "good").mkdir()
        for part in range(9):
            for name in VIEWS:
                (folder / "good" / f"p{part}_{name}.png").write_bytes(view(part, name))
        how: dict[str, Any] = {"part": r"p\d+", "size": 64, "check": False, "device": "cpu"}
        flawscope.fit(folder / "good", **how).save(folder / "part.safetensors")

    return shared("part-model", fill) / "part.safetensors"


@pytest.fixture
def line(part_model, open_station):
    """`line(part_deadline="1 s", ...)` opens a station that judges parts."""

    def opened(**product: Any) -> Running:
        more = {name: product.pop(name) for name in ("mqtt",) if name in product}
        given = {"part_deadline": LONG, **product}
        return open_station(products={NAME: ProductSettings(str(part_model), **given)}, **more)

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
    """The decided parts, the newest first, as soon as there are so many."""

    def found() -> Any:
        every = httpx.get(f"{url}{API}/parts").json()["parts"]
        done = [one for one in every if one["decision"]]
        return done if len(done) >= count else None

    return list(until(found))


def send_whole(url: str, part: str, batch: str = "") -> None:
    """Send all views of a good part in one form, which a short deadline does not cut in two."""
    files = [("files", (f"{part}_{name}.png", view(GOOD, name))) for name in VIEWS]
    answer = httpx.post(f"{url}{API}/inspections", params={"batch": batch}, files=files, timeout=60)
    assert answer.json()["results"][-1]["inspection"]["part_decision"] == "good"


def test_the_last_view_decides_as_the_model_does_in_python(client, part_model):
    predictor = flawscope.load(part_model, device="cpu", threads=1)
    assert client.product().views == [*VIEWS]
    for part, bad in ((GOOD, None), (21, "top"), (22, "left")):
        pictures = {name: view(part, name, name == bad) for name in ("top", "left", "right")}
        said = [client.inspect(data, part=f"n{part}", view=name) for name, data in pictures.items()]
        expected = predictor.predict_part(pictures)
        assert [one.part_decision for one in said] == [None, None, expected.decision]
        found = client.part(said[0].part_id or 0)
        assert (found.decision, found.worst, found.missing) == (expected.decision, expected.worst, [])
        assert (found.score, found.p_value) == pytest.approx((expected.score, expected.p_value), abs=1e-9)
        assert (found.part, found.reason, found.version) == (f"n{part}", "complete", said[0].version)
        assert found.views == {one.view: one.id for one in said}
        assert {one.part_decision for one in found.inspections} == {expected.decision}
        assert expected.is_anomalous == (bad is not None)
    for query, names in (
        ({}, ["n22", "n21", "n20"]),
        ({"decision": "anomalous"}, ["n22", "n21"]),
        ({"part": "n20"}, ["n20"]),
    ):
        found_parts = httpx.get(f"{client.url}{API}/parts", params=query).json()["parts"]
        assert [one["part"] for one in found_parts] == names
    page = httpx.get(f"{client.url}{API}/parts?limit=2").json()
    assert len(page["parts"]) == 2
    rest = httpx.get(f"{client.url}{API}/parts", params={"limit": 2, "cursor": page["next"]}).json()
    assert ([one["part"] for one in rest["parts"]], rest["next"]) == (["n20"], None)
    with pytest.raises(RefusedError, match="there is no part 99"):
        client.part(99)


def test_missing_views_are_named_at_the_deadline_and_nothing_says_good(line):
    running = line(part_deadline="300 ms")
    with Client(running.url) as client:
        begun = time.monotonic()
        client.inspect(view(30, "left"), part="A", view="left")
        client.inspect(view(31, "top", True), part="B", view="top")
        good, bad = sorted(decided(running.url, 2), key=lambda one: one["part"])
        assert time.monotonic() - begun >= 0.3
        assert (good["decision"], good["reason"]) == ("incomplete", "deadline")
        assert (good["missing"], bad["missing"]) == (["right", "top"], ["left", "right"])
        assert (bad["decision"], bad["worst"]) == ("anomalous", "top")
        late = client.inspect(view(30, "top"), part="A", view="top")
        assert late.part_id not in (good["id"], bad["id"]), "what comes later is another round"


def test_a_view_that_comes_again_begins_the_next_round(client):
    first = client.inspect(view(40, "left"), part="A", view="left")
    client.inspect(view(40, "top"), part="A", view="top")
    again = client.inspect(view(GOOD, "left"), part="A", view="left")
    assert again.part_id != first.part_id
    before = client.part(first.part_id or 0)
    assert (before.decision, before.reason, before.missing) == ("incomplete", "repeated", ["right"])
    client.inspect(view(GOOD, "top"), part="A", view="top")
    last = client.inspect(view(GOOD, "right"), part="A", view="right")
    assert (last.part_id, last.part_decision) == (again.part_id, "good")


def test_what_is_no_known_view_is_refused_unjudged(client, common):
    for wrong, message in (
        ({"part": "A"}, "send its `part`, and as `view` one of left, right, top"),
        ({"view": "top"}, "send its `part`, and as `view` one of left, right, top"),
        ({"part": "A", "view": "below"}, "knows no view below: name it by one of left, right, top"),
        ({"part": "A", "view": "x" * 101}, "has not 1 to 100 characters"),
    ):
        with pytest.raises(RefusedError, match=message) as refused:
            client.inspect(view(1, "top"), **wrong)
        assert refused.value.status == 422
    assert list(client.search()) == []
    named = client.inspect(view(1, "top"), name="p77_top.png")
    assert (named.part, named.view) == ("p77", "top")
    alone = client.inspect(view(1, "left"), part="A", name="left.png")
    assert (alone.part, alone.view) == ("A", "left")
    with Client(common.url) as single, pytest.raises(RefusedError, match="judges single pictures: leave"):
        single.inspect(view(1, "top"), view="top")


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


def test_parts_of_a_joint_model_are_those_of_their_product(open_station, tmp_path, small_backbone):
    folders = {name: tmp_path / name for name in ("box", "lid")}
    for name, folder in folders.items():
        folder.mkdir()
        for part in range(9):
            for seen_from in VIEWS:
                (folder / f"p{part}_{seen_from}.png").write_bytes(of_product(name, part, seen_from))
    how: dict[str, Any] = {"part": r"p\d+", "size": 64, "cap": 200, "check": False, "device": "cpu"}
    models = {name: flawscope.fit(folder, **how, **small_backbone) for name, folder in folders.items()}
    joint = flawscope.join(models, folders, device="cpu")
    joint.save(tmp_path / "line.safetensors")
    entry = ProductSettings(str(tmp_path / "line.safetensors"), part_deadline=LONG)
    running = open_station(products={"line": entry})
    with Client(running.url) as client:
        for product in ("lid", "box"):
            pictures = {name: of_product(product, GOOD, name) for name in VIEWS}
            *_, last = (client.inspect(data, part="7", view=name) for name, data in pictures.items())
            expected = joint.products[product].predict_part(pictures)
            assert (last.product, last.shows) == (product, product)
            assert last.part_decision == expected.decision
            assert client.part(last.part_id or 0, product).p_value == pytest.approx(expected.p_value)
        with pytest.raises(RefusedError, match="name it by one of left, right, top"):
            client.inspect(pictures["top"], part="8", view="below")
        # a view that shows something else: whatever its part is, it is not good
        strange = np.random.default_rng(0).integers(0, 256, (80, 80, 3)).astype(np.uint8)
        first = client.inspect(strange, part="9", view="left")
        assert (first.shows, first.is_anomalous) == ("none of these", True)
        for name in VIEWS[1:]:
            last = client.inspect(of_product(first.product, GOOD, name), part="9", view=name)
        assert last.part_decision == "anomalous"


def test_a_model_for_each_view_is_refused_in_a_line(open_station, tmp_path, small_backbone):
    models = {}
    for name in VIEWS:
        (tmp_path / name).mkdir()
        for part in range(6):
            (tmp_path / name / f"p{part}_{name}.png").write_bytes(view(part, name))
        how: dict[str, Any] = {"size": 64, "cap": 200, "check": False, "device": "cpu"}
        models[name] = flawscope.fit(tmp_path / name, **how, **small_backbone)
    flawscope.join(models, part=r"p\d+", device="cpu").save(tmp_path / "views.safetensors")
    with pytest.raises(InputError, match="a model for each view, which a station does not serve"):
        open_station(products={"line": ProductSettings(str(tmp_path / "views.safetensors"))})


def test_a_request_without_a_view_is_known_by_the_hash_of_earlier_versions():
    digest = hashlib.sha256(b"x").hexdigest()
    before = hashlib.sha256(f"file\0A\0b\0{digest}".encode()).hexdigest()
    assert upload_request("k", [b"x"], False, Label("A", "b")).hash == before
    assert upload_request("k", [b"x"], False, Label("A", "b", "top")).hash != before
    assert trigger_request("k", 1, Label("A", "b")).hash == hashlib.sha256(b"trigger\x001\0A\0b").hexdigest()


def test_a_folder_names_part_and_view(line, tmp_path):
    """By the model's pattern, by the folder's, or the view by its setting."""
    folders = [tmp_path / name for name in ("named", "pattern", "top")]
    for folder in folders:
        folder.mkdir()
    for name in VIEWS:
        (folders[0] / f"p60_{name}.png").write_bytes(view(GOOD, name))
        (folders[1] / f"{name}-61.png").write_bytes(view(GOOD, name))
    (folders[2] / "p62.png").write_bytes(view(62, "top"))
    (folders[2] / "odd.png").write_bytes(view(62, "left"))
    pattern = r"(?P<view>\w+)-(?P<part>\d+)"
    sources = FolderSourceSettings(str(folders[0])), FolderSourceSettings(str(folders[1]), pattern=pattern)
    running = line(
        part_deadline="20 s", sources=(*sources, FolderSourceSettings(str(folders[2]), view="top"))
    )
    with Client(running.url) as client:
        until(lambda: len(list(client.search())) == 7)
        there = httpx.get(f"{running.url}{API}/parts").json()["parts"]
        found = {one["part"]: (one["decision"], sorted(one["views"])) for one in there}
        assert found["p60"] == found["61"] == ("good", [*VIEWS])
        assert found["p62"] == (None, ["top"])


def test_a_trigger_names_the_part_and_the_camera_its_view(line):
    cameras = [
        CameraSourceSettings(
            "lavfi:testsrc2=size=80x80:rate=25,realtime", every="trigger", view=name, latency="1 ms"
        )
        for name in VIEWS
    ]
    running = line(sources=tuple(cameras))
    with Client(running.url) as client:
        said = [client.trigger(camera=k, part="4711", seconds=30) for k in (1, 2, 3)]
        assert [one.view for one in said] == [*VIEWS]
        assert (said[2].part_id, said[2].part_decision) == (said[0].part_id, "anomalous")
        other = client.trigger(camera=1, part="4712", view="right", seconds=30)
        assert other.view == "right", "what a request says counts"
        with pytest.raises(RefusedError, match="send its `part`"):
            client.trigger(camera=1, seconds=30)


def test_several_clients_at_once(line):
    running = line()

    def send(name: str) -> None:
        with Client(running.url) as client:
            for part in range(8):
                data = view(100 + part, name, part == 5 and name == "top")
                client.inspect(data, part=str(part // 2), batch=str(part % 2), view=name)

    threads = [threading.Thread(target=send, args=(name,)) for name in VIEWS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {(one["part"], one["batch"]): one for one in decided(running.url, 8)}
    assert len(found) == 8
    assert all(len(one["views"]) == 3 for one in found.values())
    assert found["2", "1"]["decision"] == "anomalous"


def test_another_version_begins_another_round(client, part_model, tmp_path):
    first = client.inspect(view(GOOD, "left"), part="A", view="left")
    artefact = flawscope.load(part_model, device="cpu").artefact
    other = replace(artefact, manifest=replace(artefact.manifest, notes=("another",)))
    model_file.write(other, tmp_path / "other.safetensors")
    client.activate(None, client.add_version(tmp_path / "other.safetensors").id)
    later = [client.inspect(view(GOOD, name), part="A", view=name) for name in ("left", "right", "top")]
    assert later[0].part_id != first.part_id
    assert later[2].part_decision == "good"
    assert client.inspection(first.id).part_decision is None, "its version's views may still come"


@pytest.mark.both_databases
def test_the_worst_view_of_an_anomalous_part_waits_for_a_review(database):
    """Though each picture is good alone."""
    product, version = add_version(database)
    store, judge = Store(database), judging(np.column_stack([np.linspace(0, 1, 19)] * 2))
    both = [
        taken(product, version, part="A", view=name, score=score, parts=judge)
        for name, score in (("a", 0.5), ("b", 2.0))
    ]
    (first, _), (second, _) = store.record(both)
    found = store.inspections_by_number(product, [first, second])
    assert [found[number]["review"] for number in (first, second)] == ["none", "waiting"]
    assert {one["part_decision"] for one in found.values()} == {"anomalous"}
    store.add_verdict(product, second, "good", "anna")
    assert store.add_verdict(product, second, "undo", "anna")["review"] == "waiting"
    store.add_verdict(product, first, "good", "anna")
    assert store.add_verdict(product, first, "undo", "anna")["review"] == "none"


def test_every_sink_gets_each_part_once(line, receive, tmp_path):
    receiver = receive()
    sinks = (SinkSettings(webhook=receiver.url), SinkSettings(folder=str(tmp_path / "found")))
    running = line(part_deadline="2 s", sinks=sinks)
    with Client(running.url) as client:
        send_whole(running.url, "p4711", "b")
        client.inspect(view(81, "left"), part="4712", view="left")
        decided(running.url, 2)
        until(lambda: len(receiver.taken) == 6)
        told = [one.json for one in receiver.taken]
        parts_told = [one for one in told if one["type"] == "part.decided"]
        assert [one["data"]["part"] for one in parts_told] == ["p4711", "4712"]
        whole = parts_told[0]["data"]
        assert (whole["decision"], whole["batch"], whole["missing"]) == ("good", "b", [])
        assert whole["views"] == {one.view: one.id for one in client.search(part="p4711")}
        assert (parts_told[1]["data"]["decision"], parts_told[1]["data"]["missing"]) == (
            "incomplete",
            ["right", "top"],
        )
        assert [one["type"] for one in told].count("inspection.created") == 4
        until(lambda: len(list((tmp_path / "found").glob("*/*.json"))) == 6)
        files = sorted(path.name for path in (tmp_path / "found").glob("*/part-*"))
        assert files == ["part-000001-p4711.json", "part-000002-4712.json"]
        until(lambda: {one.waiting for one in client.product().sinks} == {0})
        assert len(receiver.taken) == 6


@pytest.mark.skipif(Mosquitto.program() is None, reason="Mosquitto is not installed")
def test_mqtt_has_a_topic_for_parts(line):
    broker = Mosquitto(new_folder())
    broker.start()
    try:
        listener = Listener(broker.port, "flawscope/#")
        running = line(mqtt=MqttSettings(broker.url))
        topic = f"flawscope/station/{NAME}"
        with Client(running.url) as client:
            for name in VIEWS:
                client.inspect(view(90, name, name == "top"), part="4711", view=name)
            (message,) = until(lambda: listener.of(f"{topic}/part"))
            assert (message["data"]["decision"], message["data"]["worst"]) == ("anomalous", "top")
            until(lambda: (listener.last(f"{topic}/state") or {}).get("last_part"))
            assert listener.last(f"{topic}/state")["last_part"]["decision"] == "anomalous"
        listener.close()
    finally:
        broker.kill()


def test_a_restart_between_two_views_loses_nothing(line):
    running = line()
    with Client(running.url) as client:
        first = client.inspect(view(GOOD, "left"), part="A", view="left")
        client.inspect(view(121, "left"), part="B", view="left")
    running.close()
    running = line()
    with Client(running.url) as client:
        for name in ("right", "top"):
            last = client.inspect(view(GOOD, name), part="A", view=name)
    assert (last.part_id, last.part_decision) == (first.part_id, "good")
    (left,) = httpx.get(f"{running.url}{API}/parts", params={"decision": "open"}).json()["parts"]
    assert left["part"] == "B"


@pytest.mark.both_databases
def test_records_of_a_part_go_together(database, tmp_path):
    product, version = add_version(database)
    store, files, judge = Store(database), Files(tmp_path), judging(np.ones((19, 2)))
    for k in range(3):
        digest = files.keep(PICTURES, f"picture {k}".encode(), ".png")
        for name in ("a", "b"):
            store.record([taken(product, version, part=str(k), view=name, picture=digest, parts=judge)])
    open_one = taken(product, version, part="9", view="a", parts=judge, picture=digest)
    store.record([open_one])
    assert len(open_rounds(database, [product])) == 1
    Retention(database, files, RetentionSettings(good="1 hour", records="1 hour"), aged(database)).run()
    with database.reading() as connection:
        left = [row.part for row in connection.execute(select(parts).order_by(parts.c.id))]
        assert len(connection.execute(select(inspections.c.id)).all()) == 1, "the newest stays"
    assert left == ["2", "9"], "the last that was decided, whose number would be given again, and the newest"


def test_a_view_of_an_open_part_is_not_forgotten(database, tmp_path):
    product, version = add_version(database)
    store, files = Store(database), Files(tmp_path)
    judge = judging(np.column_stack([np.linspace(0, 1, 19)] * 2))
    digests = [files.keep(PICTURES, name.encode(), ".png") for name in "abc"]
    how = {"part": "1", "parts": judge}
    store.record([taken(product, version, view="a", score=99.0, anomalous=True, picture=digests[0], **how)])
    store.record([taken(product, version, picture=digests[2])])
    Retention(database, files, RetentionSettings("1 hour", "1 hour", records="1 hour"), aged(database)).run()
    store.record([taken(product, version, view="b", score=0.2, picture=digests[1], **how)])
    with database.reading() as connection:
        assert connection.execute(select(parts.c.decision)).scalars().all() == ["anomalous"]


def test_a_part_that_cannot_be_decided_on_keeps_no_other_waiting(database):
    own = [add_version(database, name, digest * 64) for name, digest in (("one", "1"), ("two", "2"))]
    judge, store, told, failed = judging(np.ones((19, 2))), Store(database), [], threading.Event()

    class Known:
        def for_version(self, product: int, version: int) -> PartCollector:
            if product == own[0][0]:
                failed.set()
                raise MemoryError
            return judge

    seconds = {own[0][0]: 0.1, own[1][0]: 1e12}
    rounds = PartDeadlines(database, Known(), seconds, lambda *found: told.append(found))
    rounds.start()
    try:
        for product, version in own:
            store.record([taken(product, version, part="1", view="a", picture="a" * 64, parts=judge)])
        rounds.wake()
        assert failed.wait(PATIENCE)  # and the other's deadline is far away
        store.record([taken(*own[1], part="1", view="b", picture="b" * 64, parts=judge)])
        rounds.wake()
        until(lambda: bool(told))
    finally:
        rounds.stop()
    assert [product for product, _ in told] == [own[1][0]]


@needs_chromium
def test_pages_show_the_part(line, driver):
    running = line(part_deadline="3 s")
    with Client(running.url) as client, httpx.Client(base_url=running.url, timeout=30) as http:
        tablet = Tablet(driver, running.url, http)
        tablet.screen(1024, 768)
        tablet.open("live")
        band = lambda: tablet.find("#band").get_attribute("data-state")  # noqa: E731
        assert band() == "waiting"
        send_whole(running.url, "p4711")
        tablet.wait(lambda: band() == "good")
        assert tablet.text("#whole") == "Part p4711"
        client.inspect(view(21, "top", True), part="4712", view="top")
        tablet.wait(lambda: band() == "anomalous")
        assert tablet.text("#whole") == "Part 4712 · Missing: left, right"
        found = client.inspect(view(GOOD, "left"), part="4713", view="left")
        tablet.wait(lambda: band() == "incomplete")
        assert (tablet.text("#word"), tablet.unfit(PHONE, SLATE)) == ("Incomplete", [])
        tablet.open("live")
        assert (band(), tablet.text("#whole")) == ("incomplete", "Part 4713 · Missing: right, top")
        tablet.open(f"inspections/{found.id}")
        assert "Part: Incomplete" in tablet.text("main")
        assert "Missing: right, top" in tablet.text("main")
        tablet.open("history?part=4712")
        assert "Part: Defective" in tablet.text("main")
        tablet.open("review")
        told = {
            "Part 4712: Defective – all views",
            "Part p4711: Good – all views",
        }  # that lies near the threshold
        tablet.wait(lambda: tablet.text("#views") in told)
        part = tablet.text("#views").split(":")[0].removeprefix("Part ")
        tablet.click("#views a")
        tablet.wait(lambda: f"All views of part {part}" in tablet.text("main"))
        assert tablet.complaints() == []
        driver.get("about:blank")
    driver.get_log("browser")


def test_a_picture_is_recorded_with_its_parts(open_station, several_model, tmp_path):
    running = open_station(products={"brackets": ProductSettings(str(several_model))})
    expected = flawscope.load(several_model)
    with Client(running.url) as client:
        for cells, word in ((range(5), ""), (range(4), "1 missing"), (range(6), "1 too many")):
            picture = drawn(500, cells)[0]
            answer = client.inspect(png(picture), "brackets")
            found = expected.predict(picture).found_parts
            assert [one.part_pose for one in answer.found_parts.parts] == [
                one.part_pose for one in found.parts
            ]
            assert answer.found_parts.wrong.startswith(word)
            assert answer.is_anomalous or not word
            again = client.inspection(answer.id, "brackets")
            assert again.found_parts == answer.found_parts
        api = f"{running.url}/api/v1/products/brackets/inspections/{answer.id}"
        overlay = Image.open(io.BytesIO(httpx.get(f"{api}/overlay").content))
        assert overlay.size == (SIDE, SIDE)
        there = f"{running.url}/brackets/inspections/{answer.id}"
        page = httpx.get(there, follow_redirects=True, timeout=60)
        assert "6 parts found, 5 expected, 0 other objects" in page.text
        assert page.text.count("<dt>Part ") == 6
