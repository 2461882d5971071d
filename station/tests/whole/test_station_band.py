"""The band of the Live page belongs to the present part: an earlier verdict is never shown as that of a part
that was not judged. In a real browser."""

from collections.abc import Callable

import pytest

from flawscope.errors import FlawscopeError
from flawscope_station.inspecting.interlock import NotReadyError
from flawscope_station.inspecting.memory import BusyError
from flawscope_station.inspecting.picture import TooLargeError
from flawscope_station.inspecting.ticket import LateError, ModelError
from flawscope_station.settings.station import ProductSettings
from flawscope_station.sources.source import AwayError, CameraFrozenError, NoFrameError
from flawscope_station.store.database import StoreError
from flawscope_station.store.inspection import KeyUsedError
from flawscope_station.store.open_models import NoModelError
from station_helpers import failing
from tablet import API, Tablet, needs_chromium, tablet_at

pytestmark = needs_chromium

NOT_READY = NotReadyError("plate is not ready: challenge parts have not passed")
USED = KeyUsedError("request, inspection 4")
REFUSED: tuple[tuple[Exception, int, str], ...] = (
    (NOT_READY, 503, "challenge parts must be shown first"),
    (LateError("not judged in time"), 504, "not in time"),
    (StoreError("no space", "disk_full"), 507, "the disk is full"),
    (StoreError("away", "store_unreachable"), 503, "results cannot be stored"),
    (NoModelError(), 503, "no model is open"),
    (ModelError("the model failed"), 503, "the model failed"),
    (BusyError(3.0), 503, "more came than can be judged"),
    (AwayError("unplugged"), 503, "the camera is away"),
    (CameraFrozenError("it repeats"), 503, "the camera repeats a frame"),
    (NoFrameError("none"), 504, "the camera gave no picture"),
    (TooLargeError("large"), 422, "the picture is too large"),
    (USED, 409, "another request had its key"),
    (FlawscopeError("a bug"), 503, "the station could not judge it"),
)
# What a client sends, and what is said of it
WRONG: tuple[tuple[str, bytes, dict[str, str], int, str], ...] = (
    ("part=4711", b"no picture", {}, 422, "4711: the picture could not be read"),
    ("part=4711", b"", {}, 422, "4711: the picture was empty"),
    ("part=4711&deadline=soon", b"x", {}, 422, "4711: the request was wrong"),
    ("part=4711&colour=red", b"x", {}, 422, "4711: the request was wrong"),
    ("part=4711", bytes(9 * 1024**2), {}, 413, "4711: the request was too large"),
)


def band(tablet: Tablet) -> tuple[str, str, str]:
    """State, word, and what stands below it."""
    return (
        str(tablet.find("#band").get_attribute("data-state")),
        tablet.text("#word"),
        tablet.text("#since"),
    )


def shows(tablet: Tablet, state: str) -> Callable[[], bool]:
    return lambda: band(tablet)[0] == state


def open_on_good(tablet: Tablet, judged: tuple[bytes, bytes]) -> None:
    """Live, after a good part."""
    tablet.post(judged[0], "one.png")
    tablet.open("live")
    tablet.wait(shows(tablet, "good"))


def colour(tablet: Tablet) -> str:
    return str(tablet.js("return getComputedStyle(document.querySelector('#band')).backgroundColor"))


def test_a_part_that_is_refused_takes_the_place_of_a_good_one(tablet, judged, monkeypatch):
    """Until a part is judged, and also on a page that is opened later."""

    def show_good() -> None:
        tablet.post(judged[0], "good.png")
        tablet.wait(shows(tablet, "good"))

    tablet.open("live")
    for error, status, said in REFUSED:
        show_good()
        with monkeypatch.context() as patch:
            patch.setattr(tablet.station.inspector, "submit_all", failing(error))
            sent = tablet.http.post(f"{API}/inspections?part=4711", content=judged[0])
        assert sent.status_code == status
        tablet.wait(shows(tablet, "refused"))
        assert band(tablet) == ("refused", "Not judged", f"4711: {said}")
    assert colour(tablet) == "rgb(0, 0, 0)"
    tablet.open("live")
    tablet.wait(shows(tablet, "refused"))
    for query, data, headers, status, said in WRONG:
        show_good()
        assert (
            tablet.http.post(f"{API}/inspections?{query}", content=data, headers=headers).status_code
            == status
        )
        tablet.wait(shows(tablet, "refused"))
        assert band(tablet)[1:] == ("Not judged", said)
    show_good()
    assert tablet.http.post(f"{API}/trigger?seconds=never").status_code == 422
    tablet.wait(shows(tablet, "refused"))


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
    open_on_good(tablet, judged)
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
        open_on_good(tablet, judged)
        running.station.report(f"camera_frozen_{lid}_1", "why", stops=True)
        tablet.wait(lambda: "lid: The camera repeats the same picture" in tablet.text("#problem"))
        assert band(tablet)[0] == "good"
        tablet.open("history")
        assert "lid: The camera repeats the same picture" in tablet.text("#problem")


def test_after_a_time_without_a_part_the_band_says_so(tablet, judged):
    tablet.open("live")
    tablet.post(judged[0], "one.png")
    tablet.wait(shows(tablet, "good"))
    tablet.js("const now = Date.now; Date.now = () => now() + 61000")
    tablet.wait(shows(tablet, "idle"))
    assert band(tablet)[1] == "No part"
    assert band(tablet)[2].startswith("since ")


def test_what_was_judged_before_the_station_began_is_not_the_present_part(open_station, driver, judged):
    """Parts may have been refused since then, of which nobody knows any more."""
    first = open_station()
    with tablet_at(first, driver) as tablet:
        open_on_good(tablet, judged)
    first.close()
    with tablet_at(open_station(), driver) as tablet:
        tablet.open("live")
        tablet.wait(shows(tablet, "idle"))
        assert band(tablet)[1] == "No part"
        tablet.post(judged[0], "two.png")
        tablet.wait(shows(tablet, "good"))


@pytest.mark.parametrize(
    ("events", "state"),
    [  # in the order in which they come: refused, good, anomalous, given up (unanswered), and when they began
        *(("r5 g3", "refused"), ("r5 g5", "refused"), ("r5 g6", "good"), ("g3 r5", "refused")),
        *(("r5 r2 g3", "refused"), ("r2 r5 g3", "refused"), ("r5 a3", "refused"), ("r5 g3 g4", "refused")),
        *(("u5 g3", "refused"), ("u5 g6", "good"), ("r5 g6 g3", "good"), ("r5 g3 a6", "anomalous")),
    ],
)
def test_a_refusal_is_forgotten_by_what_began_later_alone(tablet, judged, events, state):
    open_on_good(tablet, judged)
    station, (last,) = tablet.station, tablet.http.get(f"{API}/inspections?limit=1").json()["inspections"]
    product, decisions = station.products["plate"], {"g": "good", "a": "anomalous", "u": "good"}
    for k, event in enumerate(events.split()):
        at = f"2999-01-01T00:00:0{event[1]}.000Z"
        if event[0] == "r":
            station.live.publish(product, {"at": at, "code": "failed", "part": None}, "refusal")
        else:
            given_up = "late" if event[0] == "u" else None
            item = {**last, "id": 900 + k, "at": at, "decision": decisions[event[0]], "unanswered": given_up}
            station.live.publish(product, {**item, "name": f"{k}.png"})
            tablet.wait(lambda k=k: f"{k}.png" in tablet.text("#name"))
    tablet.wait(shows(tablet, state))


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
