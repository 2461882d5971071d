"""The band of the Live page belongs to the present part: an earlier verdict is never shown as that of a part
that was not judged. In a real browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from camera_helpers import DelayedCamera, sources
from flawscope.errors import FlawscopeError
from flawscope_station.inspecting.interlock import NotReadyError
from flawscope_station.inspecting.job import LateError, ModelError
from flawscope_station.settings.sources import CameraSourceSettings
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.database import StoreError
from flawscope_station.store.open_models import NoModelError
from station_helpers import until
from tablet import API, Tablet, needs_chromium, tablet_at
from tablet import driver_fixture as driver_fixture
from tablet import tablet_fixture as tablet_fixture

pytestmark = needs_chromium

NOT_READY = NotReadyError("plate is not ready: challenge parts have not passed")
REFUSED: dict[str, tuple[Exception, int, str]] = {
    "challenge parts are due": (NOT_READY, 503, "challenge parts must be shown first"),
    "it was not judged in time": (LateError("not judged in time"), 504, "not in time"),
    "the disk is full": (StoreError("no space", "disk_full"), 507, "the disk is full"),
    "the data base is away": (StoreError("away", "store_unreachable"), 503, "results cannot be stored"),
    "no model is open": (NoModelError("no model is open"), 503, "no model is open"),
    "the model failed": (ModelError("the model failed"), 503, "the model failed"),
    "nobody knows": (FlawscopeError("a bug"), 503, "the station could not judge it"),
}


def band(tablet: Tablet) -> tuple[str, str, str]:
    """State, word, and what stands below it."""
    return (
        str(tablet.find("#band").get_attribute("data-state")),
        tablet.text("#word"),
        tablet.text("#since"),
    )


def shows(tablet: Tablet, state: str) -> Callable[[], bool]:
    return lambda: band(tablet)[0] == state


def colour(tablet: Tablet) -> str:
    return str(tablet.js("return getComputedStyle(document.querySelector('#band')).backgroundColor"))


@pytest.mark.parametrize("why", REFUSED)
def test_a_part_that_is_refused_takes_the_place_of_a_good_one(tablet, judged, monkeypatch, why):
    """Until a part is judged, and also on a page that is opened later."""
    error, status, said = REFUSED[why]

    def refuse(*given: Any, **named: Any) -> Any:
        raise error

    tablet.open("live")
    tablet.post(judged[0], "one.png")
    tablet.wait(shows(tablet, "good"))
    with monkeypatch.context() as patch:
        patch.setattr(tablet.station.inspector, "submit", refuse)
        sent = tablet.http.post(f"{API}/inspections?part=4711", content=judged[0])
        assert sent.status_code == status
        tablet.wait(shows(tablet, "refused"))
        assert band(tablet) == ("refused", "Not judged", f"4711: {said}")
        assert colour(tablet) == "rgb(0, 0, 0)"
        tablet.open("live")
        tablet.wait(shows(tablet, "refused"))
    tablet.post(judged[0], "two.png")
    tablet.wait(shows(tablet, "good"))


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"no picture", "the picture could not be read"), (b"", "the picture was empty")],
)
def test_a_picture_that_cannot_be_read(tablet, judged, data, said):
    tablet.post(judged[0], "one.png")
    tablet.open("live")
    tablet.wait(shows(tablet, "good"))
    assert tablet.http.post(f"{API}/inspections", content=data).status_code == 422
    tablet.wait(shows(tablet, "refused"))
    assert band(tablet)[1:] == ("Not judged", said)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("challenge_1", "Challenge parts must be shown"),
        ("camera_frozen_1_1", "The camera repeats the same picture"),
        ("no_model_1", "No model is open"),
        ("not_inspecting", "Pictures are not inspected"),
    ],
)
def test_a_problem_that_stops_the_product_owns_the_band(tablet, judged, code, said):
    tablet.post(judged[0], "one.png")
    tablet.open("live")
    tablet.wait(shows(tablet, "good"))
    tablet.station.health._check = lambda: None  # which says that all is well
    tablet.station.health.watch.check = lambda: None
    tablet.station.report(code, "why", stops=True)
    tablet.wait(shows(tablet, "stopped"))
    assert band(tablet)[1:] == ("Not inspecting", said)
    tablet.station.report(code, None)
    tablet.wait(shows(tablet, "good"))


def test_a_problem_of_another_product_does_not_and_the_bar_names_it(open_station, settings, driver, judged):
    model = settings.products["plate"].model
    running = open_station(products={name: ProductSettings(model) for name in ("plate", "lid")})
    lid = running.station.products["lid"]
    with tablet_at(running, driver) as tablet:
        tablet.post(judged[0], "one.png")
        tablet.open("live")
        tablet.wait(shows(tablet, "good"))
        running.station.report(f"camera_frozen_{lid}_1", "why", stops=True)
        tablet.wait(lambda: "lid: The camera repeats the same picture" in tablet.text("#problem"))
        assert band(tablet)[0] == "good"
        tablet.open("history")
        assert "lid: The camera repeats the same picture" in tablet.text("#problem")


def test_a_frozen_camera_is_seen_from_afar(open_station, settings, driver):
    camera = DelayedCamera(0.0)
    source = CameraSourceSettings(camera.address, "trigger", latency="1 ms")
    model = settings.products["plate"].model
    running = open_station(products={"plate": ProductSettings(model, sources=(source,))})
    try:
        with tablet_at(running, driver) as tablet:
            until(lambda: sources(running.url)[0]["state"] == "running")
            tablet.open("live")
            assert httpx.post(f"{running.url}{API}/trigger", timeout=60).status_code == 201
            tablet.wait(lambda: band(tablet)[0] in ("good", "anomalous"))
            camera.is_frozen = True
            until(lambda: sources(running.url)[0]["state"] == "frozen")
            assert httpx.post(f"{running.url}{API}/trigger", timeout=60).status_code == 503
            tablet.wait(shows(tablet, "stopped"))
            assert "camera1 repeats a frame" in tablet.text("#sources")
    finally:
        camera.close()


def test_after_a_time_without_a_part_the_band_says_so(tablet, judged):
    tablet.open("live")
    tablet.post(judged[0], "one.png")
    tablet.wait(shows(tablet, "good"))
    tablet.js("const now = Date.now; Date.now = () => now() + 61000")
    tablet.wait(shows(tablet, "idle"))
    assert band(tablet)[1] == "No part"
    assert band(tablet)[2].startswith("since ")


def test_a_held_picture_is_not_the_present_part(tablet, judged):
    tablet.post(judged[1], "one.png")
    tablet.open("live")
    tablet.press("h")
    tablet.wait(shows(tablet, "held"))
    tablet.http.post(f"{API}/inspections", content=b"no picture")
    tablet.wait(shows(tablet, "refused"))
    tablet.post(judged[0], "two.png")
    tablet.wait(shows(tablet, "held"))
    tablet.press("h")
    tablet.wait(shows(tablet, "good"))
