"""A model for each view of a part learns at the station from what people say of parts, and names exchanged
views."""

from typing import Any

import pytest

import flawscope
from flawscope.predictor.router import read_facts
from flawscope_station.client import Client
from flawscope_station.settings.station import ProductSettings
from learning_helpers import API, NAME, Line
from small_network import SMALL_NETWORK
from view_helpers import VIEWS, view, whole

PARTS = 20


@pytest.fixture(scope="module")
def views_model(tmp_path_factory):
    """A file with a model for each of three views."""
    home = tmp_path_factory.mktemp("views")
    (home / "good").mkdir()
    for part in range(PARTS):
        for name in VIEWS:
            (home / "good" / f"p{part}_{name}.png").write_bytes(view(part, name))
    how: dict[str, Any] = {"size": 64, "cap": 200, "check": False, "device": "cpu"}
    fitted = flawscope.fit(home / "good", part=r"p\d+", each_view=True, **how, **SMALL_NETWORK)
    fitted.save(home / "views.safetensors")
    return home / "views.safetensors"


@pytest.fixture
def station(open_station, views_model):
    return open_station(products={NAME: ProductSettings(str(views_model))})


def send(client: Client, part: int, bad: str | None = None) -> Any:
    return client.inspect_part(whole(part, bad), f"n{part}")


def test_corrections_of_parts_become_a_version_of_all_views(station, views_model):
    line = Line(station.url)
    assert line.http.get(f"{API}/learning").json()["why_not"] is None
    with Client(station.url) as client:
        stained = [send(client, part, "top") for part in (40, 41, 42)]
        assert [(one.decision, one.view) for one in stained] == [("anomalous", "top")] * 3
        for one in stained:
            line.say(one.id, "good")
            line.say(one.id, "good")  # looked at twice
        missed = send(client, 50, "left")
        line.say(missed.id, "defect")
        candidate = line.learn()
        assert (candidate["status"], candidate["error"], candidate["how"]) == ("ready", None, "extended")
        judged = candidate["judgement"]
        assert judged["learnt"] == [one.id for one in stained]
        assert (judged["good"]["count"], judged["good"]["before"][0]) == (3, 3)
        assert (judged["defects"]["count"], judged["lost"]) == (1, [])
        assert line.http.get(f"/{NAME}/models").status_code == 200
        assert line.use(candidate["version"], losing=judged["lost"]).status_code == 200
        again = send(client, 43, "top")
        assert again.version == candidate["version"]
        top = {one.view: one.score for one in again.views}["top"]
        assert top < min({one.view: one.score for one in part.views}["top"] for part in stained)
        assert send(client, 51, "left").decision == "anomalous"
    path = station.station.versions.path(1, candidate["version"])
    before, after = read_facts(views_model), read_facts(path)
    counts = {name: len(after.manifests[name].pictures) for name in VIEWS}
    assert counts == {**{name: len(before.manifests[name].pictures) for name in VIEWS}, "top": PARTS + 3}
    assert after.known_parts()[""].calibration.complete_count == PARTS


def test_an_operator_reads_which_views_are_exchanged(station):
    with Client(station.url) as client:
        pictures = whole(60)
        pictures["top"], pictures["left"] = pictures["left"], pictures["top"]
        found = client.inspect_part(pictures, "n60")
        assert found.decision == "anomalous"
        page = Line(station.url).http.get(f"/{NAME}/inspections/{found.id}").text
        assert "named as view left, looks like top" in page
