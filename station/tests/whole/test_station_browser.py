"""Live and review in a real browser: headless Chromium, by keys, mouse and finger."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from flawscope_station.settings.sources import CameraSourceSettings
from flawscope_station.settings.station import ProductSettings
from tablet import API, PHONE, SLATE, Tablet, needs_chromium, tablet_at

pytestmark = needs_chromium


@pytest.mark.smoke
def test_live_shows_what_comes(tablet, judged):
    good, bad = judged
    tablet.open("live")
    state = lambda: tablet.find("#band").get_attribute("data-state")  # noqa: E731
    assert (state(), tablet.text("#word")) == ("waiting", "Waiting")
    tablet.post(good, "one.png")
    tablet.wait(lambda: state() == "good")
    assert tablet.text("#word") == "Good"
    tablet.wait(lambda: tablet.js("return document.querySelector('#shown').naturalWidth") > 0)
    tablet.post(bad, "two.png")
    tablet.wait(lambda: state() == "anomalous")
    assert (tablet.text("#word"), tablet.text("#name")) == ("Defective", "two.png")
    mark = "getComputedStyle(document.querySelector('.band .mark.anomalous'))"
    assert tablet.js(f"return {mark}.display") != "none"
    size = tablet.js("return document.querySelector('#word').getBoundingClientRect().height")
    assert size >= 80  # letters of 15 mm on a tablet of ten inches: read from three metres
    assert [one.get_attribute("title") for one in tablet.all("#strip button")] == ["two.png", "one.png"]
    assert tablet.all("#bad .anomalous")
    assert tablet.find("#sound").get_attribute("aria-pressed") == "false"
    tablet.wait(lambda: tablet.text("#said") == "Defective: two.png")
    tablet.wait(lambda: tablet.text("#counts").endswith(": 2 parts, 1 defective"))
    for k in range(17):  # more than the strip has
        tablet.post(good, f"{k}.png")
    tablet.open("live")
    assert tablet.text("#counts").endswith(": 19 parts, 1 defective")
    assert tablet.find("#bad .anomalous").get_attribute("title") == "two.png"
    green = tablet.js("return getComputedStyle(document.querySelector('#band')).backgroundColor")
    red, lightness, blue = (int(one) for one in green[4:-1].split(","))
    assert lightness > max(red, blue)
    assert tablet.complaints() == []


def test_who_has_no_camera_yet_is_told_how_pictures_come_and_gives_them_from_files(tablet, judged, tmp_path):
    tablet.open("live")
    assert "/api/v1/products/plate/inspections" in tablet.text("#ways")
    for name, data in (("broken.png", b"no picture"), ("one.png", judged[0])):
        (tmp_path / name).write_bytes(data)
    tablet.find("#file").send_keys(str(tmp_path / "broken.png"))
    tablet.wait(lambda: tablet.text("#sent").startswith("That did not work: "))
    tablet.find("#file").send_keys(str(tmp_path / "one.png"))
    tablet.wait(lambda: tablet.text("#name") == "one.png")
    assert tablet.text("#sent") == "one.png: Good. It is kept in the history as a trial."
    assert (tablet.find("#band").get_attribute("data-state"), tablet.text("#word")) == ("held", "Trial")
    tablet.open("live")
    assert tablet.text("#name") == "", "it is no part of the line"
    tablet.open("history")
    assert "Tried by hand" in tablet.text("main .card")
    tablet.post(judged[0])
    tablet.open("live")
    assert not tablet.find("#ways").get_attribute("open")  # once one came, it is out of the way


def test_a_false_alarm_is_told_from_a_defect_in_the_row_of_the_last(tablet, judged):
    """As soon as a person says so, also elsewhere; it is no last defective part then."""
    good, bad = judged
    numbers = [
        tablet.post(data, name)["id"] for data, name in ((bad, "one.png"), (bad, "two.png"), (good, "c.png"))
    ]
    tablet.open("live")
    assert len(tablet.all("#strip button.anomalous")) == 2
    for number, verdict in ((numbers[1], "good"), (numbers[2], "defect")):
        tablet.http.post(f"{API}/inspections/{number}/verdict", json={"verdict": verdict}).raise_for_status()
    label = lambda number: tablet.find(f"#strip [data-id='{number}']").get_attribute("aria-label")  # noqa: E731
    tablet.wait(lambda: "False alarm" in label(numbers[1]))
    assert tablet.find(f"#strip [data-id='{numbers[1]}']").get_attribute("class") == "tile-button good"
    tablet.open("live")
    assert "False alarm" in label(numbers[1])
    assert "Missed defect" in label(numbers[2])
    assert tablet.find("#bad button").get_attribute("title") == "c.png"
    assert tablet.complaints() == []


def test_a_picture_can_be_held(tablet, judged):
    good, bad = judged
    tablet.post(bad, "one.png")
    tablet.open("live")
    tablet.press("h")
    tablet.post(good, "two.png")
    tablet.wait(lambda: tablet.text("#held") == "Held. 1 newer picture.")
    assert tablet.text("#name") == "one.png"
    assert tablet.find("#band").get_attribute("data-state") == "held"
    tablet.press("h")
    assert tablet.text("#name") == "two.png"
    tablet.click("#strip li:last-child button")
    assert tablet.text("#name") == "one.png"
    assert tablet.find("#hold").get_attribute("aria-pressed") == "true"


def test_a_lost_station_is_shown_and_what_was_missed_comes(open_station, driver, judged):
    good, bad = judged
    first = open_station()
    port = int(first.url.rpartition(":")[2])
    with tablet_at(first, driver) as tablet:
        tablet.post(good, "one.png")
        tablet.open("live")
        tablet.wait(lambda: tablet.find("#band").get_attribute("data-state") == "good")
        first.close()
        tablet.wait(lambda: tablet.find("#band").get_attribute("data-state") == "lost")
        assert tablet.text("#word") == "No connection"
        assert tablet.find("#lost").is_displayed()
        second = open_station(port=port)
        tablet.post(bad, "two.png")
        tablet.wait(lambda: tablet.find("#band").get_attribute("data-state") == "anomalous")
        assert tablet.text("#name") == "two.png"
        assert not tablet.find("#lost").is_displayed()
        second.station.report("store_unreachable", None)
        second.station.report("camera_away_1_1", "rtsp://10.0.0.7 is away")
        tablet.wait(lambda: "A camera sends no pictures" in tablet.text("#problem"))
        assert tablet.find("#problem").is_displayed()


def test_a_camera_that_is_away_is_seen_from_afar(open_station, settings, driver, judged):
    """In the band, in the problem line and in the list; other pictures do not hide it."""
    model, camera = settings.products["plate"].model, CameraSourceSettings("rtsp://127.0.0.1:9/stream")
    running = open_station(products={"plate": ProductSettings(model, sources=(camera,))})
    with tablet_at(running, driver) as tablet:
        tablet.open("live")
        tablet.wait(lambda: tablet.find("#band").get_attribute("data-state") == "away")
        assert tablet.text("#word") == "Camera away"
        assert "camera1 is away" in tablet.text("#sources")
        tablet.wait(lambda: "A camera sends no pictures" in tablet.text("#problem"))
        tablet.post(judged[0], "sent.png")
        tablet.wait(lambda: tablet.text("#name") == "sent.png")
        assert tablet.find("#band").get_attribute("data-state") == "away"
        assert tablet.unfit(PHONE, SLATE) == []


def ready(tablet: Tablet, name: str) -> None:
    """The picture is seen."""
    tablet.wait(
        lambda: tablet.text("#name") == name and tablet.js("return document.querySelector('#layers img')")
    )


def stored(tablet: Tablet) -> None:
    tablet.wait(lambda: tablet.js("return document.documentElement.dataset.unsent") == "0")


@pytest.mark.parametrize("size", [(1400, 900), (390, 844)])
def test_problems_leave_the_two_buttons_in_sight(tablet, judged, size):
    station = tablet.station
    station.report("folder_away_1", "/srv/line3/station/incoming cannot be read " + "for long " * 40)
    station.report("camera_away_1_1", "rtsp://10.0.0.7 is away")
    station.report("sink_1_1", "http://10.0.0.8 does not answer")
    tablet.post(judged[1])
    tablet.screen(*size)
    tablet.open("review")
    ready(tablet, "part.png")
    tablet.wait(lambda: tablet.text("#problem").startswith("3 problems"))
    for name in ("good", "defect", "problem"):
        box = tablet.find(f"#{name}").rect
        seen = tablet.js(
            """const {x, y, width, height} = document.getElementById(arguments[0]).getBoundingClientRect();
            const on = (a, b) => document.elementFromPoint(x + a * width, y + b * height)?.closest("[id]").id;
            return [x >= 0, y >= 0, x + width <= innerWidth, y + height <= innerHeight,
                    on(.1, .1) === arguments[0], on(.9, .9) === arguments[0]].every(Boolean)""",
            name,
        )
        assert seen, f"#{name} is not in sight: {box}"
    tablet.click("#problem")
    tablet.wait(lambda: len(tablet.all("main article")) == 3)


def test_review_by_keys(tablet, judged):
    numbers = [tablet.post(judged[1], f"{k}.png")["id"] for k in range(4)]
    tablet.open("review")
    for key, name in (("g", "0.png"), ("d", "1.png"), ("s", "2.png")):
        ready(tablet, name)
        if key == "g":
            tablet.press("n", "gdszb", Keys.ESCAPE)  # a note is no verdict
        tablet.press(key)
    ready(tablet, "3.png")
    stored(tablet)
    found = [tablet.known(number) for number in numbers]
    assert [one["verdict"] for one in found] == ["good", "defect", None, None]
    assert [one["review"] for one in found] == ["done", "done", "skipped", "waiting"]
    assert found[0]["note"] == "gdszb"
    assert tablet.text("#left") == "1 left"
    tablet.press("z", "z")
    ready(tablet, "1.png")
    stored(tablet)
    assert [tablet.known(number)["review"] for number in numbers] == ["done", "waiting", "waiting", "waiting"]
    assert tablet.known(numbers[1])["verdict"] is None
    for _ in range(3):
        tablet.wait(lambda: tablet.js("return document.querySelector('#layers img')"))
        tablet.press("d")
    tablet.wait(lambda: tablet.find("#end").is_displayed())
    stored(tablet)
    assert [tablet.known(number)["verdict"] for number in numbers] == ["good", "defect", "defect", "defect"]
    assert tablet.complaints() == []


@pytest.mark.parametrize("screen", [(1400, 900), (1024, 768), (390, 844)])
def test_a_picture_to_review_fills_the_field(tablet, judged, screen):
    """And *Larger* shows what was marked, not an empty field."""
    tablet.screen(*screen)
    number = tablet.post(judged[1])["id"]
    tablet.open(f"review?only={number}")
    ready(tablet, "part.png")
    tablet.wait(lambda: tablet.js("return document.querySelector('#layers img.found')"))
    assert tablet.find("#note").is_displayed(), "a note can be written on any screen"
    field, picture = tablet.find("#view").rect, tablet.find("#layers img.found").rect
    assert field["height"] > screen[1] * 0.4
    assert (picture["width"], picture["height"]) == pytest.approx((field["width"], field["height"]), abs=2)
    marked = tablet.known(number)["regions"][0]["centroid"]
    size = tablet.known(number)["width"]  # the picture is square
    tablet.click("#zoom")
    layer = tablet.find("#layers").rect
    side = min(layer["width"], layer["height"])
    corner = layer["x"] + (layer["width"] - side) / 2, layer["y"] + (layer["height"] - side) / 2
    x, y = (corner[k] + side * marked[k] / size for k in range(2))
    assert side > 2.4 * min(field["width"], field["height"])
    assert field["x"] < x < field["x"] + field["width"]
    assert field["y"] < y < field["y"] + field["height"]


def test_counts_are_right_at_once_and_after_a_reload(tablet, judged):
    for k in range(3):
        tablet.post(judged[1], f"{k}.png")
    tablet.open("review")
    for name in ("0.png", "1.png"):
        ready(tablet, name)
        assert not tablet.find("#end").is_displayed()
        tablet.press("g")
    assert (tablet.text("#left"), tablet.text("#waiting span")) == ("1 left", "1")
    stored(tablet)
    tablet.open("review")
    ready(tablet, "2.png")
    tablet.wait(lambda: tablet.text("#left") == "1 left")
    assert tablet.text("#done") == "2 done"
    tablet.press("g")
    tablet.wait(lambda: tablet.text("#end-title") == "Nothing to review")
    assert not tablet.find("#waiting").is_displayed()


def mask_of(tablet: Tablet, number: int) -> NDArray[np.bool_]:
    sent = tablet.http.get(f"{API}/inspections/{number}/mask").content
    return np.asarray(Image.open(io.BytesIO(sent)).convert("L")) > 0


def brush(tablet: Tablet, picture: bytes) -> int:
    """Begin an outline on an empty canvas; the number of the inspection."""
    number = int(tablet.post(picture)["id"])
    tablet.open(f"review?only={number}")
    ready(tablet, "part.png")
    tablet.press("b")
    tablet.wait(lambda: tablet.find("#canvas").is_displayed())
    tablet.click("#clear")
    return number


def test_an_outline_is_painted_and_stored(tablet, judged):
    number = brush(tablet, judged[1])
    canvas = tablet.find("#canvas")
    side = min(canvas.size["width"], canvas.size["height"])  # the picture is square
    painted = ActionChains(tablet.driver, duration=50)
    painted.move_to_element_with_offset(canvas, -side // 4, 0).click_and_hold()
    painted.move_to_element_with_offset(canvas, side // 4, 0).release().perform()
    tablet.press("e")
    erased = ActionChains(tablet.driver, duration=50)
    erased.move_to_element_with_offset(canvas, 0, -10).click_and_hold()
    erased.move_by_offset(0, 20).release().perform()
    tablet.press("d")
    stored(tablet)
    found = tablet.known(number)
    assert (found["verdict"], found["has_mask"]) == ("defect", True)
    mask = mask_of(tablet, number)
    middle, quarter = mask.shape[1] // 2, mask.shape[1] // 4
    row = mask[mask.shape[0] // 2]
    assert row[[quarter, quarter + 10, 3 * quarter - 10, 3 * quarter]].all()
    assert not row[[middle, 2, -3]].any()
    assert mask.mean() < 0.2


def test_a_finger_and_keys_paint_too(tablet, judged):
    number = brush(tablet, judged[1])
    box = tablet.find("#canvas").rect
    at = {"x": round(box["x"] + box["width"] / 2), "y": round(box["y"] + box["height"] / 4)}
    for kind, points in (("touchStart", [at]), ("touchMove", [{**at, "y": at["y"] + 20}]), ("touchEnd", [])):
        tablet.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    tablet.js("document.querySelector('#canvas').focus()")
    tablet.press(" ")
    tablet.click("#defect")
    tablet.wait(lambda: tablet.find("#end").is_displayed())
    stored(tablet)
    mask = mask_of(tablet, number)
    height, width = mask.shape
    assert mask[height // 4 + 1, width // 2]  # the finger's
    assert mask[height // 2, width // 2]  # the key's
    assert 0 < mask.mean() < 0.2


def test_no_verdict_goes_with_the_line(open_station, driver, judged):
    first = open_station()
    port = int(first.url.rpartition(":")[2])
    with tablet_at(first, driver) as tablet:
        numbers = [tablet.post(judged[1], f"{k}.png")["id"] for k in range(4)]
        tablet.open("review")
        ready(tablet, "0.png")
        tablet.wait(lambda: tablet.js("return performance.getEntriesByType('resource').length") > 10)
        first.close()
        tablet.press("g")
        ready(tablet, "1.png")
        tablet.press("d")
        tablet.wait(lambda: tablet.find("#unsent").is_displayed())
        tablet.wait(lambda: tablet.text("#unsent span").startswith("2 verdicts are not stored yet"))
        open_station(port=port)
        tablet.wait(lambda: not tablet.find("#unsent").is_displayed())
        stored(tablet)
        assert [tablet.known(number)["verdict"] for number in numbers] == ["good", "defect", None, None]


def test_the_kind_of_a_defect_is_named(tablet, judged):
    number = tablet.post(judged[1])["id"]
    tablet.open(f"inspections/{number}")
    tablet.find("#kind").send_keys("gouged")  # its letters are no verdicts
    assert tablet.known(number)["verdict"] is None
    tablet.click("[data-verdict=defect]")
    tablet.wait(lambda: tablet.known(number)["verdict"] == "defect")
    assert tablet.known(number)["kind"] == "gouged"
    tablet.wait(lambda: tablet.text("#said") == "The verdict is stored.")
    assert tablet.find("#kind").get_attribute("value") == "gouged"
    tablet.click("[data-verdict=good]")
    tablet.wait(lambda: tablet.known(number)["verdict"] == "good")
    assert tablet.known(number)["kind"] is None
    assert tablet.complaints() == []


def test_two_windows_review_different_parts_and_the_later_verdict_is_a_question(tablet, judged):
    """Seven parts wait; a part whose lease has ended is decided by both."""
    numbers = [tablet.post(judged[1], f"{k}.png")["id"] for k in range(7)]
    tablet.open("review")
    ready(tablet, "0.png")
    first = tablet.driver.current_window_handle
    tablet.station.records._leases.release(tablet.js("return sessionStorage.getItem('reader')"))
    tablet.driver.switch_to.new_window("tab")
    try:
        tablet.open("review")
        ready(tablet, "0.png")
        tablet.press("d")
        stored(tablet)
        tablet.driver.switch_to.window(first)
        ready(tablet, "0.png")
        tablet.press("g")
        tablet.wait(lambda: tablet.text("#refused span") == "0.png: Another window said “Defect” meanwhile.")
        assert tablet.known(numbers[0])["verdict"] == "defect"
        keep, replace = tablet.all("#refused button")
        assert (keep.text, replace.text) == ("Keep that", "Replace it by “Good”")
        tablet.click("#refused button:last-child")
        stored(tablet)
        tablet.wait(lambda: tablet.known(numbers[0])["verdict"] == "good")
        assert not tablet.find("#refused").is_displayed()
        tablet.open("review")
        shown = tablet.wait(lambda: tablet.text("#name"))
        tablet.driver.switch_to.window(tablet.driver.window_handles[-1])
        assert tablet.wait(lambda: tablet.text("#name")) != shown
        assert all("409 (Conflict)" in one for one in tablet.complaints())
    finally:
        for handle in tablet.driver.window_handles[1:]:
            tablet.driver.switch_to.window(handle)
            tablet.driver.close()
        tablet.driver.switch_to.window(first)


def test_eight_tabs_of_live_in_one_browser_are_all_live(tablet, judged):
    """A browser has six connections to a station: the tabs share one stream, and those in the background give
    theirs back."""
    good, bad = judged
    first = tablet.driver.current_window_handle
    tablet.open("live")
    try:
        for _ in range(7):
            tablet.driver.switch_to.new_window("tab")
            tablet.open("live")
        for n, handle in enumerate(reversed(tablet.driver.window_handles)):
            tablet.driver.switch_to.window(handle)
            tablet.post(bad if n % 2 else good, f"{n}.png")
            tablet.wait(lambda n=n: tablet.text("#name") == f"{n}.png")
            tablet.wait(
                lambda n=n: (
                    tablet.text("#counts").startswith("Since") and f": {n + 1} part" in tablet.text("#counts")
                )
            )
            assert tablet.find("#band").get_attribute("data-state") == ("anomalous" if n % 2 else "good")
        assert tablet.station.live.listeners <= 2, "one of all tabs, and one that is just left"
        tablet.wait(lambda: tablet.station.live.listeners == 1)
        assert tablet.complaints() == []
    finally:
        for handle in tablet.driver.window_handles:
            if handle != first:
                tablet.driver.switch_to.window(handle)
                tablet.driver.close()
        tablet.driver.switch_to.window(first)


def test_what_could_not_be_judged_is_named_and_the_picture_below_is_called_another_one(tablet, judged):
    tablet.post(judged[0], "one.png")
    tablet.open("live")
    assert tablet.text("#now") == "This picture"
    tablet.http.post(f"{API}/inspections", params={"name": "half.png"}, content=b"no picture")
    tablet.wait(lambda: tablet.find("#band").get_attribute("data-state") == "refused")
    assert tablet.text("#since") == "half.png: the picture could not be read"
    assert (tablet.text("#now"), tablet.text("#name")) == ("Last judged picture", "one.png")
