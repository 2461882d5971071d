"""What people say becomes a version: made beside the inspections, judged, live by a click."""

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from flawscope import load
from flawscope.predictor import read_manifest
from flawscope_station.learning import jobs
from flawscope_station.learning.candidate_records import list_history
from flawscope_station.learning.candidates import Learning
from flawscope_station.settings.station import LearningSettings, ProductSettings
from flawscope_station.store.schema import learnt_pixels, pictures
from learning_helpers import API, NAME, Line, drawn_part
from station_helpers import Load, everything, until
from tablet import PHONE, SLATE, needs_chromium


@pytest.fixture(scope="module")
def model_file(model_path):
    """The trained model itself."""
    return model_path


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.1)


@pytest.fixture
def line(running):
    made = Line(running.url)
    yield made
    made.http.close()


def trail(running: Any) -> list[dict[str, Any]]:
    """What was done, as the page Models tells it."""
    return list_history(running.station.database, 1, 100)


def scores(line: Line, parts: list[bytes]) -> list[float]:
    return [line.send(data, "again.png")["score"] for data in parts]


def test_corrections_become_a_version_and_back_is_the_old(line, running, model_file):
    parts = [drawn_part(400), drawn_part(401, "contamination")]
    before = scores(line, parts)
    found = line.shift()
    said = line.http.get(f"{API}/learning").json()
    assert (said["why_not"], said["after"], said["false_alarms"]) == (None, None, 3)
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
    # one that loses something wants it named, once
    facts = json.loads(running.station.components[Learning].candidates.row(1, candidate["id"]).facts)
    facts["judgement"] |= {"lost": [8], "refused": ["simulated"], "responsible": [9]}
    running.station.components[Learning].candidates.change(candidate["id"], "done", facts=facts)
    page = line.http.get(f"/{NAME}/models").text
    assert f"{API}/inspections/9/" in page, "a small picture of the correction that is responsible"
    assert 'data-losing="8,9"' in page
    refused = line.use(2)
    assert (refused.status_code, refused.json()["code"]) == (409, "loses_defects")
    assert "8, 9" in refused.json()["error"]
    assert line.use(2, losing=[8]).status_code == 409
    assert line.active() == 1
    assert line.use(2, losing=[8, 9]).status_code == 200
    assert (line.use(1).status_code, line.use(2).status_code) == (200, 200)
    assert line.send(drawn_part(250, stained=True), "new stain.png")["version"] == 2
    # what it learnt from stays
    store, database = running.station.store, running.station.database
    with database.reading() as connection:
        learnt = set(connection.execute(select(learnt_pixels.c.pixels)).scalars())
        where = pictures.c.hash == store.picture(1, found["stained"][0]).hash
        assert connection.execute(select(pictures.c.pixels).where(where)).scalar_one() in learnt
    assert line.use(1).status_code == 200
    assert scores(line, parts) == before, "bit for bit"
    kept = running.station.versions.path(1, 1)
    assert kept.read_bytes() == model_file.read_bytes()
    kinds = [(one["kind"], one["by"]) for one in trail(running)]
    wanted = ["learning asked", "candidate ready", "version added", "version activated", "verdict"]
    assert all((kind, "local") in kinds for kind in wanted)
    assert kinds.count(("version activated", "local")) == 5 - 1 + (
        ("version activated", "station") not in kinds
    )
    assert line.http.get(f"{API}/candidates/{candidate['id']}").json()["status"] == "live"


def test_a_version_is_made_by_itself_and_what_is_taken_back_is_forgotten(open_station, settings):
    product = replace(settings.products[NAME], learn=LearningSettings(after=3))
    running = open_station(products={NAME: product})
    line = Line(running.url)
    found = line.shift()

    def candidates() -> list[dict[str, Any]]:
        return list(line.http.get(f"{API}/learning").json()["candidates"])

    until(lambda: candidates() and candidates()[-1]["status"] == "ready")
    first = candidates()[-1]
    assert (first["by"], line.active()) == ("station", 1), "a person activates it"
    assert line.use(first["version"]).status_code == 200
    assert candidates()[-1]["status"] == "live"
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


def test_a_process_that_is_killed_and_one_that_begins_again(line, running):
    line.shift()
    learning = running.station.components[Learning]
    number = line.http.post(f"{API}/learning", json={}).json()["id"]
    os.kill(until(lambda: learning.queue.worker.pid), signal.SIGKILL)
    failed = line.ended(number)
    assert failed["status"] == "failed"
    assert "it was killed" in failed["error"]
    codes = [one["code"] for one in line.http.get("/api/v1/status").json()["problems"]]
    assert codes == ["learning_1"]
    assert line.send(drawn_part(7), "goes on.png")["version"] == 1
    assert line.learn()["status"] == "ready"
    assert line.http.get("/api/v1/status").json()["problems"] == []
    until(lambda: not list(running.station.files.folder.rglob("*.part")), "an unfinished file stays")


def test_why_nothing_can_be_learnt(open_station, settings, onnx_path, monkeypatch, tmp_path):
    running = open_station(products={NAME: ProductSettings(str(onnx_path))})
    line = Line(running.url)
    answer = line.http.post(f"{API}/learning", json={})
    assert answer.status_code == 422
    assert "name the trained model as `learn: trained`" in answer.json()["error"]
    assert line.http.get(f"{API}/learning").json()["why_not"] == answer.json()["error"]
    shown = re.sub("</?code>", "`", unescape(line.http.get(f"/{NAME}/models").text))
    assert answer.json()["error"] in shown
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


def test_an_export_is_learnt_by_its_trained_model_and_exported(open_station, onnx_path, model_path):
    product = ProductSettings(str(onnx_path), learn=LearningSettings(after=1000, trained=str(model_path)))
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


def test_versions_that_were_never_used_do_not_pile_up(open_station, settings):
    product = replace(settings.products[NAME], learn=LearningSettings(after=1000, keep=1))
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


def test_a_switch_under_load_of_eight_clients(running, line, model_file, parts, tmp_path):
    before = scores(line, parts)
    assert other_version(line, model_file, tmp_path, "20%") == 2
    load_ = Load(running.url, parts, clients=8)
    load_.start()
    for version in (2, 1, 2, 1):
        sent = len(load_.taken)
        until(lambda sent=sent: len(load_.taken) > sent + 10)
        assert line.use(version).status_code == 200
    sent = len(load_.taken)
    until(lambda: len(load_.taken) > sent + 10)
    load_.end()
    assert load_.odd == []
    found = [one for one in everything(running.url) if one["name"] in load_.taken]
    assert len(found) == len(load_.taken)
    assert {one["version"] for one in found} == {1, 2}
    first = {one["picture"]: one for one in found}
    assert len(first) == len(found), "each was taken once"
    assert scores(line, parts) == before


@contextmanager
def held_up(running: Any, line: Line) -> Iterator[int]:
    """A candidate, while its process stands still."""
    number = int(line.http.post(f"{API}/learning", json={}).json()["id"])
    process = until(lambda: running.station.components[Learning].queue.worker.pid)
    os.kill(process, signal.SIGSTOP)
    try:
        yield number
    finally:
        os.kill(process, signal.SIGCONT)


def other_version(line: Line, model: Path, folder: Path, rate: str = "2%") -> int:
    """An operator's own model file; its number."""
    path = folder / "other.safetensors"
    load(model).with_rate(rate).save(path)
    with path.open("rb") as file:
        answer = line.http.post(f"{API}/versions", params={"name": path.name}, content=file.read())
    assert answer.status_code in (200, 201), answer.text
    return int(answer.json()["id"])


def test_using_a_version_accepts_its_open_question(running, model_file, tmp_path):
    """Else each version that is learnt from it would ask again, and wait."""
    line, path, asked = Line(running.url), tmp_path / "asked.safetensors", "a.png lies apart"
    load(model_file).asking(asked).save(path)
    answer = line.http.post(f"{API}/versions", params={"name": path.name}, content=path.read_bytes())
    number, versions = int(answer.json()["id"]), running.station.versions
    assert read_manifest(versions.path(1, number)).questions == (asked,)
    before = versions.path(1, number).read_bytes()
    assert line.use(number).status_code == 200
    used = number + 1
    for _ in range(2):  # there is nothing to accept
        assert line.use(used).json()["version"] == used
    assert line.send(drawn_part(9))["version"] == used
    assert versions.path(1, number).read_bytes() == before, "a number names one file for ever"
    manifest = read_manifest(versions.path(1, used))
    assert (manifest.questions, manifest.notes[-1]) == ((), f"accepted: {asked}")
    assert versions.version(1, used)["notes"][-1] == f"accepted: {asked}"
    accepted = [one["text"] for one in trail(running) if "accepted" in one["text"]]
    assert accepted == [f"version {used}: accepted of version {number}: {asked}"]
    line.http.close()


def test_another_version_is_put_to_use_meanwhile(open_station, settings, model_file, tmp_path):
    """What was made from version 1 is shown as that; another one is made from the version that judges."""
    product = replace(settings.products[NAME], learn=LearningSettings(after=1000))
    running = open_station(products={NAME: product})
    line = Line(running.url)
    line.shift()
    other = other_version(line, model_file, tmp_path)
    with held_up(running, line) as number:
        assert line.use(other).status_code == 200
    first = line.ended(number)
    assert (first["status"], first["start"], first["compared_with"]) == ("ready", 1, 1)
    assert line.active() == other
    second = line.ended(until(lambda: newest(line, first["id"])))
    assert (second["status"], second["start"], second["compared_with"]) == ("ready", other, other)
    assert line.active() == other, "neither goes live without a click"
    assert line.send(drawn_part(9), "now.png")["version"] == other
    assert line.use(first["version"]).status_code == 200, "and who wants the first one may have it"
    line.http.close()


def newest(line: Line, after: int) -> int | None:
    """Of the candidates, if there is one after this."""
    number = int(line.http.get(f"{API}/learning").json()["candidates"][0]["id"])
    return number if number > after else None


@needs_chromium
def test_the_page_models_learns_shows_gains_and_losses_and_goes_back(tablet):
    line = Line(tablet.url)
    tablet.open("models")
    assert "Nobody has corrected the model yet" in tablet.text("[aria-labelledby=learn]")
    found = line.shift()
    tablet.open("models")
    assert "3 false alarms were corrected" in tablet.text("[aria-labelledby=learn]")
    tablet.click("#learn-now")
    tablet.wait(lambda: tablet.all("[data-status=ready]"), 90)
    tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready") == "yes")
    card = "[data-status=ready]"
    text = tablet.text(card)
    assert "Version 2" in text
    assert "Use it: of the good parts that were reviewed, 3 in all" in text
    assert len(tablet.all("[data-activate='2']")) == 1
    assert "waits for you" in text
    assert "False alarms that would pass" in text
    links = {one.get_attribute("href").rpartition("/")[2] for one in tablet.all(f"{card} a")}
    assert {str(number) for number in found["stained"]} <= links
    tablet.js("document.querySelector('[aria-labelledby=trail] details').open = true")
    assert "candidate ready" in tablet.text("[aria-labelledby=trail]")
    assert tablet.unfit(PHONE, SLATE) == []
    tablet.click(f"{card} [data-activate]")
    tablet.wait(lambda: tablet.find("#sure").is_displayed())
    assert tablet.text("#question") == "Use version 2 from now on?"
    tablet.click("#yes")
    tablet.wait(lambda: line.active() == 2)
    tablet.wait(lambda: tablet.all("#back"))
    assert tablet.all("[data-status=live]")
    tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready") == "yes")
    tablet.click("#back")
    tablet.wait(lambda: tablet.find("#sure").is_displayed())
    tablet.click("#yes")
    tablet.wait(lambda: line.active() == 1)
    assert tablet.complaints() == []
