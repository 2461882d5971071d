"""False-alarm rates of a running station: changed on Models, and named in its settings."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

import flawscope
from flawscope.errors import InputError
from flawscope.predictor import read_manifest
from flawscope_station.learning.candidate_plan import make_plan
from flawscope_station.learning.candidates import Learning
from flawscope_station.store.throughput import pictures_a_day, reviewed_defects
from learning_helpers import Line, drawn_part
from station_helpers import NAME, make_older
from tablet import PHONE, needs_chromium, tablet_at

WIDE, NIGHT = (1400, 900, False), (1400, 900, True)
API = f"/api/v1/products/{NAME}"


@pytest.fixture(params=["onnx", "safetensors"])
def settings(request, onnx_path, model_path, settings):
    model = onnx_path if request.param == "onnx" else model_path
    return replace(settings, products={NAME: replace(settings.products[NAME], model=str(model))})


def active_rate(running: Any) -> float:
    return float(running.station.versions.active(running.station.products[NAME])[1].calibration.rate)


def numbers(http: httpx.Client) -> list[int]:
    return [one["id"] for one in http.get(f"{API}/versions").json()["versions"]]


def test_a_rate_is_changed_and_changed_back(running, settings):
    """The file has it: what is downloaded judges as the station does. Nothing is made twice."""
    line, model = Line(running.url), flawscope.load(settings.products[NAME].model, device="cpu")
    part = drawn_part(7)
    before = line.send(part)
    changed = line.http.post(f"{API}/versions/1/rate", json={"rate": 0.3})
    assert changed.status_code == 201, changed.text
    made = changed.json()
    assert (made["id"], made["active"], made["wanted_rate"], made["rate_of"]) == (2, True, 0.3, 1)
    assert made["false_alarm_rate"] == pytest.approx(3 / 13)
    after = line.send(part, "again.png")
    assert (after["version"], after["score"]) == (2, before["score"])
    assert after["score_threshold"] == model.with_rate(0.3).calibration.score_threshold
    assert after["score_threshold"] < before["score_threshold"]
    sent = line.http.get(f"{API}/versions/2/file").content
    kept = running.station.versions.path(1, 2)
    assert sent == kept.read_bytes()
    assert read_manifest(kept).calibration.rate == 0.3
    assert line.use(1).status_code == 200
    assert line.send(part, "back.png")["score_threshold"] == before["score_threshold"]
    again = line.http.post(f"{API}/versions/1/rate", json={"rate": 0.3}).json()
    assert (again["id"], numbers(line.http)) == (2, [2, 1])
    other = line.http.post(f"{API}/versions/2/rate", json={"rate": 0.1}).json()
    assert (other["id"], other["rate_of"]) == (3, 1)
    kinds = [(one["kind"], one["by"]) for one in line.http.get(f"{API}/trail").json()["entries"]]
    assert kinds.count(("version activated", "local")) == 4
    page = line.http.get(f"/{NAME}/models").text
    assert "of 100" in page
    bound = running.station.versions.active(1)[1].calibration.rate_bound
    assert bound > 0.1
    assert f">{float(f'{1000 * bound:.2g}'):g}<" in page, "whichever is chosen after a look"
    assert "holds with 95 % certainty, whichever of these rates you choose." in page


def test_a_version_that_never_judged_can_be_removed(running):
    """Not one that judged. The newest can: no number is given again."""
    http, versions = Line(running.url).http, running.station.versions
    made = [versions.add_at_rate(1, 1, rate, "emil") for rate in (0.3, 0.2)]
    assert (made, versions.removable(1)) == ([2, 3], [2, 3])
    folder, page = versions.path(1, 2).parent, http.get(f"/{NAME}/models").text
    assert [f'data-remove="{number}"' in page for number in (1, 2, 3)] == [False, True, True]
    refused = http.delete(f"{API}/versions/1")
    assert (refused.status_code, refused.json()["code"]) == (409, "version_used")
    assert http.delete(f"{API}/versions/2").status_code == 204
    assert (numbers(http), folder.exists()) == ([3, 1], False)
    assert http.delete(f"{API}/versions/2").status_code == 404
    entries = http.get("/api/v1/audit", params={"about": "deletions"}).json()["entries"]
    assert (entries[0]["who"], entries[0]["text"]) == ("local", "version 2, which was never used")


@pytest.mark.parametrize("rate", [0.05, 0.01, 0.0769])
def test_what_the_good_pictures_do_not_support_is_refused(running, rate):
    """12 of them support 1 in 13 at the lowest."""
    line = Line(running.url)
    refused = line.http.post(f"{API}/versions/1/rate", json={"rate": rate})
    assert refused.status_code == 422
    assert "12 good ones, which support 7.7 % or more" in refused.json()["error"]
    assert (line.active(), numbers(line.http)) == (1, [1])
    for odd in (0, 0.5, -1, "5 %"):
        assert line.http.post(f"{API}/versions/1/rate", json={"rate": odd}).status_code == 422
    assert line.http.post(f"{API}/versions/9/rate", json={"rate": 0.1}).status_code == 404


def test_the_settings_name_a_rate_for_whichever_version_judges(open_station, settings, onnx_path):
    def with_rate(text: str | None) -> dict[str, Any]:
        return {"products": {NAME: replace(settings.products[NAME], false_alarm_rate=text)}}

    running = open_station(**with_rate("20 %"))
    line = Line(running.url)
    assert (active_rate(running), line.active()) == (0.2, 2)
    refused = line.http.post(f"{API}/versions/2/rate", json={"rate": 0.1})
    assert (refused.status_code, refused.json()["code"]) == (409, "name_taken")
    assert line.use(1).status_code == 200  # another threshold was in that file
    assert (active_rate(running), line.active()) == (0.2, 2)
    body = onnx_path.read_bytes() if settings.products[NAME].model.endswith(".safetensors") else None
    if body is not None:
        line.http.post(f"{API}/versions", params={"name": "new.onnx"}, content=body)
        assert line.use(3).status_code == 200
        assert active_rate(running) == 0.2
    active, count = line.active(), len(numbers(line.http))
    running.close()
    running = open_station(**with_rate("20 %"))
    line = Line(running.url)
    assert (line.active(), len(numbers(line.http))) == (active, count)
    running.close()
    running = open_station(**with_rate("0.1"))
    assert (active_rate(running), len(numbers(Line(running.url).http))) == (0.1, count + 1)
    running.close()
    running = open_station(**with_rate(None))
    assert active_rate(running) == 0.1, "the version goes on as it was"
    running.close()
    with pytest.raises(InputError, match=r"cannot be kept.* support 7\.7 % or more"):
        open_station(**with_rate("1 %"))


def test_the_rate_of_the_line_and_its_known_defects(running):
    """What the table on Models multiplies with; of less than a day nothing is said."""
    line, database = Line(running.url), running.station.database
    found = line.shift()
    assert pictures_a_day(database, 1) is None
    make_older(database, days=2)
    assert pictures_a_day(database, 1) == pytest.approx(10 / 2, rel=0.03)  # counted by hours
    assert len(reviewed_defects(database, 1, [1])) == 3 >= len(found["defects"])
    assert reviewed_defects(database, 1, [2]) == []
    assert "False alarms a day" in line.http.get(f"/{NAME}/models").text


@pytest.mark.parametrize("settings", ["safetensors"], indirect=True)
def test_what_is_learnt_keeps_the_rate_that_people_chose(open_station):
    """And a version of another rate is no other model: what it has learnt is known, and can be taken back."""
    running = open_station()
    line = Line(running.url)
    found = line.shift()
    first = line.learn()
    assert line.use(first["version"], losing=first["at_risk"]).status_code == 200
    changed = line.http.post(f"{API}/versions/{first['version']}/rate", json={"rate": 0.3}).json()
    versions, database = running.station.versions, running.station.database
    active = running.station.components[Learning]._learning_version(1)
    assert active.number == changed["id"]
    with database.reading() as connection:
        plan = make_plan(connection, 1, active, running.station.files, 0)
    assert (plan.start, plan.learnt) == (changed["id"], first["judgement"]["learnt"])
    line.say(found["stained"][0], "undo")
    line.say(found["stained"][0], "undo")
    second = line.learn()
    assert second["start"] == 1, "a correction was taken back"
    assert read_manifest(versions.path(1, second["version"])).calibration.rate == 0.3


@needs_chromium
@pytest.mark.parametrize("settings", ["onnx"], indirect=True)
def test_a_rate_is_chosen_on_the_page(open_station, settings, driver):
    """With what it means; what is not supported cannot be chosen, and says why."""
    running = open_station()
    Line(running.url).shift()
    make_older(running.station.database, days=2)
    with tablet_at(running, driver) as tablet:
        tablet.screen(*WIDE)
        tablet.open("models")
        tablet.click("#rates summary")
        rows = [one.text for one in tablet.all("#rates tbody tr")]
        assert len(rows) == 7
        assert "87 more good pictures are needed" in rows[3]
        assert not tablet.find("#rates [value='0.01']").is_enabled()
        heads = tablet.text("#rates thead")
        assert "False alarms a day" in heads
        assert "Defects from the line found" in heads
        assert tablet.unfit(PHONE, NIGHT, WIDE) == []
        tablet.click("#rates [value='0.1']")
        tablet.click("#change-rate [type=submit]")
        tablet.wait(lambda: "Version 2 judges from now on" in tablet.text("#said"))
        assert active_rate(running) == 0.1
        assert tablet.text("#back") == "Go back to version 1"
        assert tablet.complaints() == []
