"""What people say becomes a version: made beside the inspections, judged, live by a click or by the rule."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from learning_helpers import API, NAME, Line, drawn_part
from station_helpers import Load, everything, until

pytest.importorskip("torch")

from flawscope.predictor import load, read_manifest
from flawscope.station.learning.plan import drawn as drawn_of_line
from flawscope.station.learning.promotion_policy import waits
from flawscope.station.settings.station import Learn, Product
from flawscope.station.store.recording import Taken
from flawscope.station.store.records import Store
from flawscope.station.store.retention import Learnt
from flawscope.station.store.schema import stations, versions


@pytest.fixture(scope="module")
def model_file(model_path: Path) -> Path:
    """The trained model itself."""
    return model_path


@pytest.fixture
def line(running: Any) -> Iterator[Line]:
    made = Line(running.url)
    yield made
    made.http.close()


AUTO = {NAME: Learn(rule="auto", after=3)}


def scores(line: Line, parts: list[bytes]) -> list[float]:
    return [line.send(data, "again.png")["score"] for data in parts]


def test_corrections_become_a_version_and_going_back_is_the_old_one(
    line: Line, running: Any, model_file: Path
) -> None:
    parts = [drawn_part(400), drawn_part(401, "contamination")]
    before = scores(line, parts)
    found = line.shift()
    said = line.http.get(f"{API}/learning").json()
    assert (said["why_not"], said["rule"], said["false_alarms"]) == (None, "click", 3)
    candidate = line.learn()
    assert (candidate["status"], candidate["error"], candidate["how"]) == ("ready", None, "extended")
    assert (candidate["start"], candidate["version"], line.active()) == (1, 2, 1), "it waits for a click"
    judged = candidate["judgement"]
    assert judged["learnt"] == found["stained"]
    assert judged["cross_fitted"] >= 3
    assert judged["good"]["count"] == 3
    assert judged["good"]["before"][0] == 3
    assert judged["good"]["after"][0] < 3
    assert judged["gained"]
    assert judged["lost"] == []
    assert 0 <= judged["good"]["after"][1] < judged["good"]["after"][2] <= 1
    number = judged["gained"][0]
    score, threshold = judged["scores"][str(number)]["before"]
    assert score > threshold
    shown = line.http.get(f"{API}/versions").json()["versions"][0]
    assert shown["origin"] == "3 corrections, on version 1"
    assert line.use(2).status_code == 200
    assert line.send(drawn_part(250, stained=True), "new stain.png")["version"] == 2
    # what it learnt from stays
    store, knows = running.station.store, Learnt(running.station.database, running.station.files).knows
    taken = store.picture(1, found["stained"][0])
    assert knows(taken.hash, taken.suffix)
    assert line.use(1).status_code == 200
    assert scores(line, parts) == before, "bit for bit"
    kept = running.station.versions.path(1, 1)
    assert kept.read_bytes() == model_file.read_bytes()
    kinds = [(one["kind"], one["by"]) for one in line.http.get(f"{API}/trail").json()["entries"]]
    wanted = ["learning asked", "candidate ready", "version added", "version activated", "verdict"]
    assert all((kind, "local") in kinds for kind in wanted)
    assert kinds.count(("version activated", "local")) == 3 - 1 + (
        ("version activated", "station") not in kinds
    )
    assert line.http.get(f"{API}/candidates/{candidate['id']}").json()["status"] == "live"


def test_by_the_rule_it_goes_live_and_what_is_taken_back_is_forgotten(
    open_station: Any, settings: Any
) -> None:
    product = replace(settings.products[NAME], learn=AUTO[NAME])
    running = open_station(products={NAME: product})
    line = Line(running.url)
    found = line.shift()
    until(lambda: line.active() == 2)
    first = line.http.get(f"{API}/learning").json()["candidates"][-1]
    assert (first["status"], first["by"], first["waits"]) == ("live", "rule", [])
    trail = line.http.get(f"{API}/trail").json()["entries"]
    assert next(one["by"] for one in trail if one["kind"] == "version activated") == "rule"
    # a word that is taken back: the next one starts before it
    line.say(found["stained"][0], "undo")
    line.say(found["stained"][0], "undo")
    second = line.learn()
    assert second["start"] == 1
    learnt = second["judgement"]["learnt"]
    assert learnt
    assert set(learnt) <= set(found["stained"][1:])
    manifest = read_manifest(running.station.versions.path(1, second["version"]))
    trained = [one for one in manifest.pictures if one.role == "train"]
    assert len(trained) == 12 + len(learnt)


def test_what_looks_like_a_defect_is_asked_for_again_and_contradictions_are_left_out(line: Line) -> None:
    for seed in (300, 301, 302):
        one = line.send(drawn_part(seed, "missing_part", stained=True), f"{seed}.png")
        assert one["decision"] == "anomalous"
        line.say(one["id"], "defect")
    known = one["severity"]
    odd = drawn_part(500, stained=True)
    first = line.send(odd, "odd.png")
    assert first["severity"] > 0
    line.say(first["id"], "good")
    twice = [line.send(drawn_part(501, stained=True), name)["id"] for name in ("a.png", "b.png")]
    line.say(twice[0], "good")
    line.say(twice[1], "defect")
    plain = line.send(drawn_part(502), "plain.png")["id"]
    line.say(plain, "good")
    candidate = line.learn()
    judged = candidate["judgement"]
    assert known > 0
    assert judged["contradictory"] == twice
    assert judged["unsure"] == [first["id"]]
    assert judged["learnt"] == []
    line.say(first["id"], "good")
    again = line.learn()
    assert again["judgement"]["learnt"] == [first["id"]]
    assert again["judgement"]["unsure"] == []


def test_a_version_that_loses_a_known_defect_wants_them_named(line: Line, running: Any) -> None:
    line.shift()
    candidate = line.learn()
    learning = running.station.learning
    row = learning.candidates.row(1, candidate["id"])
    facts = json.loads(row.facts)
    facts["judgement"] |= {"lost": [8], "refused": ["simulated"], "responsible": [9]}
    learning.candidates.change(candidate["id"], "ready", facts=facts)
    page = line.http.get(f"/{NAME}/models").text
    assert f"{API}/inspections/9/" in page, "a small picture of the correction that is responsible"
    assert 'data-losing="8,9"' in page
    refused = line.use(2)
    assert (refused.status_code, refused.json()["code"]) == (409, "loses_defects")
    assert "8, 9" in refused.json()["error"]
    assert line.use(2, losing=[8]).status_code == 409
    assert line.active() == 1
    assert line.use(2, losing=[8, 9]).status_code == 200
    assert (line.use(1).status_code, line.use(2).status_code) == (200, 200), "it was agreed to once"


def test_a_process_that_is_killed_and_one_that_begins_again(line: Line, running: Any) -> None:
    line.shift()
    learning = running.station.learning
    number = line.http.post(f"{API}/learning", json={}).json()["id"]
    os.kill(until(lambda: learning.worker.pid), signal.SIGKILL)
    failed = line.ended(number)
    assert failed["status"] == "failed"
    assert "it was killed" in failed["error"]
    codes = [one["code"] for one in line.http.get("/api/v1/status").json()["problems"]]
    assert codes == ["learning_1"]
    assert line.send(drawn_part(7), "goes on.png")["version"] == 1
    assert line.learn()["status"] == "ready"
    assert line.http.get("/api/v1/status").json()["problems"] == []
    assert not list(running.station.files.folder.rglob("*.part"))


def test_a_station_that_ends_meanwhile_makes_it_when_it_starts(open_station: Any) -> None:
    first = open_station()
    line = Line(first.url)
    line.shift()
    number = line.http.post(f"{API}/learning", json={}).json()["id"]
    until(lambda: first.station.learning.worker.pid)
    first.close()
    second = Line(open_station().url)
    candidate = second.ended(number)
    assert (candidate["status"], candidate["version"]) == ("ready", 2)


def test_a_data_base_that_goes_meanwhile(open_station: Any, own_postgres: Any) -> None:
    with own_postgres.database() as url:
        running = open_station(database=url)
        line = Line(running.url)
        line.shift()
        number = line.http.post(f"{API}/learning", json={}).json()["id"]
        until(lambda: running.station.learning.worker.pid)
        own_postgres.stop("immediate")
        time.sleep(6)
        own_postgres.start()
        until(lambda: line.http.get(f"{API}/learning").status_code == 200)
        assert line.ended(number)["status"] == "ready"
        assert len(line.http.get(f"{API}/versions").json()["versions"]) == 2
        running.close()


def test_why_nothing_can_be_learnt(
    open_station: Any, settings: Any, onnx_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    running = open_station(products={NAME: Product(str(onnx_path))})
    line = Line(running.url)
    answer = line.http.post(f"{API}/learning", json={})
    assert answer.status_code == 422
    assert "name the trained model as `learn: trained`" in answer.json()["error"]
    assert line.http.get(f"{API}/learning").json()["why_not"] == answer.json()["error"]
    assert answer.json()["error"] in line.http.get(f"/{NAME}/models").text.replace("&#39;", "'")
    running.close()
    again = open_station(store=str(tmp_path / "other"))
    line = Line(again.url)
    empty = line.http.post(f"{API}/learning", json={})
    assert "nobody has said what a picture is" in empty.json()["error"]
    line.say(line.send(drawn_part(1))["id"], "good")
    odd = line.http.post(f"{API}/learning", json={"how": "retrained"})
    assert "`learn: pictures`" in odd.json()["error"]
    line.learn(how="recalibrated")
    failed = line.http.get(f"{API}/learning").json()["candidates"][0]
    assert failed["status"] == "failed"
    assert "1 good picture of the line can calibrate, 19 are needed" in failed["error"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "learning needs torch" in line.http.get(f"{API}/learning").json()["why_not"]


def test_an_export_is_learnt_by_its_trained_model_and_exported(
    open_station: Any, onnx_path: Path, model_path: Path
) -> None:
    product = Product(str(onnx_path), learn=Learn(after=1000, trained=str(model_path)))
    running = open_station(products={NAME: product})
    line = Line(running.url)
    found = line.shift(2)
    candidate = line.learn()
    assert candidate["status"] == "ready", candidate["error"]
    assert candidate["judgement"]["learnt"] == found["stained"]
    path = running.station.versions.path(1, candidate["version"])
    assert path.suffix == ".onnx"
    assert line.use(2).status_code == 200
    assert line.send(drawn_part(251, stained=True))["version"] == 2


def test_versions_that_were_never_used_do_not_pile_up(open_station: Any, settings: Any) -> None:
    product = replace(settings.products[NAME], learn=Learn(after=1000, keep=1))
    running = open_station(products={NAME: product})
    line = Line(running.url)
    line.shift(1)
    first = line.learn()
    for seed in (600, 601):
        one = line.send(drawn_part(seed, stained=True), f"{seed}.png")
        line.say(one["id"], "good")
        line.say(one["id"], "good")
        last = line.learn()
    gone = running.station.versions
    until(lambda: line.http.get(f"{API}/candidates/{first['id']}").json()["status"] == "removed")

    def versions() -> list[int]:
        return [one["id"] for one in line.http.get(f"{API}/versions").json()["versions"]]

    until(lambda: versions() == [last["version"], 1])
    until(lambda: len(list((gone.files.folder / "models").iterdir())) == 2)
    rejected = line.http.post(f"{API}/candidates/{last['id']}/reject").json()
    assert rejected["status"] == "rejected"
    assert line.http.post(f"{API}/candidates/{first['id']}/reject").status_code == 422


def test_a_switch_under_load_of_eight_clients(
    open_station: Any, other_trained: Path, parts: list[bytes]
) -> None:
    running = open_station()
    line = Line(running.url)
    before = scores(line, parts)
    added = line.http.post(
        f"{API}/versions", params={"name": "new.safetensors"}, content=other_trained.read_bytes()
    )
    assert added.status_code == 201, added.text
    load_ = Load(running.url, parts, clients=8)
    load_.start()
    for version in (2, 1, 2, 1):
        time.sleep(0.7)
        assert line.use(version).status_code == 200
    time.sleep(0.5)
    load_.end()
    assert load_.odd == []
    found = [one for one in everything(running.url) if one["name"] in load_.taken]
    assert len(found) == len(load_.taken)
    assert {one["version"] for one in found} == {1, 2}
    first = {one["picture"]: one for one in found}
    assert len(first) == len(found), "each was taken once"
    assert scores(line, parts) == before


@pytest.fixture(scope="session")
def other_trained(model_path: Path, drawn: Path, shared: Callable[..., Path]) -> Path:
    """The same network with another threshold."""
    return (
        shared(
            "other-trained",
            lambda folder: load(model_path, device="cpu").with_rate(0.2).save(folder / "new.safetensors"),
        )
        / "new.safetensors"
    )


# ----------------------------------------------------------------------------------------- what it is made of


def test_the_drawn_pictures_are_a_fair_sample(database: Any) -> None:
    """False alarms have their share of the line among them, also while some wait for a review."""
    store = Store(database)
    product_id = prepared(database)
    taken = [
        Taken(
            product_id=product_id, version_id=1, picture=hashlib.sha256(b"%d" % k).hexdigest(), suffix=".png",
            bytes=1, width=1, height=1, at=k + 1, name=f"{k}", source="http", score=1.0, p_value=0.5,
            severity=0.0, score_threshold=1.0, anomalous=k % 10 == 0, near=False,
        )
        for k in range(1000)
    ]  # fmt: skip
    numbers = [number for number, _ in store.record(taken)]
    flagged = numbers[::10]
    for number in flagged[:50]:  # half of them are reviewed yet
        store.decide(product_id, number, "good", "anna")
    store.decide(product_id, numbers[1], "defect", "anna")
    with database.reading() as connection:
        rows = [row for seed in range(20) for row in drawn_of_line(connection, product_id, 200, seed)]
    assert len(rows) == 20 * 200
    share = sum(row.anomalous for row in rows) / len(rows)
    assert 0.08 < share < 0.12
    assert numbers[1] not in {row.id for row in rows}
    assert not {row.id for row in rows} & set(flagged[50:])


def prepared(database: Any) -> int:
    """A product with a version; its number."""
    with database.writing() as connection:
        connection.execute(stations.insert().values(name="station"))
    product_id = Store(database).add_product(NAME)
    with database.writing() as connection:
        row = {"product_id": product_id, "hash": "0" * 64, "file": "f", "origin": "o", "facts": "{}"}
        connection.execute(versions.insert().values(**row, created_at=1))
    return product_id


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, []),
        ({"lost": [3]}, ["lost"]),
        ({"weaker": [3]}, ["weaker"]),
        ({"refused": ["simulated"], "responsible": [4]}, ["simulated"]),
        ({"good": {"before": [2], "after": [2]}}, ["no_gain"]),
        ({"good": {"before": [2], "after": [3]}, "lost": [1]}, ["lost", "no_gain"]),
    ],
)
def test_the_rule(changes: dict[str, Any], why: list[str]) -> None:
    judgement = {"lost": [], "weaker": [], "good": {"before": [2], "after": [1]}, **changes}
    assert waits(judgement, 5, 5) == why
    assert waits(judgement, 4, 5) == [*why, "few"]
    assert waits(judgement, 5, 5, is_active=False) == [*why, "switched"]
