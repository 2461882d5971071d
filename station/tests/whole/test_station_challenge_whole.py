"""Challenge parts: until they have passed nothing is answered, whoever asks, also after a kill."""

import html
import re
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic as time_now
from typing import Any

import httpx
import numpy as np
import pytest
from selenium.webdriver.support.ui import Select

from challenge_helpers import HOUR, Line, settings_with
from flawscope_station.challenge.readiness import LEAST
from flawscope_station.inspecting import intake
from flawscope_station.settings.shifts import ShiftSettings
from flawscope_station.settings.sources import FolderSourceSettings
from flawscope_station.settings.station import read_settings
from sink_helpers import make_sink
from station_helpers import NAME, ManualClock, again, png, recorded, until
from tablet import API, PHONE, SLATE, needs_chromium, tablet_at


@pytest.fixture
def prepare(settings, open_station, judged):
    """`prepare(times)`: a station with a good and a defective challenge part, which have never been shown."""

    def one(*times: str, folder: str | None = None, **more: Any) -> Line:
        before = Line(open_station(), judged)
        for name, expected in (("g-1", "good"), ("d-1", "anomalous")):
            number = before.send(before.pictures[name]).json()["id"]
            assert before.add(name, expected, number).status_code == 201
        before.close()
        return Line(open_station(**settings_with(settings, *times, folder=folder), **more), judged)

    return one


def test_nothing_is_answered_until_each_part_has_got_its_answer(prepare):
    line = prepare()
    assert (line.state()["ready"], line.state()["cause"]) == (False, "first")
    refused = line.send(again(line.pictures["g-1"]))
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    until(lambda: httpx.get(f"{line.running.url}/readyz").status_code == 503)
    problems = httpx.get(f"{line.running.url}/readyz").json()["problems"]
    assert [one["kind"] for one in problems] == ["challenge"]
    assert refused.headers["Retry-After"]
    assert "Not ready" in line.page()
    assert line.show("g-1") == "the challenge part g-1 has passed; next is d-1"
    assert not line.answers_good(), "d-1 is missing"
    assert "Jetzt einlegen: <bdi>d-1</bdi>" in " ".join(line.page("de").split())
    assert line.state()["missing"] == ["d-1"]
    assert line.show("d-1") == "the challenge part d-1 has passed; all have: parts are inspected again"
    assert line.state()["ready"]
    assert line.answers_good()
    assert "Prêt" in line.page("fr")
    assert "no challenge is due" in line.show("g-1")
    line.client.post("/challenge")
    line.pass_all()
    assert line.page().count("<polyline") == 4, "scores and thresholds of both parts"


def test_a_challenge_counts_nowhere_in_the_production(prepare):
    line = prepare()
    store, number = line.station.store, line.station.products[NAME]
    before = store.totals(number), store.waiting_count(number)
    line.pass_all()
    assert len(recorded(line.station)) == 2, "those that the parts were stored from"
    assert (store.totals(number), store.waiting_count(number)) == before
    (result,) = (one["results"] for one in line.state()["parts"] if one["name"] == "d-1")
    assert (result[0]["outcome"], result[0]["score"] > result[0]["score_threshold"]) == ("passed", True)
    assert result[0]["resemblance"] > LEAST


def test_a_wrong_part_does_not_pass(prepare, judged):
    line = prepare()
    plain = np.full((96, 96, 3), 90, np.uint8)
    plain[:, ::7] = 200
    assert "does not look like it" in line.show("g-1", png(plain))
    assert "taken before" in line.show("g-1", line.pictures["g-1"]), "the stored picture itself"
    assert line.state()["missing"] == ["g-1", "d-1"]
    assert not line.answers_good()
    assert "judged wrongly" in line.show("d-1", again(judged[0])), "a good one in the place of the defective"
    assert line.state()["cause"] == "failed"
    assert not line.answers_good()
    assert line.state()["missing"] == ["g-1", "d-1"], "all are shown again"
    line.pass_all()
    assert [one["outcome"] for one in line.state()["challenges"]] == ["passed", "failed"]


@pytest.mark.parametrize("language", ["en", "de", "fr"])
def test_a_station_without_a_settings_file_is_told_what_to_write_into_one(
    running, judged, tmp_path, language
):
    page = Line(running, judged).page(language)
    assert "<code>flawscope serve station.yaml</code>" in page
    (tmp_path / "station.yaml").write_text(html.unescape(re.findall("<p><code>(.*)</code>", page)[0]))
    product = read_settings(tmp_path / "station.yaml").products[NAME]
    assert (product.model, product.folder, product.challenge) == (None, None, ("06:00",))


def test_a_picture_that_was_shown_is_not_new(prepare):
    line = prepare()
    taken = again(line.pictures["g-1"])
    assert "passed" in line.show("g-1", taken)
    line.show("d-1")
    line.client.post("/challenge")
    assert "taken before" in line.show("g-1", taken)


@pytest.mark.parametrize("kind", ["good", "anomalous"])
def test_without_parts_of_both_kinds_nothing_passes(prepare, kind):
    line = prepare()
    gone = next(one["id"] for one in line.state()["parts"] if one["expected"] != kind)
    assert line.client.delete(f"/challenge/parts/{gone}").status_code == 200
    (name,) = (one["name"] for one in line.state()["parts"])
    assert "passed" in line.show(name)
    assert not line.answers_good()


def test_another_model_is_challenged_also_for_pictures_that_wait(prepare, other_model):
    line = prepare()
    line.pass_all()
    before = line.client.get("/versions").json()["active"]
    sent = line.client.post("/versions", params={"name": "new.onnx"}, content=other_model.read_bytes())
    assert line.client.post(f"/versions/{sent.json()['id']}/activate", json={}).status_code == 200
    assert line.state()["cause"] == "version"
    assert not line.answers_good()
    line.challenge.check = lambda product_id, part: None  # type: ignore[method-assign]  # it came before
    assert not line.answers_good(), "the new version judged it"
    assert line.client.post(f"/versions/{before}/activate", json={}).status_code == 200
    assert line.answers_good(), "the version that has passed judges again"


def test_a_challenge_begins_anew_with_another_model(prepare, other_model):
    line = prepare()
    assert "passed" in line.show("g-1")
    sent = line.client.post("/versions", params={"name": "new.onnx"}, content=other_model.read_bytes())
    line.client.post(f"/versions/{sent.json()['id']}/activate", json={})
    assert "already" not in line.show("g-1"), "it passed with another version"
    assert line.state()["challenges"][1]["outcome"] == "replaced"
    assert "d-1" in line.state()["missing"]
    assert not line.answers_good()


def test_changed_settings_and_parts_are_challenged(prepare, settings, open_station, judged):
    line = prepare()
    line.pass_all()
    line.close()
    line = Line(open_station(**settings_with(settings)), judged)
    assert line.answers_good(), "nothing has changed"
    line.close()
    more = {"deadline": "20 s", "sinks": (make_sink(webhook="http://127.0.0.1:9/"),), "camera_checks": False}
    line = Line(open_station(**settings_with(settings, **more), near=0.4, threads=2), judged)
    assert line.answers_good(), "no decision depends on these"
    line.close()
    line = Line(open_station(**settings_with(settings), device="auto"), judged)
    assert line.state()["cause"] == "settings", "models run elsewhere"
    assert not line.answers_good()
    line.pass_all()
    assert line.add("g-2", "good", 1).status_code == 201
    assert (line.state()["cause"], line.answers_good()) == ("settings", False)


def test_it_is_due_at_its_time_whatever_the_clock_says(prepare, monkeypatch):
    line = prepare("06:00", "14:00", shifts=ShiftSettings({"early": "06:00"}, zone="Europe/Berlin"))
    clock, wall = ManualClock(), [round(datetime(2026, 11, 26, 9, tzinfo=UTC).timestamp() * 1e6)]
    line.challenge.clock, line.challenge.wall = clock, lambda: wall[0]
    monkeypatch.setattr(intake, "now", lambda: wall[0])
    line.pass_all()
    assert line.state()["next_at"] == "2026-11-26T13:00:00.000Z"
    assert line.answers_good()
    wall[0] += 4 * HOUR - 1
    assert line.answers_good()
    wall[0] += 1
    assert (line.state()["cause"], line.answers_good()) == ("time", False)
    line.pass_all()
    wall[0] -= HOUR
    assert (line.state()["cause"], line.answers_good()) == ("clock", False), "set back before the challenge"
    line.pass_all()
    clock.advance(18 * 3600 + 100)
    assert (line.state()["cause"], line.answers_good()) == ("clock", False), "the clock stands"


def test_only_a_person_with_the_right_overrides_and_says_why(prepare):
    line = prepare()
    access = line.station.access
    tokens = {role: access.tokens.add(role, role) for role in ("viewer", "operator", "engineer", "admin")}

    def override(role: str, reason: str) -> int:
        headers = {"Authorization": f"Bearer {tokens[role]}"}
        return line.client.post("/challenge/override", json={"reason": reason}, headers=headers).status_code

    assert [override(role, "it is lost") for role in ("viewer", "operator")] == [403, 403]
    assert override("engineer", " ") == 422
    line.client.headers["Authorization"] = f"Bearer {tokens['admin']}"
    assert not line.answers_good()
    assert override("engineer", "d-1 is lost") == 200
    assert line.answers_good()
    assert override("engineer", "again") == 422, "there is nothing to override"
    audit = line.client.get(f"{line.running.url}/api/v1/audit", params={"text": "d-1 is lost"}).json()
    (entry,) = audit["entries"]
    assert (entry["kind"], entry["who"]) == ("challenge_overridden", "engineer")
    last = line.state()["challenges"][0]
    assert (last["outcome"], last["who"], last["reason"]) == ("overridden", "engineer", "d-1 is lost")


def test_two_people_have_one_challenge(prepare):
    line = prepare()
    line.pass_all()
    assert line.client.post("/challenge").json()["cause"] == "batch"
    assert not line.answers_good()
    second = line.client.post("/challenge")
    assert (second.status_code, second.json()["code"]) == (409, "challenge_open")
    assert "local has begun" in second.json()["error"]
    line.show("g-1")
    assert "has passed already" in line.show("g-1")
    assert len(line.state()["challenges"]) == 2


@pytest.mark.parametrize("then", ["keep", "move"])
def test_a_folder_takes_challenge_parts_behind_parts_that_wait(
    prepare, settings, open_station, tmp_path, then
):
    (incoming := tmp_path / "incoming").mkdir()
    line = prepare()
    line.close()
    pattern = r"(?P<part>[\w-]+)\.png"
    target = str(tmp_path / "done") if then == "move" else then
    sources = (FolderSourceSettings(str(incoming), target, pattern),)
    line.running = open_station(**settings_with(settings, sources=sources))
    line.client = httpx.Client(base_url=f"{line.running.url}/api/v1/products/{NAME}", timeout=60)
    store, number = line.station.store, line.station.products[NAME]
    for part in range(3):
        (incoming / f"47{part}.png").write_bytes(again(line.pictures["g-1"]))
    for name, data in line.pictures.items():
        (incoming / f"{name}.png").write_bytes(again(data))
        (incoming / f"48-{name}.png").write_bytes(again(data))
    until(lambda: store.totals(number)["inspections"] == 7)  # with those that the parts were stored from
    assert line.state()["ready"]
    parts = [one["part"] for one in line.client.get("/inspections").json()["inspections"]]
    assert sorted(parts[:5]) == ["470", "471", "472", "48-d-1", "48-g-1"], "each once, and no challenge part"
    said = [row.text for row in store.events("challenge_part_shown", number)]
    assert sorted(text.partition(":")[0] for text in said) == ["d-1.png", "g-1.png"]
    assert not store.events("unreadable", number)
    until(lambda: len(list(incoming.iterdir())) == (7 if then == "keep" else 0))
    until(lambda: not line.station.problems())


def test_a_station_that_is_killed_is_ready_when_it_was_before(prepare, settings, judged, serve):
    prepare().close()
    product = {"model": settings.products[NAME].model, "challenge": []}
    served = serve(product, store=settings.store)
    served.start()
    line = Line(served, judged)
    line.show("g-1")
    for part in ("d-1", None):
        served.kill()
        served.start()
        assert line.state()["missing"] == ([part] if part else [])
        assert line.answers_good() is (part is None)
        if part:
            line.show(part)


def test_it_is_set_up_from_nothing(settings, open_station, judged, tmp_path):
    """As the docs say: parts are kept, then shown, while others wait; by HTTP and a folder."""
    (incoming := tmp_path / "incoming").mkdir()
    sources = (FolderSourceSettings(str(incoming), str(tmp_path / "done"), r"(?P<part>[\w-]+)\.png"),)
    line = Line(open_station(**settings_with(settings, sources=sources)), judged)
    (source,), store = line.station.sources[NAME], line.station.store
    for part in range(3):
        (incoming / f"470{part}.png").write_bytes(again(judged[0]))
    until(lambda: any(one.kind == "folder_waits" for one in line.station.problems()))
    assert (line.state()["cause"], line.answers_good()) == ("first", False)

    def send(name: str) -> str:
        """Send a part as a file of the folder; return what became of it."""
        before, at = store.events("challenge_part_shown", line.station.products[NAME]), time_now()
        (incoming / f"{name}.png").write_bytes(again(line.pictures[name]))
        until(lambda: not (incoming / f"{name}.png").exists())
        assert time_now() - at < 5
        said = store.events("challenge_part_shown", line.station.products[NAME])
        assert len(said) == len(before) + 1
        return str(said[0].text)

    new = {"name": "g-1", "expected": "good"}
    assert line.client.post("/challenge/parts", json=new).json()["views"] == [], "it has no picture yet"
    assert line.state()["missing"] == []
    assert line.page().count("Its first picture that comes is kept.") == 2  # as the next one, and in the list
    assert line.show("g-1") == "the challenge part g-1 is kept, and was judged as good"
    assert line.client.post("/challenge/parts", json=new).status_code == 422, "it is there"
    for wrong in (
        {"expected": "perhaps"},
        {"expected": "mended"},
        {"note": "two\nlines"},
        {"note": "x" * 201},
    ):
        body = {"name": "d-1", "expected": "defective"} | wrong
        assert line.client.post("/challenge/parts", json=body).status_code == 422, wrong
    new = {"name": "d-1", "expected": "defective"}
    assert line.client.post("/challenge/parts", json=new).status_code == 201
    assert send("d-1").endswith("the challenge part d-1 is kept, and was judged as defective")
    assert [(one["name"], one["expected"]) for one in line.state()["parts"]] == [
        ("g-1", "good"),
        ("d-1", "anomalous"),
    ]
    assert not line.answers_good(), "keeping is not showing"
    assert "has passed; next is d-1" in send("g-1")
    assert "all have" in line.show("d-1")
    begun = time_now()
    until(lambda: not list(incoming.iterdir()))
    assert time_now() - begun < 5
    assert source.state.taken == 3
    assert line.answers_good()
    until(lambda: not line.station.problems())
    parts = [one["part"] for one in line.client.get("/inspections").json()["inspections"]]
    assert sorted(parts) == ["4700", "4701", "4702", "4711"], "each once"


@needs_chromium
def test_a_person_keeps_a_new_picture(open_station, settings, driver, judged, tmp_path):
    (tmp_path / "new.png").write_bytes(again(judged[0]))
    with tablet_at(open_station(**settings_with(settings)), driver) as tablet:
        for file, said in ((str(tmp_path / "new.png"), "kept;"), ("", "Send the picture of g-2")):
            tablet.open("challenge")
            if file:
                tablet.find("#add [name=file]").send_keys(file)
            tablet.find("#add [name=name]").send_keys("g-1" if file else "g-2")
            tablet.click("#add button")
            tablet.wait(lambda said=said: said in tablet.text("#said"))
        assert "g-1" in tablet.text("[aria-labelledby=parts]")
        assert all("409" in one for one in tablet.complaints())


@needs_chromium
def test_a_person_keeps_parts_and_shows_them(open_station, settings, driver, judged, tmp_path):
    before = open_station()
    with tablet_at(before, driver) as tablet:
        numbers = [tablet.post(data)["id"] for data in judged]
        for number, name, expected in zip(numbers, ("g-1", "d-1"), ("good", "anomalous"), strict=True):
            tablet.open("challenge")
            tablet.wait(lambda: tablet.js("return document.querySelector('#add img').naturalWidth"))
            assert tablet.unfit(PHONE, SLATE) == []
            tablet.click(f"#add [name=inspection][value='{number}']")
            for field, text in (("name", name), ("note", "scratched")):
                tablet.find(f"#add [name={field}]").send_keys(text)
            Select(tablet.find("#add [name=expected]")).select_by_value(expected)
            tablet.click("#add button")
            tablet.wait(lambda name=name: name in tablet.text("main"))
    before.close()
    asking = replace(settings.products[NAME], challenge=("06:00",))
    with tablet_at(open_station(products={NAME: asking}), driver) as tablet:
        for _ in range(2):
            for name, data in zip(("g-1", "d-1"), judged, strict=True):
                tablet.open("challenge")
                assert tablet.text("#ready") == "Not ready: nothing is answered"
                assert f"Now insert: {name}, scratched" in " ".join(tablet.text("section h3").split())
                tablet.wait(lambda: tablet.js("return document.querySelector('section img').naturalWidth"))
                assert tablet.unfit(PHONE, SLATE) == []
                tablet.screen(1024, 768)
                (tmp_path / "new.png").write_bytes(again(data))
                tablet.find("#file").send_keys(str(tmp_path / "new.png"))
                tablet.wait(lambda name=name: tablet.text("#said") == f"{name}: passed")
            assert tablet.text("#ready") == "Ready: all challenge parts have passed"
            tablet.click("#begin")
            tablet.wait(lambda: tablet.text("#ready").startswith("Not ready"))
        assert [one.get_attribute("aria-label")[:21] for one in tablet.all("svg[role=img]")] == [
            "Scores of g-1, the la",
            "Scores of d-1, the la",
        ]
        for language, word in (("de", "Nicht bereit"), ("fr", "Pas prêt")):
            driver.add_cookie({"name": "language", "value": language})
            tablet.open("challenge")
            assert tablet.text("#ready").startswith(word)
            assert tablet.unfit(PHONE) == []
        tablet.screen(1024, 768)
        tablet.js("document.querySelector('#override').closest('details').open = true")
        tablet.find("#override [name=reason]").send_keys("d-1 verloren")
        tablet.click("#override button")
        tablet.wait(lambda: tablet.text("#ready").startswith("Bereit") or tablet.text("#ready")[:4] == "Prêt")
        assert tablet.http.post(f"{API}/inspections", content=again(judged[0])).status_code == 201
        assert all("409" in one for one in tablet.complaints()), "the answer to a challenge part"
